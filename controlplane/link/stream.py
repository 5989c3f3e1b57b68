"""The control plane's end of a stream: the wire's stream with the errors of the control plane."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from controlplane.errors import AgentError, CapacityExhausted, InvalidRequest, LinkClosed, LinkLost, SandlotError
from controlplane.telemetry.tracing import Span
from controlplane.turns import Turn
from execd.wire import aio
from execd.wire.errors import MessageTooLarge, TooManyStreams, WireError
from execd.wire.frames import Channel
from execd.wire.messages import Problem, Reply, RunItem, RunOutput

Data = aio.Data

T = TypeVar("T", bound=msgspec.Struct)

# The bytes that one reader takes of a stream in one turn of the event loop. A download copies as much at once: a
# smaller turn would cost it a write for each piece.
STREAM_TURN_BYTES = 256 << 10
STREAM_TURN_ITEMS = 256
# The client gets each item of a recorded run separately, which costs more than data does.
RECORDED_TURN_ITEMS = 64


class Stream:
    """One request to execd and its replies. The end of the `async with` block resets an unfinished stream.

    A loop that reads a stream lets the event loop run other tasks now and then, however much has arrived: see `Turn`.
    `on_close` is called when the stream closes, perhaps more than once. `number` is the number of the last received
    item of a recorded run; 0 for any other stream.
    """

    __slots__ = ("_stream", "_turn", "answered", "data_bytes", "number", "on_close", "opened_at", "sent_bytes", "span")

    is_recorded = False

    def __init__(self, stream: aio.Stream) -> None:
        self._stream = stream
        self._turn = Turn(STREAM_TURN_BYTES, STREAM_TURN_ITEMS)
        self.opened_at = time.monotonic()
        self.data_bytes = 0  # received so far
        self.sent_bytes = 0
        self.span: Span | None = None  # where traces are on
        self.answered = False  # whether a reply was received
        self.number = 0
        self.on_close: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Reset the stream unless it has ended. A reset cancels execd's work for the stream."""
        if self._stream.ended:
            self._stream.end()
        else:
            self._stream.reset("client.gone", "the caller does not need the answer any more")
        if self.on_close is not None:
            self.on_close()

    async def receive(self) -> Reply | Data | None:
        """Return the next reply or piece of data; None at the end.

        Raises:
            AgentError: execd refused or failed; `code` is execd's.
            LinkLost: the link broke.
        """
        await self._turn.rest()
        try:
            item = await self._stream.receive()
        except WireError as error:
            raise translate(error) from error
        return self._taken(item)

    def receive_nowait(self) -> Reply | Data | None:
        """Return a reply or data that has arrived; None without one, at the stream's end and at the turn's end."""
        return None if self._turn.is_over else self._taken(self._stream.receive_nowait())

    def _taken(self, item: Reply | Data | None) -> Reply | Data | None:
        size = 0
        if isinstance(item, aio.Data):
            size = len(item.data)
            self.data_bytes += size
        elif item is not None:
            self.answered = True
        self._turn.take(size)
        return item

    async def expect(self, kind: type[T]) -> T:
        """Return the next reply. Raises what `receive()` raises, and LinkLost if the reply is not a *kind*."""
        reply = await self.receive()
        if not isinstance(reply, kind):
            raise LinkLost(f"execd answered with {type(reply).__name__} where {kind.__name__} was due")
        return reply

    async def expect_only(self, kind: type[T]) -> T:
        """Wait for the end of the stream, and return its only reply. Raises what `expect()` raises."""
        reply = await self.expect(kind)
        if await self.receive() is not None:
            raise LinkLost(f"execd sent more than one {kind.__name__}")
        return reply

    async def write(self, data: bytes) -> None:
        """Send raw bytes to execd, as its credit allows. Raises what `receive()` raises."""
        try:
            await self._stream.write(data, Channel.INPUT)
        except WireError as error:
            raise translate(error) from error
        self.sent_bytes += len(data)

    def end(self) -> None:
        """Tell execd that no more bytes follow."""
        self._stream.end()


class RecordedStream(Stream):
    """A recorded run, read item by item like the run's own stream.

    Before the first `receive()`, set `number` to the number of the last item that the reader has.
    """

    __slots__ = ()

    is_recorded = True

    def __init__(self, stream: aio.Stream) -> None:
        super().__init__(stream)
        self._turn = Turn(STREAM_TURN_BYTES, RECORDED_TURN_ITEMS)

    async def receive(self) -> Reply | Data | None:
        """Return the next item, as `Stream.receive` does. A recorded failure of the run is an AgentError too."""
        item = await super().receive()
        if not isinstance(item, RunItem):
            return item
        if item.number != self.number + 1:
            raise LinkLost(f"execd sent item {item.number} of a recorded run where {self.number + 1} was due")
        self.number = item.number
        match item.said:
            case Problem(code=code, message=message):
                raise AgentError(message, code=code)
            case RunOutput(channel=channel, data=data):
                return self._taken(Data(channel, data))
            case said:
                return said

    def receive_nowait(self) -> None:
        """Return None: each item has its own number, so readers must not join items."""


def translate(error: WireError) -> SandlotError:
    """Return an error of the wire as an error of the control plane."""
    if isinstance(error, aio.StreamReset):
        return AgentError(error.problem.message, code=error.problem.code)
    if isinstance(error, aio.StreamClosed):
        return LinkClosed(str(error))
    if isinstance(error, TooManyStreams):
        return CapacityExhausted(f"the sandbox has too many requests under way: {error}")
    if isinstance(error, MessageTooLarge):
        return InvalidRequest(str(error))
    return LinkLost(str(error))
