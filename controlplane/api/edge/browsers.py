"""What browsers need: answers for pages of other origins (CORS), and an origin of its own for a sandbox's page.

Everything at a path address has the origin of the API and of all other sandboxes. The page of a sandbox is written by
code that nobody has reviewed, so at a path address it gets an opaque origin (`Content-Security-Policy: sandbox`), and a
browser that can open the port by a host name is sent there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.api.edge.addresses import Address, address_of, port_of, signed_label
from controlplane.api.edge.auth import carries_secret
from controlplane.api.edge.origins import CONSOLE_HEADER

MAX_AGE_S = 600  # a browser remembers the answer to a preflight for so long
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
# All may be read; the names are for browsers that do not know the star.
EXPOSED = b"*, X-Request-ID, EXECD-COMMANDS-TAIL-CURSOR, Location, Content-Disposition, Content-Range, Retry-After"
# Not among them: `allow-same-origin`; `allow-modals`, whose dialogs would speak in the name of this server; and
# `allow-popups-to-escape-sandbox`, so that no page that it opens has more than it has.
SANDBOXED = (
    (b"content-security-policy", b"sandbox allow-downloads allow-forms allow-popups allow-scripts"),
    (b"x-content-type-options", b"nosniff"),
)

_ALLOW_ORIGIN = b"access-control-allow-origin"
_LOOPBACK = re.compile(r"(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?", re.ASCII | re.IGNORECASE)
# These resolve names below localhost by themselves, whatever the system does.
_RESOLVES_LOCALHOST = re.compile(r"(?:Chrome|Chromium|Firefox)/")


class Cors:
    """ASGI middleware: answers the preflights of browsers, and tells them which pages may read an answer.

    Credentials are never allowed, nor the header without which the console's cookie opens nothing (`origins.py`): what
    a page of another origin reads, it reads with a key of its own. Where a service behind a port speaks about origins
    itself, its word counts.
    """

    def __init__(self, app: ASGIApp, *, origins: Sequence[str], isolate_pages: bool) -> None:
        """Allow *origins*, in the form of `[server] allowed_origins`. For *isolate_pages*, see `Pages`."""
        self._app = app
        self._is_open = "*" in origins
        self._allowed = re.compile("|".join(map(_pattern, origins)) or r"(?!)", re.IGNORECASE)
        self._isolate_pages = isolate_pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        headers = Headers(raw=scope["headers"]) if scope["type"] == "http" else Headers()
        origin = headers.get("origin")
        if origin is None or not (value := self._answer(scope, origin)):
            await self._app(scope, receive, send if self._is_open else _varying(send))
            return
        is_own_page = self._is_own_page(scope, origin)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            permission = _permission(value, headers)
            if is_own_page or not (address_of(scope).signature or carries_secret(scope["headers"])):
                await permission(scope, receive, send)  # a preflight never carries a key
            else:
                await self._app(scope, receive, _Fallback(permission, scope, receive, send))
            return

        async def send_with_origin(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _with_origin(message.get("headers", ()), value, overrule=is_own_page)
            await send(message)

        await self._app(scope, receive, send_with_origin)

    def _answer(self, scope: Scope, origin: str) -> str:
        """Return what `Access-Control-Allow-Origin` is to say, "" if the page may not read."""
        if self._is_open or self._is_own_page(scope, origin):
            return "*"
        return origin if self._allowed.fullmatch(origin) else ""

    def _is_own_page(self, scope: Scope, origin: str) -> bool:
        """Return whether the origin may be the isolated page itself, which is foreign to its own service."""
        address = address_of(scope)
        return self._isolate_pages and origin == "null" and bool(address.signature and address.prefix)


class _Fallback:
    """Passes a service's answer to a preflight on, or answers instead of a service that does not know of origins."""

    def __init__(self, answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
        self._answer = answer
        self._scope, self._receive, self._send = scope, receive, send
        self._is_replaced = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not _speaks_of_origins(message.get("headers", ())):
            self._is_replaced = True
            await self._answer(self._scope, self._receive, self._send)
        elif not self._is_replaced:
            await self._send(message)


class Pages:
    """ASGI middleware behind authentication: keeps the pages of sandboxes apart from the API and from each other."""

    def __init__(self, app: ASGIApp, *, domain: str, isolate: bool) -> None:
        """Send pages to names below *domain*, host[:port]; "": below localhost only."""
        self._app = app
        self._domain = domain
        self._isolate = isolate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if not (self._isolate and scope["type"] == "http" and port_of(scope) and (address := address_of(scope)).prefix):
            await self._app(scope, receive, send)
            return
        if address.signature and (elsewhere := self._elsewhere(scope, address)):
            await Response(status_code=307, headers={"Location": elsewhere})(scope, receive, send)
            return

        async def send_isolated(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *SANDBOXED]
            await send(message)

        await self._app(scope, receive, send_isolated)

    def _elsewhere(self, scope: Scope, address: Address) -> str:
        """Return the same by host name, for a browser that opens a page at a signed path; "" if it has to stay."""
        headers = Headers(raw=scope["headers"])
        place = port_of(scope)
        if place is None or scope["method"] not in ("GET", "HEAD") or not _is_navigation(headers):
            return ""
        domain = self._domain
        if not domain:
            local = _LOOPBACK.fullmatch(headers.get("host", ""))
            if local is None or not _RESOLVES_LOCALHOST.search(headers.get("user-agent", "")):
                return ""
            domain = f"localhost{local[1] or ''}"
        sandbox_id, port, rest = place
        return f"//{signed_label(sandbox_id, port, address.expires, address.signature)}.{domain}{rest or '/'}"


def _is_navigation(headers: Headers) -> bool:
    """Return whether a browser will show the answer as a page. Over http, some origins do not get the mode."""
    mode = headers.get("sec-fetch-mode")
    return mode == "navigate" if mode else headers.get("accept", "").startswith("text/html")


def _pattern(origin: str) -> str:
    """Turn an allowed origin into a regular expression. A star stands for names, or for a port."""
    if origin == "*":
        return ".*"
    return re.escape(origin).replace(r"://\*", r"://[a-z0-9._-]+").replace(r":\*", r":\d{1,5}")


def _permission(origin: str, headers: Headers) -> Response:
    """Return the answer to a preflight."""
    answer = {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": _allowed_headers(headers),
        "Access-Control-Max-Age": str(MAX_AGE_S),
        "Vary": "Origin, Access-Control-Request-Headers",
    }
    return Response(status_code=204, headers=answer)


def _allowed_headers(headers: Headers) -> str:
    """Return what a page asks for, without the header of the console; never a star, which would include that."""
    asked = headers.get("access-control-request-headers", "").split(",")
    return ",".join(name for name in asked if name.strip().lower() != CONSOLE_HEADER.lower()) or "Accept"


def _varying(send: Send) -> Send:
    """Tell caches that another origin may get another answer, also where this one gets none."""

    async def send_varying(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"vary", b"Origin")]
        await send(message)

    return send_varying


def _speaks_of_origins(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == _ALLOW_ORIGIN for name, _ in headers)


def _with_origin(headers: Iterable[tuple[bytes, bytes]], origin: str, *, overrule: bool) -> list[tuple[bytes, bytes]]:
    headers = list(headers)
    if _speaks_of_origins(headers):
        if not overrule:
            return headers
        headers = [(name, value) for name, value in headers if not name.lower().startswith(b"access-control-allow-")]
    headers.append((_ALLOW_ORIGIN, origin.encode("latin-1")))
    headers.append((b"access-control-expose-headers", EXPOSED))
    if origin != "*":
        headers.append((b"vary", b"Origin"))
    return headers
