"""Exit with 0 if the server in this container answers, and its engine too: the image's health check."""

import os
import sys
import urllib.error
import urllib.request

PORT = os.environ.get("SANDLOT_SERVER_PORT") or "8194"

try:
    urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=12).close()
except (OSError, urllib.error.URLError) as error:
    sys.exit(f"{error}")
