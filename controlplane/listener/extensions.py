"""The agreement between the listener and an application: names in `scope["extensions"]`, and headers of proxies."""

import re

# A function by which the application reports the bytes that it keeps of a request's body or a WebSocket's messages.
HOLD = "sandlot.hold"
# The application's id of a request. The listener's own answer to the request repeats this id.
REQUEST_ID = "sandlot.request_id"
# The headers by which proxies describe their client: X-Forwarded-*, X-Real-IP, and RFC 7239's header. CGI and WSGI take
# X_Forwarded_For for X-Forwarded-For. The listener keeps only those of trusted proxies.
FORWARDED = re.compile(rb"x[-_]forwarded[-_].*|x[-_]real[-_]ip|forwarded", re.DOTALL)
