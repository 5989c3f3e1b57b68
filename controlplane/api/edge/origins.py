"""Whose page sent a request: the console's, or any other. And the cookie by which the console's pages are admitted.

A browser sends cookies along with whatever page asks, so the cookie alone opens nothing. A request must carry the
header `Sandlot-Console: 1`, which no form, image or link can send, and no page of another origin without our leave.
Where the browser says which page it was (`Origin`, `Sec-Fetch-Site`), that must be one of ours; a WebSocket, which
cannot carry the header, must say so. Even then the cookie opens the API and the agent's endpoint, and never a service
in a sandbox.
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.types import Scope

from controlplane.access.scopes import Caller
from controlplane.access.sign_ins import SignIns
from controlplane.api.edge.addresses import EGRESS_PORT, EXECD_PORT, SCOPE_KEY

CONSOLE_HEADER = "Sandlot-Console"
COOKIE = "sandlot-console"
SECURE_COOKIE = f"__Host-{COOKIE}"  # over https; no page of another host can set one of that name
MAX_COOKIES = 8  # of our name in one request that are looked at: each costs a hash

_OUR_COOKIE = re.compile(rf"(?:__Host-)?{COOKIE}(?:-\d+)?", re.ASCII)
# What the cookie opens below a sandbox's address: all but ports that are not ours, also by way of the agent's.
_PORT_PATH = re.compile(r"/v1/sandboxes/[^/]+/(?:proxy/(?P<port>[^/]*)(?P<through>/proxy(?:/|$))?|signed(?:/|$))")
_OUR_PORTS = frozenset({str(EXECD_PORT), str(EGRESS_PORT)})
_LOOPBACK = re.compile(r"//(?:127\.[\d.]+|0\.0\.0\.0|\[::1?\])(?=:\d+$|$)", re.ASCII)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def host_of(scope: Scope) -> str:
    """Return host[:port] as the browser knows it: what a trusted proxy says, or the request."""
    headers = Headers(raw=scope["headers"])
    told = headers.get("x-forwarded-host", "").partition(",")[0].strip() or headers.get("host", "")
    return told.lower().removesuffix(_DEFAULT_PORTS[scheme_of(scope)])


def scheme_of(scope: Scope) -> str:
    """Return `http` or `https`, also of a WebSocket."""
    return "https" if scope["scheme"] in ("https", "wss") else "http"


def own_origin(scope: Scope) -> str:
    """Return the origin of the server's own pages, at the address by which the request came."""
    return f"{scheme_of(scope)}://{host_of(scope)}"


def by_name(origin: str) -> str:
    """Return an origin for people: at `localhost` instead of a loopback address of this machine.

    Names below localhost are the sandboxes' ports, and a browser keeps one sign-in for each name of a server.
    """
    return _LOOPBACK.sub("//localhost", origin)


def is_own_page(scope: Scope) -> bool:
    """Return whether a request came from one of the server's own pages, as far as the browser says."""
    own, headers = own_origin(scope), Headers(raw=scope["headers"])
    origins = headers.getlist("origin")
    if scope["type"] == "websocket" and not origins:
        return False
    sites = headers.getlist("sec-fetch-site")
    return all(origin.lower() == own for origin in origins) and all(site == "same-origin" for site in sites)


def why_foreign(scope: Scope) -> str:
    """Return a sentence for a request that came from another page."""
    origin = Headers(raw=scope["headers"]).get("origin", "")
    return (
        f"this is for the pages of {own_origin(scope)[:200]} alone, and came from "
        f"{origin[:200] or 'another origin'}; behind a proxy, name it in [server] trusted_proxies, and let it pass the "
        "browser's host and scheme on (X-Forwarded-Host, X-Forwarded-Proto)"
    )


# -- the cookie ----------------------------------------


def cookie_name(scope: Scope) -> str:
    """Return the name of the cookie. It has the port: cookies of a host reach the servers of all its ports."""
    port = re.search(r":(\d+)$", host_of(scope), re.ASCII)
    base = SECURE_COOKIE if scheme_of(scope) == "https" else COOKIE
    return f"{base}-{port[1]}" if port else base


def is_our_cookie(name: str) -> bool:
    """Return whether a cookie of that name is the console's, of this server or another."""
    return _OUR_COOKIE.fullmatch(name.strip()) is not None


def without_our_cookies(header: bytes) -> bytes:
    """Return a `Cookie` header for a service in a sandbox, which must not see the console's."""
    if COOKIE.encode() not in header:
        return header
    kept = (pair for pair in header.split(b";") if not is_our_cookie(pair.partition(b"=")[0].decode("latin-1")))
    return b";".join(kept).strip()


def tokens_of(scope: Scope) -> list[str]:
    """Return the different values of the console's cookie in a request."""
    headers = [value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"]
    if not any(COOKIE in header for header in headers):
        return []
    name = cookie_name(scope)
    pairs = (pair.partition("=") for header in headers for pair in header.split(";"))
    return list(dict.fromkeys(text.strip() for key, _, text in pairs if key.strip() == name))[:MAX_COOKIES]


class ConsoleCookies:
    """Finds out who has signed in at the console."""

    def __init__(self, sign_ins: SignIns, *, is_on: bool) -> None:
        """Admit nobody unless the console *is_on*."""
        self._sign_ins = sign_ins
        self._is_on = is_on

    def caller(self, scope: Scope) -> Caller | None:
        """Return who signed in, if a page of the console sent the request, and the cookie opens what it asks for."""
        if not self._speaks(scope) or not _is_opened(scope) or not is_own_page(scope):
            return None
        known = self._known(scope)
        return known[0] if len(known) == 1 else None

    def why_not(self, scope: Scope) -> tuple[int, str, str] | None:
        """Return status, code and message for a console's request that is refused; None: it is not the console's."""
        if not self._speaks(scope) or not _is_opened(scope):
            return None
        if not is_own_page(scope):
            return 403, "FOREIGN_ORIGIN", why_foreign(scope)
        if self._known(scope):
            message = "there are two sign-ins: another site of this domain has set a cookie; clear the cookies"
            return 401, "SIGN_IN_AMBIGUOUS", message
        return 401, "SIGN_IN_ENDED", "the sign-in has ended, or is not of this server; sign in again"

    def _known(self, scope: Scope) -> list[Caller]:
        # Another site of the same domain may set a cookie beside ours: a wrong one is ignored, and never replaces ours.
        return list(filter(None, map(self._sign_ins.caller, tokens_of(scope))))

    def _speaks(self, scope: Scope) -> bool:
        """Return whether the console seems to ask: there is its cookie, and its header where a page can send one."""
        if not self._is_on or not tokens_of(scope):
            return False
        return scope["type"] == "websocket" or has_console_header(scope)


def has_console_header(scope: Scope) -> bool:
    """Return whether a request has the header that no form can send."""
    return Headers(raw=scope["headers"]).get(CONSOLE_HEADER) == "1"


def _is_opened(scope: Scope) -> bool:
    """Return whether the cookie opens an address: the API, and what the agent and the sidecar answer themselves."""
    if SCOPE_KEY in scope or not scope["path"].startswith("/v1/"):
        return False  # a host name of a port, or a signed address
    place = _PORT_PATH.match(scope["path"])
    return place is None or (place["port"] in _OUR_PORTS and not place["through"])
