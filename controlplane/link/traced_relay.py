"""A relay whose streams are spans: what a request asks of the agent, and how long that goes on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from controlplane.link.relay import Relay
from controlplane.link.stream import Stream
from controlplane.telemetry.tracing import SILENT, Span, Tracer
from execd.wire.messages import Request, RunRecord


class TracedRelay(Relay):
    """See `Relay`."""

    def __init__(self, *arguments: Any, tracer: Tracer) -> None:
        """Make a relay; *arguments* are those of `Relay`."""
        super().__init__(*arguments)
        self._tracer = tracer

    async def open(self, sandbox_id: str, request: Request, *, with_input: bool = False) -> Stream:
        """Open a stream, whose span ends when the stream is closed. See `Relay.open`."""
        span = self._tracer.begin(f"agent {_name_of(request)}", {"sandlot.sandbox": sandbox_id})
        try:
            stream = await super().open(sandbox_id, request, with_input=with_input)
        except BaseException as error:
            span.fail(error)
            span.end()
            raise
        stream.span = span
        stream.on_close = _closing(stream, span)
        return stream


def relay_with(tracer: Tracer) -> Callable[..., Relay]:
    """Return what makes the relay of a server: where traces are off, no request pays for them."""
    return Relay if tracer is SILENT else partial(TracedRelay, tracer=tracer)


def _closing(stream: Stream, span: Span) -> Callable[[], None]:
    """Return what to call when a stream is closed."""
    before = stream.on_close

    def closed() -> None:
        if before is not None:
            before()
        span.set({"sandlot.received_bytes": stream.data_bytes, "sandlot.sent_bytes": stream.sent_bytes})
        span.end()

    return closed


def _name_of(request: Request) -> str:
    """Return the name of a message of the link; of a recorded run, that of what is recorded."""
    if isinstance(request, RunRecord):
        return f"{_tag(request)} {_tag(request.request)}"
    return _tag(request)


def _tag(message: object) -> str:
    return str(type(message).__struct_config__.tag)  # type: ignore[attr-defined]
