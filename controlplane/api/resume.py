"""Event streams that can be resumed: opted into by a header, continued by `Last-Event-ID`. Ours.

`Sandlot-Keep: SECONDS` on a request that answers with events gives each event an id, and keeps the run for so long
after its client has gone. `GET …/runs/{id}/events` goes on after the event that `Last-Event-ID` names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from starlette.requests import Request

from controlplane.api import sse
from controlplane.api.schema import integer
from controlplane.api.stream_messages import MAX_KEEP_S
from controlplane.api.streaming import Pump, Sink, StreamResponse
from controlplane.api.tape import KeptRun, KeptRuns, Tape
from controlplane.errors import InvalidRequest

HEADER = "sandlot-keep"
LAST_EVENT_HEADER = "last-event-id"

_END = b"\n\n"
_PING = b'data: {"type":"ping"'


class EventStreams:
    """Answers with events, kept or not."""

    def __init__(self, kept: KeptRuns[bytes]) -> None:
        self._kept = kept

    def respond(self, request: Request, run_id: str, pump: Pump, *, close: Callable[[], None]) -> StreamResponse:
        """Stream the events that *pump* writes. For `close` see `StreamResponse`.

        Raises:
            InvalidRequest: a bad header.
        """
        try:
            keep_s = _keep_s(request)
        except InvalidRequest:
            close()
            raise
        if not keep_s:
            return sse.event_stream(pump, close=close)

        async def record(tape: Tape[bytes]) -> None:
            await pump(_TapeSink(tape, lambda: run.has_reader))

        run = self._kept.start(request.path_params["sandbox_id"], run_id, keep_s, record, close)
        return _reading(run, 0)

    async def resume(self, request: Request) -> StreamResponse:
        """GET /runs/{id}/events: the events after `Last-Event-ID`, or all that are kept; `?after=` says the same."""
        last = request.headers.get(LAST_EVENT_HEADER)
        after = _number(last) if last is not None else integer(request, "after") or 0
        run = self._kept.get(request.path_params["sandbox_id"], request.path_params["run_id"])
        if after is None:
            raise InvalidRequest(f"{LAST_EVENT_HEADER}: must be the id of an event", code="request.query")
        run.tape.check(after)  # while there can still be a status that says so
        return _reading(run, after)


def _reading(run: KeptRun[bytes], after: int) -> StreamResponse:
    return sse.event_stream(partial(_copy, run, after), close=lambda: None)


async def _copy(run: KeptRun[bytes], after: int, sink: Sink) -> None:
    with run.reading() as read:
        while items := await read(after):
            await sink.write(b"".join(b"id: %d\n%s" % (item.number, item.value) for item in items))
            after = items[-1].number
        await sink.finish()


class _TapeSink(Sink):
    """Takes events apart, so that each has its number."""

    __slots__ = ("_has_reader", "_tape")

    def __init__(self, tape: Tape[bytes], has_reader: Callable[[], bool]) -> None:
        self._tape = tape
        self._has_reader = has_reader
        self.finished = False

    async def write(self, data: bytes) -> None:
        if data.startswith(_PING) and not self._has_reader():
            return  # nobody needs to be told that nothing happens
        for event in data.split(_END):
            if event:
                await self._tape.write(event + _END, len(event))

    async def finish(self, data: bytes = b"") -> None:
        self.finished = True
        await self.write(data)
        self._tape.finish()


def _keep_s(request: Request) -> int:
    text = request.headers.get(HEADER, "")
    if not text:
        return 0
    if (seconds := _number(text)) is None or seconds > MAX_KEEP_S:
        raise InvalidRequest(f"{HEADER}: must be a number of seconds up to {MAX_KEEP_S}", code="request.query")
    return seconds


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
