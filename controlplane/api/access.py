"""Around every request: its id, one line in the access log, and the last net for unexpected errors."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.api.problems import unexpected

log = structlog.get_logger()

REQUEST_ID_HEADER = b"x-request-id"
WEBSOCKET = "WEBSOCKET"  # in place of a method
_BEGINNINGS = frozenset(("http.response.start", "websocket.http.response.start", "websocket.accept"))
_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class AccessLog:
    """ASGI middleware, the outermost one.

    Binds `request_id` for every log event below, and puts it on every response. What succeeds at an endpoint or only
    reads is logged as `debug`: a busy sandbox makes thousands of such requests. Query strings are never logged.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope["headers"])
        structlog.contextvars.bind_contextvars(request_id=request_id)
        began = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in _BEGINNINGS:
                status = message.get("status", 101)
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID_HEADER, request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.debug("request.abandoned")
        except Exception:
            # The edge: a bug of ours is logged whole, and answered without its details.
            log.exception("request.crashed", method=_method(scope), path=scope["path"])
            if not status:
                await unexpected()(scope, receive, send_with_id)
            # Otherwise the answer has begun: leaving it incomplete makes the server drop the connection.
        finally:
            self._log(scope, status, began)

    def _log(self, scope: Scope, status: int, began: float) -> None:
        method = _method(scope)
        quiet = status < 400 and (method in ("GET", "HEAD", WEBSOCKET) or "/proxy/" in scope["path"])
        (log.debug if quiet else log.info)(
            "request",
            method=method,
            path=scope["path"],
            status=status,
            ms=round((time.perf_counter() - began) * 1000, 1),
        )


def _method(scope: Scope) -> str:
    return str(scope.get("method", WEBSOCKET))


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == REQUEST_ID_HEADER and _SANE_ID.fullmatch(value):
            return value.decode()
    return secrets.token_hex(16)
