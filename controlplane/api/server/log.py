"""`/server/log`: the last lines of the server's log."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from controlplane.api.edge.bodies import json_answer
from controlplane.api.edge.parameters import integer, whole_number
from controlplane.api.edge.responses import Sink
from controlplane.api.runs.sse import event_stream
from controlplane.logs import MAX_LINES, Line, Tail

PING_INTERVAL_S = 15.0
PING = b": nothing was logged\n\n"
BATCH = 100  # lines in one write


class LogPage(msgspec.Struct, frozen=True):
    """Some lines, the oldest first. `first` and `last` are the numbers of the lines that the server has."""

    first: int
    last: int
    lines: list[Line]


class Log:
    """The endpoint."""

    def __init__(self, tail: Tail) -> None:
        self._tail = tail

    async def read(self, request: Request) -> ASGIApp:
        """Return the lines of the log with a number above `after`, or the last ones.

        With `Accept: text/event-stream`, the answer goes on with what is logged from now on, one event for each line;
        `Last-Event-ID` stands for `after`. The server keeps the last 1000 lines in memory, without secrets.
        """
        after = integer(request, "after", code="request.invalid")
        limit = integer(request, "limit", least=1, most=MAX_LINES, code="request.invalid") or MAX_LINES
        first, last = self._tail.bounds
        if "text/event-stream" in request.headers.get("accept", ""):
            begin = whole_number(request.headers.get("last-event-id", "")) if after is None else after
            return event_stream(partial(self._follow, last if begin is None else begin), close=_nothing)
        begin = max(first - 1, last - limit) if after is None else after
        return json_answer(LogPage(first, last, self._tail.after(begin, limit)))

    async def _follow(self, seq: int, sink: Sink) -> None:
        seq = min(seq, self._tail.bounds[1])  # a number of an earlier run may be higher
        with self._tail.following() as woken:
            while True:
                woken.clear()
                if lines := self._tail.after(seq, BATCH):
                    seq = lines[-1].seq
                    await sink.write(b"".join(map(_event, lines)))
                    continue
                try:
                    async with asyncio.timeout(PING_INTERVAL_S):
                        await woken.wait()
                except TimeoutError:
                    await sink.write(PING)


def _event(line: Line) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (line.seq, msgspec.json.encode(line, enc_hook=str))


def _nothing() -> None:
    """Do nothing: no stream is open."""
