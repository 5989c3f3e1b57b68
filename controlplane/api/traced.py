"""The span of a request, around all that the server does for it. Routes have this where traces are on."""

from __future__ import annotations

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controlplane.api.edge.notes import notes_of
from controlplane.api.edge.operation import WEBSOCKET, Operation
from controlplane.telemetry.tracing import Tracer

# Asked for every few seconds by programs: their traces would say nothing, and hide the others.
UNTRACED = frozenset({"health", "ready", "version", "metrics"})


class Traced:
    """ASGI middleware before one operation: a span from the request to the end of its answer.

    A WebSocket's span ends with the handshake: what goes on for hours is told by the spans of its operations. No path,
    query or header becomes part of a span, because they may have secrets.
    """

    def __init__(self, app: ASGIApp, operation: Operation, tracer: Tracer) -> None:
        self._app = app
        self._operation = operation
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        attributes = {
            "sandlot.operation": self._operation.name,
            "http.route": self._operation.full_path,
            "http.request.method": scope.get("method", WEBSOCKET),
            "sandlot.request_id": notes_of(scope).get("request_id", ""),
        }
        if sandbox_id := scope["path_params"].get("sandbox_id"):
            attributes["sandlot.sandbox"] = sandbox_id
        with self._tracer.first(self._operation.name, attributes, scope["headers"]) as span:
            structlog.contextvars.bind_contextvars(trace=self._tracer.traceparent()[3:35])

            async def send_on(message: Message) -> None:
                if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                    status = message.get("status", 101)
                    span.set({"http.response.status_code": status})
                    if status >= 500:
                        span.fail(notes_of(scope).get("code", ""))
                    if scope["type"] == "websocket":
                        span.end()
                await send(message)

            await self._app(scope, receive, send_on)
