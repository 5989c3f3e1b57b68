"""The control plane's end of a stream: the wire's streams, with our errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from controlplane.errors import AgentError, CapacityExhausted, InvalidRequest, LinkClosed, LinkLost, SandlotError
from execd.wire import aio
from execd.wire.errors import MessageTooLarge, TooManyStreams, WireError
from execd.wire.frames import Channel
from execd.wire.messages import Reply

Data = aio.Data

T = TypeVar("T", bound=msgspec.Struct)


class Stream:
    """One request to execd and its replies. Leaving the `async with` block resets what has not ended.

    `on_close`: whom to tell when it is closed, perhaps more than once.
    """

    __slots__ = ("_stream", "data_bytes", "on_close", "opened_at")

    def __init__(self, stream: aio.Stream) -> None:
        self._stream = stream
        self.opened_at = time.monotonic()
        self.data_bytes = 0  # received so far
        self.on_close: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream: nothing if it ended, else a reset, which cancels what execd does for it."""
        if self._stream.ended:
            self._stream.end()
        else:
            self._stream.reset("client.gone", "the caller is not interested any more")
        if self.on_close is not None:
            self.on_close()

    async def receive(self) -> Reply | Data | None:
        """Return the next reply or piece of data; None at the end.

        Raises:
            AgentError: execd refused or failed; `code` is execd's.
            LinkLost: the link broke.
        """
        try:
            item = await self._stream.receive()
        except WireError as error:
            raise translate(error) from error
        if isinstance(item, aio.Data):
            self.data_bytes += len(item.data)
        return item

    def receive_nowait(self) -> Reply | Data | None:
        """Return what is there already; None when nothing is, or at the end."""
        item = self._stream.receive_nowait()
        if isinstance(item, aio.Data):
            self.data_bytes += len(item.data)
        return item

    async def expect(self, kind: type[T]) -> T:
        """Return the next reply, which must be a *kind*. Errors as in `receive()`; LinkLost when it is not."""
        reply = await self.receive()
        if not isinstance(reply, kind):
            raise LinkLost(f"execd answered with {type(reply).__name__} where {kind.__name__} was due")
        return reply

    async def expect_only(self, kind: type[T]) -> T:
        """Return the one reply there is, which must be a *kind*, after the end of the stream."""
        reply = await self.expect(kind)
        if await self.receive() is not None:
            raise LinkLost(f"execd said more than one {kind.__name__}")
        return reply

    async def write(self, data: bytes) -> None:
        """Send raw bytes to execd, waiting for its credit. Errors as in `receive()`."""
        try:
            await self._stream.write(data, Channel.INPUT)
        except WireError as error:
            raise translate(error) from error

    def end(self) -> None:
        """Say that no more bytes follow."""
        self._stream.end()


def translate(error: WireError) -> SandlotError:
    """Say in our words what the wire said."""
    if isinstance(error, aio.StreamReset):
        return AgentError(error.problem.message, code=error.problem.code)
    if isinstance(error, aio.StreamClosed):
        return LinkClosed(str(error))
    if isinstance(error, TooManyStreams):
        return CapacityExhausted(f"the sandbox has too many requests under way: {error}")
    if isinstance(error, MessageTooLarge):
        return InvalidRequest(str(error))
    return LinkLost(str(error))
