"""The headers by which a proxy describes its client: used if the proxy is trusted, else dropped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from controlplane.listener.extensions import FORWARDED


class TrustedProxies:
    """ASGI middleware that finds the client behind a trusted proxy.

    For a request of a trusted proxy, the scope gets the client and the scheme of the proxy's headers. The middleware
    drops such headers of any other request: the application may trust the remaining ones.
    """

    def __init__(self, app: Any, proxies: Sequence[str]) -> None:
        """Trust *proxies*, addresses and networks."""
        self._app = app
        self._believing = ProxyHeadersMiddleware(app, list(proxies))

    def __contains__(self, address: str) -> bool:
        """Return whether *address* is a trusted proxy's."""
        return address in self._believing.trusted_hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection."""
        if scope.get("client") and scope["client"][0] in self:
            await self._believing(scope, receive, send)
            return
        if any(FORWARDED.fullmatch(name) for name, _ in scope.get("headers", ())):
            scope["headers"] = [header for header in scope["headers"] if not FORWARDED.fullmatch(header[0])]
        await self._app(scope, receive, send)
