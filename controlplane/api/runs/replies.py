"""What a run says: one producer of values over the stream of a run, for every contract that tells them.

Whatever runs, a command, code in a context or code in a session, says the same few things. `Replies` reads them from
the stream to the agent, joins output that has arrived, and makes a default context again that has gone. The renderers
are `sse.py` (events), `api/stream/answers.py` (native messages) and `api/lifecycle/execute.py` (one answer).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from controlplane.api.runs.receipt import Receipt, receipt_of, receipt_of_lost
from controlplane.errors import AgentError, LinkLost, SandlotError
from controlplane.link.stream import Stream
from execd.wire.aio import Data
from execd.wire.messages import (
    ContextDone,
    ContextError,
    ContextPrompt,
    ContextResult,
    Done,
    ProcessExited,
    ProcessStarted,
    Reply,
)

# Output that has arrived is joined up to this size before a renderer gets it.
MAX_BATCH_BYTES = 64 * 1024

# Frequent replies are the messages of the wire themselves: copies would cost time and say nothing more.
Output = Data
Result = ContextResult
Prompt = ContextPrompt
Raised = ContextError


class Started(NamedTuple):
    """The run has begun."""

    pid: int | None  # None: code, which has no process of its own


class Ended(NamedTuple):
    """The run is over. The receipt says how it ended."""

    receipt: Receipt
    message: str = ""  # why the context of the run died
    execution_count: int = 0  # of the context


class Lost(NamedTuple):
    """The run was broken off: the agent refused or failed, or the link broke."""

    error: SandlotError
    receipt: Receipt | None  # what was seen of the run until the link broke; None: the link is fine


Said = Started | Result | Prompt | Raised | Ended | Lost

# Waits for what a stream says next.
Wait = Callable[[Stream], Awaitable[Reply | Data | None]]


class Replies:
    """Reads what a run says. `stream` is the stream of the run; after a retry it is another one."""

    __slots__ = ("_forget", "_on_first", "_retry", "ending", "stream")

    def __init__(
        self,
        stream: Stream,
        *,
        retry: Callable[[], Awaitable[Stream]] | None = None,
        forget: Callable[[], None] | None = None,
        on_first: Callable[[], None] | None = None,
    ) -> None:
        """Read a stream.

        Args:
            retry: Makes the context of the run again, begins the run again, and returns the new stream. It is called
                once at most, when the agent does not know the context. None: the run fails then.
            forget: Called when the context of the run has gone.
            on_first: Called when the run says something for the first time, beyond that it has begun.
        """
        self.stream = stream
        self.ending: Ended | Lost | None = None  # as far as it has been received
        self._retry = retry
        self._forget = forget
        self._on_first = on_first

    async def receive(self, wait: Wait | None = None) -> tuple[list[Output], Said | None]:
        """Wait for what the run says next; return all output that is there, then what follows it, if that is there.

        Of a recorded run each call returns one item. Nothing follows `Ended` and `Lost`.

        Args:
            wait: Waits in the place of `Stream.receive`.

        Raises:
            LinkLost: the agent ended the run without saying how.
        """
        while True:
            try:
                output, reply = await receive_batch(self.stream, wait)
            except SandlotError as error:
                if await self._is_retried(error):
                    continue
                self.ending = lost(error, self.stream)
                return [], self.ending
            if self._on_first is not None and (output or not isinstance(reply, ProcessStarted | Done)):
                self._on_first()
                self._on_first = None
            if reply is not None:
                return output, self._said(reply)
            if not output:
                raise LinkLost("the agent ended a run without saying how")
            return output, None

    async def outcome(self) -> Ended:
        """Return how the run ended; what it says until then is dropped. Raises what broke it off."""
        while True:
            _, said = await self.receive()
            if isinstance(said, Lost):
                raise said.error
            if isinstance(said, Ended):
                await self.drain()
                return said

    async def drain(self) -> None:
        """Take the end of the stream after `Ended`: then closing the stream has nothing to tell the agent."""
        await self.stream.receive()

    def _said(self, reply: Reply) -> Said:
        match reply:
            case ContextDone():
                if reply.died_of and self._forget is not None:
                    self._forget()
                self.ending = Ended(receipt_of(reply), reply.message, reply.execution_count)
                return self.ending
            case ProcessExited():
                self.ending = Ended(receipt_of(reply))
                return self.ending
            case ContextResult() | ContextError() | ContextPrompt():
                return reply
            case ProcessStarted(pid=pid):
                return Started(pid)
            case Done():
                return Started(None)
        return lost(LinkLost(f"execd said {type(reply).__name__}, which was not asked for"), self.stream)

    async def _is_retried(self, error: SandlotError) -> bool:
        if not isinstance(error, AgentError) or error.code != "context.not_found":
            return False
        if self._forget is not None:
            self._forget()
        retry, self._retry = self._retry, None
        if retry is None:
            return False
        try:
            stream = await retry()
        except SandlotError:
            return False
        self.stream.close()
        self.stream = stream
        return True


def lost(error: SandlotError, stream: Stream) -> Lost:
    """Return what is known of a run that an error has broken off."""
    return Lost(error, receipt_of_lost(stream) if isinstance(error, LinkLost) else None)


async def receive_batch(stream: Stream, wait: Wait | None = None) -> tuple[list[Data], Reply | None]:
    """Wait for what a stream says next. Return all data that is there, then a message if one is.

    Neighbours of the same channel are joined. Both are empty at the end of the stream. Errors as in `Stream.receive`.
    """
    item = await (stream.receive() if wait is None else wait(stream))
    batch: list[Data] = []
    size = 0
    while isinstance(item, Data):
        channel, pieces = item.channel, [item.data]
        size += len(item.data)
        item = None
        # A loop of its own for one channel: a program with much output writes to one.
        while size < MAX_BATCH_BYTES:
            item = stream.receive_nowait()
            if not isinstance(item, Data) or item.channel != channel:
                break
            pieces.append(item.data)
            size += len(item.data)
            item = None
        batch.append(Data(channel, b"".join(pieces)))
    return batch, item
