"""Events with ids: the server-sent events of a recorded run, which a client can resume.

The answer has events of the HTML standard: each is `id: ID`, `data: {…}` and a blank line.

The id of an event comes from its item of the recording: the last event of item 7 is `7`, and the events before it are
`6.1`, `6.2`, which are the events after item 6. All readers get the same items, and so the same ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from controlplane.api.edge.responses import Pump, Sink, StreamResponse
from controlplane.api.runs import sse
from controlplane.api.runs.endings import ENDINGS
from controlplane.api.runs.run import Run
from controlplane.turns import Turn

_END = b"\n\n"
_PING = b'{"type":"ping"'


class Position(NamedTuple):
    """What a client has: the events of the items up to `number`, and so many `events` of the next item."""

    number: int
    events: int = 0


START = Position(0)


def respond(
    pump: Pump, *, close: Callable[[], None], number: Callable[[], int] | None, after: Position = START
) -> StreamResponse:
    """Stream the events that *pump* writes. For *close* see `StreamResponse`.

    Args:
        number: Of the item that the pump writes events of; None when the client has not asked to resume.
        after: What the client has already.
    """
    if number is None:
        return sse.event_stream(pump, close=close)

    async def write(sink: Sink) -> None:
        await pump(_NumberedSink(sink, NumberedEvents(number, after)))

    return sse.event_stream(write, close=close)


def respond_with(
    run: Run, *, close: Callable[[Run], None], is_numbered: bool, after: Position = START
) -> StreamResponse:
    """Stream the events of a run; *close* ends it. Events are numbered for clients that have asked to resume."""
    pump = partial(sse.tell, run, ENDINGS[run.kind])
    number = (lambda: run.stream.number) if is_numbered else None
    return respond(pump, close=partial(close, run), number=number, after=after)


class NumberedEvents:
    """Gives events their ids, and leaves out those that the client has."""

    def __init__(self, number: Callable[[], int], after: Position) -> None:
        self._number = number
        self._after = after
        self._last = after.number  # the last item whose events were numbered

    def number(self, data: bytes) -> bytes:
        """Return events with their ids. Pass all events of one item at once."""
        events = [event + _END for event in data.split(_END) if event]
        number = max(self._number(), 1)  # the first event comes before the first item, of which it tells
        if data.startswith(_PING) or number <= self._last:  # no item: nothing has happened, or the connection broke
            return b"".join(b"data: " + event for event in events)
        self._last = number
        ids = [*(b"%d.%d" % (number - 1, at) for at in range(1, len(events))), b"%d" % number]
        seen = self._after.events if number == self._after.number + 1 else 0
        return b"".join(b"id: %s\ndata: %s" % pair for pair in list(zip(ids, events, strict=False))[seen:])


class _NumberedSink(Sink):
    """The body of a response whose events have ids."""

    __slots__ = ("_events", "_sink")

    def __init__(self, sink: Sink, events: NumberedEvents) -> None:
        self._sink = sink
        self._events = events
        self.finished = False

    async def write(self, data: bytes) -> None:
        """Send events; waits while the client does not read."""
        await self._sink.write(self._events.number(data))

    async def write_pieces(self, first: bytes, pieces: Iterable[bytes]) -> None:
        """Send events, all of one item at once."""
        turn = Turn()
        data = bytearray(first)
        for piece in pieces:
            data += piece
            await turn.spend(len(piece))
        await self.write(bytes(data))

    async def finish(self, data: bytes = b"") -> None:
        """Send the last events."""
        self.finished = True
        await self._sink.finish(self._events.number(data))
