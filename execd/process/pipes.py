"""The pipes of a process. Output is read while a reader takes it; input is written as the process takes it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from collections.abc import Callable, Mapping

from execd.process.output import Output
from execd.wire.frames import MAX_PAYLOAD_BYTES, Channel

READ_BYTES = MAX_PAYLOAD_BYTES  # the capacity of a pipe, and the payload of one frame
# How long to wait for EOF after the end of a process: a child of the process may hold the pipes open for ever.
DRAIN_S = 0.2

_FIONREAD = 0x541B  # bytes waiting in a pipe; the same number on x86, arm64 and riscv

# A sink takes all of some bytes. It returns False if it has them but must get nothing more before resume().
Sink = Callable[[bytes, Channel], bool]


def nowhere(_data: bytes, _channel: Channel) -> bool:
    """Drop output that nobody wants. To read it keeps a daemon alive that still writes to the pipe of its starter."""
    return True


def keep_in(output: Output, also: Callable[[bytes], None] | None = None) -> Sink:
    """Return a sink that fills *output*, and tells *also*. The sink is never full."""

    def take(data: bytes, _channel: Channel) -> bool:
        output.append(data)
        if also is not None:
            also(data)
        return True

    return take


class OutputPipes:
    """Pipes that are read into a sink. A full sink stops the reading, so the pipes fill and their writers block."""

    def __init__(self, pipes: Mapping[int, Channel], sink: Sink, *, late_sink: Sink = nowhere) -> None:
        """Own these non-blocking descriptors. Nothing is read before `resume()`.

        Args:
            late_sink: Takes what arrives on a pipe after `drain()` has given it up. It is never full.
        """
        self.total_bytes = 0  # that reached the sink
        self._loop = asyncio.get_running_loop()
        self._awaited = dict(pipes)
        self._given_up: dict[int, Channel] = {}
        # Bytes that were in a pipe at the end of the drain time, and are still to be delivered.
        self._left: dict[int, int] = {}
        self._sink = sink
        self._late_sink = late_sink
        self._reading = False
        self._on_done: Callable[[], None] | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def resume(self) -> None:
        """Start or continue to read, from the next turn of the event loop."""
        if not self._reading:
            self._reading = True
            for fd in self._awaited:
                self._loop.add_reader(fd, self._read, fd)

    def drain(self, on_done: Callable[[], None]) -> None:
        """Read what an ended process has written. Call *on_done* once when all of it has reached the sink.

        That is at EOF. If another process holds a pipe open, it is when the bytes have been delivered that the pipe
        held DRAIN_S after this call, however slow the sink is. From then on the pipe is read into the late sink.
        """
        self._on_done = on_done
        if self._awaited:
            self._deadline = self._loop.call_later(DRAIN_S, self._give_up)
        else:
            self._check_done()

    def discard(self) -> None:
        """Read everything that still comes, and drop it: nobody listens any more."""
        self._sink = nowhere
        self.resume()

    def close(self) -> None:
        """Close all pipes now. *on_done* is not called any more."""
        self._on_done = None
        if self._deadline is not None:
            self._deadline.cancel()
        for fd in (*self._awaited, *self._given_up):
            self._loop.remove_reader(fd)
            os.close(fd)
        self._awaited.clear()
        self._given_up.clear()

    def _read(self, fd: int) -> None:
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # equivalent to EOF: nothing more can be read
        channel = self._awaited[fd]
        if not data:
            self._loop.remove_reader(fd)
            os.close(fd)
            del self._awaited[fd]
            self._check_done()
            return
        self.total_bytes += len(data)
        if not self._sink(data, channel):
            self._pause()
        if fd in self._left:
            self._left[fd] -= len(data)
            if self._left[fd] <= 0:
                self._let_go(fd)

    def _pause(self) -> None:
        self._reading = False
        for fd in self._awaited:
            self._loop.remove_reader(fd)

    def _give_up(self) -> None:
        for fd in list(self._awaited):
            self._left[fd] = _waiting_bytes(fd)
            if not self._left[fd]:
                self._let_go(fd)

    def _let_go(self, fd: int) -> None:
        self._given_up[fd] = self._awaited.pop(fd)
        self._left.pop(fd, None)
        self._loop.add_reader(fd, self._read_late, fd)
        self._check_done()

    def _read_late(self, fd: int) -> None:
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._late_sink(data, self._given_up[fd])
        else:
            self._loop.remove_reader(fd)
            os.close(fd)
            del self._given_up[fd]

    def _check_done(self) -> None:
        if self._awaited or self._on_done is None:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._sink = nowhere  # a process that is remembered must not keep alive the stream that it wrote to
        on_done, self._on_done = self._on_done, None
        on_done()


class InputPipe:
    """The stdin of a process."""

    def __init__(self, fd: int) -> None:
        """Own this non-blocking descriptor. -1: the stdin is closed from the start."""
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._writable: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        """Return when the pipe has taken all of *data*, or when no process can read it any more, which is no error.

        Only one task may write. If it is cancelled, a part may have been written.
        """
        view = memoryview(data)
        while view and self._fd >= 0:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._wait_writable()
            except OSError:
                self.close()  # EPIPE: the process has closed its stdin

    def close(self) -> None:
        """Give the process EOF. Repeated calls are harmless."""
        if self._fd >= 0:
            self._stop_waiting()
            os.close(self._fd)
            self._fd = -1

    async def _wait_writable(self) -> None:
        self._writable = self._loop.create_future()
        self._loop.add_writer(self._fd, self._stop_waiting)
        try:
            await self._writable
        finally:
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._writable is not None:
            self._loop.remove_writer(self._fd)
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None


def _waiting_bytes(fd: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(fd, _FIONREAD, b"\0\0\0\0"))
    return int(count)
