"""One piece of code on its way through a context, and the client who waits for it."""

from __future__ import annotations

import asyncio

from execd.wire.aio import Stream
from execd.wire.errors import WireError
from execd.wire.frames import Channel as Output
from execd.wire.messages import ContextDone, ContextError, ContextPrompt, ContextResult


class Run:
    """`over` is set when its client has heard all, or will hear nothing any more."""

    def __init__(self, code: str, timeout_s: float | None, stream: Stream, *, may_ask: bool = False) -> None:
        self.code = code
        self.timeout_s = timeout_s
        self.may_ask = may_ask  # somebody answers when it asks for input
        self.asks = False  # it waits for an answer
        self.stream: Stream | None = stream  # None: nobody listens any more
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.timed_out = False
        self.interrupted = False
        self.done = False  # its code is; its client may not have heard of that yet
        self.output_bytes = 0
        self._patience: asyncio.Timeout | None = None  # of a write that waits for the client

    def time_out(self) -> None:
        """Its time is up: from here on what the client does not take at once is dropped, so that a run that is
        blocked by its own output can end."""
        self.timed_out = True
        if self._patience is not None:
            self._patience.reschedule(0)

    async def write(self, data: bytes, output: Output) -> None:
        """Send output on, as fast as the client takes it."""
        self.output_bytes += len(data)
        if self.stream is not None:
            try:
                async with asyncio.timeout(0 if self.timed_out else None) as self._patience:
                    await self.stream.write(data, output)
            except WireError:
                self.stream = None
            except TimeoutError:
                pass
            finally:
                self._patience = None

    async def finish(self, done: ContextDone) -> None:
        """Send the last reply. The end of the stream leaves with it, in one packet: the client waits for both."""
        await self.send(done)
        if self.stream is not None:
            self.stream.end()

    async def send(self, reply: ContextResult | ContextError | ContextPrompt | ContextDone) -> None:
        """Send a reply on."""
        if self.stream is not None:
            try:
                await self.stream.send(reply)
            except WireError:
                self.stream = None
