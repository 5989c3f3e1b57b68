"""The pages of the console, and what their policy lets them do.

The policy admits scripts from `/console/assets/` alone: everything else at this origin, such as what a service in a
sandbox sends at a path address, is no script of the console. No page may be framed, and none may send a form.
"""

from __future__ import annotations

import asyncio
import re
from importlib.metadata import version

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from controlplane.api.edge.auth import PAGES
from controlplane.api.edge.bodies import json_answer
from controlplane.api.edge.origins import own_origin
from controlplane.api.edge.problems import flat
from controlplane.console.files import PageFile, PageFiles

FRAME = "frame"  # below PAGES: an empty page, into which the console writes a result
# What `require-trusted-types-for` lets make HTML of text; Svelte's, and ours for what has been cleaned.
TRUSTED_TYPES = "svelte-trusted-html sandlot"
SEE_OTHER = 303
NOT_BUILT = (
    "The console's pages are not built yet.\n\n"
    "`sandlot images build console` builds them; the server need not be restarted."
)
# A host with a name or an IPv4 address. Policies know no IPv6 addresses, and nothing else may stand in one.
_PLAIN_ORIGIN = re.compile(r"https?://[a-z0-9._-]+(?::\d{1,5})?", re.ASCII)

# The page that shows one result. Its origin is opaque wherever it is opened, and it reaches no host. It tells its
# parent that it is there (`{ready}`), takes one message from the parent (`{html}`), and tells the height that the
# result needs (`{height}`, in pixels).
_FRAME_PAGE = b"""<!doctype html><meta charset="utf-8"><script>
addEventListener("message", (event) => {
  if (event.source !== parent || parent === self) return;
  document.open();
  document.write(event.data.html);
  document.close();
  const tell = () => parent.postMessage({height: document.documentElement.offsetHeight}, "*");
  new ResizeObserver(tell).observe(document.documentElement);
}, {once: true});
parent.postMessage({ready: true}, "*");
</script>"""
_FRAME_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval' blob: data:; "
    "style-src 'unsafe-inline' data:; img-src data: blob:; font-src data:; media-src data: blob:; worker-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
_FRAME_HEADERS = {
    "Content-Security-Policy": _FRAME_POLICY,
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-DNS-Prefetch-Control": "off",  # a name that is looked up may carry a message too
}
_ALWAYS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


class Welcome(msgspec.Struct, frozen=True):
    """The answer of `/` to a program: where things are."""

    name: str
    version: str
    console: str  # "" if it is off
    api: str
    health: str


class ConsolePages:
    """The ASGI application below `/console`."""

    def __init__(self, files: PageFiles) -> None:
        self._files = files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            await (await self._answer(scope))(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope) -> Response:
        if scope["method"] not in ("GET", "HEAD"):
            return flat(405, "METHOD_NOT_ALLOWED", "pages are read only", {"Allow": "GET, HEAD"})
        name = scope["path"].removeprefix(PAGES)
        if not name:
            return RedirectResponse(f"{PAGES}/", SEE_OTHER)
        if name == f"/{FRAME}":
            return Response(_FRAME_PAGE, headers=_FRAME_HEADERS, media_type="text/html")
        file = self._files.find(name.removeprefix("/"), packed=_takes_gzip(scope))
        if file is None:
            return self._nothing()
        try:
            content = await asyncio.to_thread(file.read)
        except FileNotFoundError:  # the pages are being built anew
            return self._nothing()
        return Response(content, headers=_headers(file, own_origin(scope)), media_type=file.media_type)

    def _nothing(self) -> Response:
        if self._files.are_built:
            return flat(404, "NOT_FOUND", "there is no such file", _ALWAYS)
        return Response(NOT_BUILT, 503, {"Retry-After": "5", "Refresh": "5", **_ALWAYS}, media_type="text/plain")


def page_route(files: PageFiles) -> Mount:
    """Return the route of the pages, and of their folder without its slash."""
    route = Mount(PAGES, ConsolePages(files))
    route.path_regex = re.compile(rf"^{PAGES}(?P<path>|/.*)$", re.DOTALL)
    return route


class Root:
    """The endpoint of `/`."""

    def __init__(self, *, has_console: bool) -> None:
        self._console = f"{PAGES}/" if has_console else ""

    async def welcome(self, request: Request) -> Response:
        """Return where things are; send a browser to the console (303)."""
        headers = {"Vary": "Accept"}
        if self._console and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(self._console, SEE_OTHER, headers)
        return json_answer(Welcome("Sandlot", version("sandlot"), self._console, "/v1", "/health"), headers=headers)


def policy(origin: str) -> str:
    """Return the Content-Security-Policy of the console's pages, at that origin of theirs.

    Styles may be inline: the editor and the terminal of the pages write style elements.
    """
    is_plain = _PLAIN_ORIGIN.fullmatch(origin) is not None
    scripts, frames = (f"{origin}{PAGES}/{name}" if is_plain else "'self'" for name in ("assets/", FRAME))
    sockets = f" {origin.replace('http', 'ws', 1)}" if is_plain else ""
    return (
        f"default-src 'none'; script-src {scripts}; style-src {scripts} 'unsafe-inline'; img-src 'self' data: blob:; "
        f"font-src {scripts}; connect-src 'self'{sockets}; manifest-src 'self'; worker-src {scripts}; "
        f"frame-src {frames}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; "
        f"require-trusted-types-for 'script'; trusted-types {TRUSTED_TYPES}"
    )


def _headers(file: PageFile, origin: str) -> dict[str, str]:
    headers = {
        **_ALWAYS,
        "Cache-Control": "public, max-age=31536000, immutable" if file.is_asset else "no-cache",
        "Vary": "Accept-Encoding",
    }
    if file.media_type.startswith("text/html"):
        headers |= {"Content-Security-Policy": policy(origin), "X-Frame-Options": "DENY"}
    if file.is_packed:
        headers["Content-Encoding"] = "gzip"
    return headers


def _takes_gzip(scope: Scope) -> bool:
    codings = Headers(raw=scope["headers"]).get("accept-encoding", "").split(",")
    return any(re.fullmatch(r"\s*gzip\s*(?:;\s*q=(?!0(?:\.0*)?\s*$).*)?", coding) for coding in codings)
