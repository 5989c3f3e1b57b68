"""Around every request: its id, one line in the access log, and the last net for unexpected errors."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterable, Mapping

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.api.edge.audit import AuditLog
from controlplane.api.edge.guard import find_caller
from controlplane.api.edge.notes import open_notes
from controlplane.api.edge.operation import WEBSOCKET, operation_of
from controlplane.api.edge.problems import unexpected
from controlplane.api.edge.responses import OF_SERVICE
from controlplane.listener.extensions import REQUEST_ID
from controlplane.telemetry.metrics import Metrics

log = structlog.get_logger()

REQUEST_ID_HEADER = b"x-request-id"
NO_SNIFFING = (b"x-content-type-options", b"nosniff")  # on all that is ours; a service speaks for itself
_BEGINNINGS = frozenset(("http.response.start", "websocket.http.response.start", "websocket.accept"))
_SANDBOX = re.compile(r"(?:/v1)?/sandboxes/([^/]{1,64})")
# A signed address opens a port, and a mistyped one may still. So the log leaves out what follows `/signed/`.
_SIGNED = re.compile(r"(/signed/).+", re.DOTALL | re.IGNORECASE)
_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class AccessLog:
    """ASGI middleware, the outermost one.

    Binds `request_id` for every log event below, and puts it on every response. What succeeds at an endpoint or only
    reads is logged as `debug`: a busy sandbox makes thousands of such requests. Query strings are never logged. A
    line tells who asked, by the name of the API key (or `token`, `ticket`, `signature`) and the client's address, of
    which sandbox, and of a refusal its code and reason.
    """

    def __init__(self, app: ASGIApp, audit: AuditLog, metrics: Metrics) -> None:
        self._app = app
        self._audit = audit
        self._open = metrics.requests_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope["headers"])
        structlog.contextvars.bind_contextvars(request_id=request_id)
        scope.setdefault("extensions", {})[REQUEST_ID] = request_id
        notes = open_notes(scope)
        notes["request_id"] = request_id
        named = (REQUEST_ID_HEADER, request_id.encode())
        began = time.perf_counter()
        self._open.add(scope["type"])
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in _BEGINNINGS:
                status = message.get("status", 101)
                self._audit.note(scope, operation_of(scope), status, began)
                added = (named,) if OF_SERVICE in message else (named, NO_SNIFFING)
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.debug("request.abandoned")
        except Exception:
            # The edge: a bug of ours is logged whole, and answered without its details.
            log.exception("request.crashed", method=_method(scope), path=_without_signature(scope["path"]))
            if not status:
                await unexpected()(scope, receive, send_with_id)
            # Otherwise the answer has begun: leaving it incomplete makes the server drop the connection.
        finally:
            self._open.add(scope["type"], by=-1)
            if not status:
                self._audit.note(scope, operation_of(scope), 0, began)
            self._log(scope, status, began, notes)

    def _log(self, scope: Scope, status: int, began: float, notes: Mapping[str, str]) -> None:
        method = _method(scope)
        is_flood = status == 429 and find_caller(scope) is None  # what came before it is in the log
        quiet = is_flood or (status < 400 and (method in ("GET", "HEAD", WEBSOCKET) or "/proxy/" in scope["path"]))
        level = logging.DEBUG if quiet else logging.INFO
        if not log.is_enabled_for(level):
            return
        log.log(
            level,
            "request",
            method=method,
            path=_without_signature(scope["path"]),
            status=status,
            ms=round((time.perf_counter() - began) * 1000, 1),
            **_circumstances(scope) | {name: _without_signature(text) for name, text in notes.items()},
        )


def _circumstances(scope: Scope) -> dict[str, str]:
    """Return the client's address, and the sandbox that the path names, as far as there are any."""
    client, place = scope.get("client"), _SANDBOX.match(scope["path"])
    found = {"client": f"{client[0]}:{client[1]}"} if client else {}
    return found | ({"sandbox": place[1]} if place else {})


def _without_signature(text: str) -> str:
    return _SIGNED.sub(r"\1…", text)


def _method(scope: Scope) -> str:
    return str(scope.get("method", WEBSOCKET))


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == REQUEST_ID_HEADER and _SANE_ID.fullmatch(value):
            return value.decode()
    return secrets.token_hex(16)
