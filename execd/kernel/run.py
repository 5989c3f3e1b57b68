"""One piece of code on its way through a context, and the client that waits for it."""

from __future__ import annotations

import asyncio

from execd.dispatch import Replies
from execd.wire.errors import WireError
from execd.wire.frames import Channel as Output
from execd.wire.messages import ContextDone, ContextError, ContextPrompt, ContextResult
from execd.wire.utf8 import unfinished

CUT = "\n[sandlot: this run has {} more than {} bytes; what follows is dropped]\n"
NOTICE = "[sandlot: {}]\n"
RESULT_BYTES = 256  # the memory of a result, beside its content


class Run:
    """A run. `over` is done when the client has heard everything, or will hear nothing more."""

    def __init__(
        self,
        code: str,
        timeout_s: float | None,
        stream: Replies,
        *,
        may_ask: bool = False,
        most_bytes: int = 0,
        notice: str = "",
        loss: str = "",
    ) -> None:
        """Create a run.

        Args:
            most_bytes: How much of the output is sent on, and as much of the results. 0: everything.
            notice: A notice for the receipt.
            loss: What the context lost before this run, for the receipt and for stderr.
        """
        self.code = code
        self.timeout_s = timeout_s
        self.notice = "; ".join(filter(None, (notice, loss)))  # for the receipt
        self.loss = loss
        self.may_ask = may_ask  # the client answers when the code asks for input
        self.asks = False  # the code waits for an answer
        self.stream: Replies | None = stream  # None: nobody listens any more
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.timed_out = False
        self.interrupted = False
        self.done = False  # the code is done; the client may not have heard of it yet
        self.output_bytes = 0
        self._shown_bytes = 0
        self._most_bytes = most_bytes
        self._patience: asyncio.Timeout | None = None  # the limit of a write that waits for the client

    def time_out(self) -> None:
        """Mark the run as timed out.

        From now on, output that the client does not take at once is dropped, so that a run that is blocked by its own
        output can end.
        """
        self.timed_out = True
        if self._patience is not None:
            self._patience.reschedule(0)

    async def write(self, data: bytes, output: Output) -> None:
        """Send output on as fast as the client takes it, and say where it is cut."""
        before = self.output_bytes
        self.output_bytes += len(data)
        if self._most_bytes and self.output_bytes > self._most_bytes:
            if before > self._most_bytes:
                return
            data = data[: self._most_bytes - before]
            await self._send_on(data[: len(data) - unfinished(data)], output)
            data, output = CUT.format("printed", self._most_bytes).encode(), Output.STDERR
        await self._send_on(data, output)

    async def announce(self, notice: str) -> None:
        """Write a notice to stderr that is not part of the run's own output."""
        await self._send_on(NOTICE.format(notice).encode(), Output.STDERR)

    async def _send_on(self, data: bytes, output: Output) -> None:
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

    async def show(self, result: ContextResult) -> None:
        """Send a result on, or say once that there are too many results."""
        before = self._shown_bytes
        self._shown_bytes += sum(len(mime) + len(text) for mime, text in result.data.items()) + RESULT_BYTES
        if not self._most_bytes or self._shown_bytes <= self._most_bytes:
            await self.send(result)
        elif before <= self._most_bytes:
            await self._send_on(CUT.format("shown", self._most_bytes).encode(), Output.STDERR)

    async def finish(self, done: ContextDone) -> None:
        """Send the last reply. The end of the stream leaves in the same packet, because the client waits for both."""
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
