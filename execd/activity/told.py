"""One operation that the activity tells: how it begins, what comes of it, how it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, cast

from msgspec.structs import replace

from execd.dispatch import Replies
from execd.wire.aio import Data, Stream
from execd.wire.frames import Channel
from execd.wire.messages import (
    ActivityBegun,
    ActivityEnded,
    ContextDone,
    ContextError,
    ContextPrompt,
    ContextResult,
    FileInfo,
    Problem,
    ProcessExited,
    ProcessStarted,
    Reply,
)

RUNS = frozenset(("command", "code", "session"))
CONNECTIONS = frozenset(("terminal.attach", "port"))  # their clients end them by leaving

Entry = ActivityBegun | ActivityEnded | ContextResult | ContextError | ContextPrompt | Problem


class Listener(Protocol):
    """What an operation tells its entries to."""

    is_full: bool  # output and results are told

    def put(self, op: str, said: Entry) -> None:
        """Take an entry."""

    def put_output(self, told: Told, data: bytes, channel: int) -> None:
        """Take a piece of output."""

    def close(self, told: Told) -> None:
        """Take what is held back of the output of an operation that ends, and forget it."""

    def prompted(self, context: str, *, is_password: bool) -> None:
        """Note that code in a context waits for a line of text."""


class Told:
    """An operation. It begins with `begin`, and ends once."""

    __slots__ = ("_begun", "_is_over", "_listener", "_size", "has_begun", "held", "is_lasting", "is_run", "op")

    def __init__(self, listener: Listener, op: str, begun: ActivityBegun) -> None:
        self.op = op
        self.is_run = begun.what in RUNS  # its client gets output and results, and not content
        self.has_begun = False
        self.is_lasting = False  # it goes on after its request
        self.held: dict[int, bytes] = {}  # channel → the beginning of a character
        self._listener = listener
        self._begun = begun
        self._size: int | None = None
        self._is_over = False

    @property
    def context(self) -> str:
        """The id of the context, session, terminal or process that the operation is about."""
        return self._begun.context

    @property
    def tells_output(self) -> bool:
        """Whether `output` is told, and not dropped."""
        return self._listener.is_full and not self._is_over

    def begin(self, pid: int = 0) -> None:
        """Tell that it has begun, unless that was told."""
        if not self.has_begun:
            self.has_begun = True
            self._listener.put(self.op, replace(self._begun, pid=pid) if pid else self._begun)

    def reply(self, message: Reply) -> None:
        """Take a reply that its client gets."""
        if isinstance(message, FileInfo):
            self._size = message.size
        if not self.is_run:
            return
        match message:
            case ProcessStarted(pid=pid):
                self.begin(pid)
            case ProcessExited() | ContextDone():
                self._end(ActivityEnded(message, message=message.message if isinstance(message, ContextDone) else ""))
            case ContextResult():
                if self._listener.is_full:
                    self._put(message)
            case ContextError():
                self._put(message)
            case ContextPrompt():
                self._listener.prompted(self.context, is_password=message.password)
                self._put(message)

    def output(self, data: bytes, channel: int = Channel.STDOUT) -> None:
        """Take some of its output: this is also that of a process whose output is kept."""
        if self.tells_output:
            self._listener.put_output(self, data, channel)

    def finish(self, written_bytes: int = 0) -> None:
        """Tell that it has ended well, unless its end was told or is still to come."""
        if not self.is_lasting:
            self._end(ActivityEnded(size=self._size, output_bytes=written_bytes))

    def fail(self, code: str, message: str) -> None:
        """Tell that it has failed."""
        self._end(Problem(code, message).clipped())

    def leave(self, *, is_lost: bool) -> None:
        """Tell that nobody waits for it any more."""
        if self.is_lasting:
            return
        if self._begun.what in CONNECTIONS:
            self._end(ActivityEnded())
        elif is_lost:
            self.fail("link.lost", "the link to the server was lost")
        else:
            self.fail("client.gone", "its client did not wait for its end")

    def close(self) -> None:
        """Tell that it has ended, also where it goes on after its request."""
        self._end(ActivityEnded())

    def ended(self, exited: ProcessExited) -> None:
        """Tell how its process has ended."""
        self._end(ActivityEnded(exited))

    def _put(self, said: Entry) -> None:
        self.begin()
        self._listener.put(self.op, said)

    def _end(self, said: ActivityEnded | Problem) -> None:
        if self._is_over:
            return
        self._is_over = True
        self.begin()
        self._listener.close(self)
        self._listener.put(self.op, said)


class Tap:
    """The stream of an operation, which tells the activity what passes. The methods are those of `Stream`."""

    __slots__ = ("_stream", "_told", "receive", "written_bytes")

    def __init__(self, stream: Replies, told: Told) -> None:
        self._stream = stream
        self._told = told
        self.written_bytes = 0
        self.receive: Callable[[], Awaitable[Reply | Data | None]] = stream.receive

    @property
    def is_broken(self) -> bool:
        """See `Stream.is_broken`."""
        return self._stream.is_broken

    @property
    def is_lost(self) -> bool:
        """See `Stream.is_lost`."""
        return self._stream.is_lost

    async def send(self, message: Reply) -> None:
        """Tell a reply, then send it: who has heard it finds it told."""
        self._told.reply(message)
        await self._stream.send(message)

    async def write(self, data: bytes | memoryview, channel: Channel) -> None:
        """Send output, and tell it."""
        self._tell(data, channel)
        await self._stream.write(data, channel)

    def write_nowait(self, data: bytes | memoryview, channel: Channel) -> int:
        """Send as much output as there is room for, and tell that."""
        count = self._stream.write_nowait(data, channel)
        if count:
            self._tell(data if count == len(data) else data[:count], channel)
        return count

    async def wait_writable(self) -> None:
        """See `Stream.wait_writable`. Only streams of the link are waited for by handlers."""
        await cast(Stream, self._stream).wait_writable()

    def end(self) -> None:
        """See `Stream.end`."""
        self._stream.end()

    def reset(self, code: str, message: str) -> None:
        """See `Stream.reset`. Only streams of the link are reset by handlers."""
        cast(Stream, self._stream).reset(code, message)

    def _tell(self, data: bytes | memoryview, channel: Channel) -> None:
        self.written_bytes += len(data)
        if self._told.is_run and self._told.tells_output:
            self._told.output(data if isinstance(data, bytes) else bytes(data), channel)
