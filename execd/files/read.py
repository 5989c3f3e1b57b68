"""The reading of regular files. An open never hangs, and a slow reader stops only itself."""

from __future__ import annotations

import os
import stat

from execd.errors import ExecdError
from execd.files.disk import Disk
from execd.wire.aio import Stream
from execd.wire.frames import Channel

SMALL_BYTES = 64 * 1024  # up to this size on the event loop, in one piece
PIECE_BYTES = 512 * 1024  # one turn of a thread: 256 KiB are a fifth slower, and the event loop would be no faster
SCAN_BYTES = 4 << 20  # one turn of a thread when only newlines are counted
MAX_SIZELESS_BYTES = 1 << 20  # of a file whose size is 0 although it has content, as in /proc


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """Open a regular file for reading. Return the descriptor and the stat.

    Raises:
        OSError: The kernel refused.
        ExecdError: `file.is_directory`, `file.not_regular`.
    """
    # Checked before the open, which alone can have an effect on a FIFO or device; and checked again after it.
    check_regular(path, os.stat(path))
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        check_regular(path, found)
    except BaseException:
        os.close(fd)
        raise
    return fd, found


def check_regular(path: str, found: os.stat_result) -> None:
    """Refuse what is not a regular file. Raises ExecdError."""
    if stat.S_ISDIR(found.st_mode):
        raise ExecdError("file.is_directory", f"{path}: is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise ExecdError("file.not_regular", f"{path}: is a FIFO, socket or device, not a regular file")


class Source:
    """A regular file that is being read. Close it."""

    def __init__(self, path: str, disk: Disk) -> None:
        """Open the file. Errors are those of `open_regular()`."""
        self._fd, self.found = open_regular(path)
        self._disk = disk

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    async def read_small(self) -> bytes | None:
        """Return the whole content of a small file, or None for a large one.

        The size of the kernel's own files is wrong (0 in /proc, 4096 in /sys), so their content is read to its end.

        Raises:
            ExecdError: `file.failed`: the file says that it is empty, and does not end.
        """
        if self.found.st_size > SMALL_BYTES:
            return None
        if self.found.st_size:
            return _read_up_to(self._fd, SMALL_BYTES)
        content = await self._disk.run(_read_up_to, self._fd, MAX_SIZELESS_BYTES)
        if len(content) == MAX_SIZELESS_BYTES:
            raise ExecdError("file.failed", "the file says that it is empty, but does not end")
        return content

    async def send_range(self, stream: Stream, start: int, stop: int) -> None:
        """Send the bytes from *start* to *stop*, in pieces, each of them read when there is credit for it.

        Raises:
            ExecdError: `file.failed`: the file has become shorter.
        """
        buffer = memoryview(bytearray(max(0, min(PIECE_BYTES, stop - start))))
        while start < stop:
            await stream.wait_writable()
            count = await self._disk.run(os.preadv, self._fd, [buffer[: stop - start]], start)
            if not count:
                raise ExecdError("file.failed", f"the file became shorter while it was read: it ends before {start}")
            await stream.write(buffer[:count], Channel.STDOUT)
            start += count

    async def send_lines(self, stream: Stream, first: int, lines: int | None) -> None:
        """Send *lines* lines (None: all) from the 1-based *first* on.

        The lines are those that existed when the file was opened.
        They are sent as `LineEnds` defines. Errors are those of `send_range()`.
        """
        start, skip, size = 0, first - 1, self.found.st_size
        while skip and start < size:
            start, skip = await self._disk.run(_skip_lines, self._fd, start, size, skip)
        ends = LineEnds()
        while lines != 0 and start < size:
            await stream.wait_writable()
            piece = await self._disk.run(os.pread, self._fd, min(PIECE_BYTES, size - start), start)
            if not piece:
                raise ExecdError("file.failed", f"the file became shorter while it was read: it ends before {start}")
            stop, found = (len(piece), 0) if lines is None else cut_lines(piece, lines)
            await stream.write(ends.feed(piece[:stop]), Channel.STDOUT)
            start += stop
            lines = None if lines is None else lines - found


def _read_up_to(fd: int, limit: int) -> bytes:
    pieces: list[bytes] = []
    while limit:
        try:
            piece = os.read(fd, limit)
        except BlockingIOError:
            break
        if not piece:
            break
        pieces.append(piece)
        limit -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def cut_range(size: int, offset: int, length: int | None) -> tuple[int, int]:
    """Return start and stop of the bytes asked for. A negative offset counts from the end, and stops at the start.

    Raises:
        ExecdError: `request.invalid`: the length is negative; `file.range`: no byte is there, unless the file is empty
            and read from its start.
    """
    if length is not None and length < 0:
        raise ExecdError("request.invalid", f"the length is {length} bytes: it must not be negative")
    start = max(0, size + offset) if offset < 0 else offset
    if start >= size and start > 0:
        raise ExecdError("file.range", f"offset {offset} is not in a file of {size} bytes")
    return start, size if length is None else min(size, start + length)


def _skip_lines(fd: int, start: int, size: int, skip: int) -> tuple[int, int]:
    scan_to = min(size, start + SCAN_BYTES)
    while skip and start < scan_to:
        piece = os.pread(fd, min(PIECE_BYTES, size - start), start)
        if not piece:
            return size, skip
        stop, found = cut_lines(piece, skip)
        start += stop
        skip -= found
    return start, skip


class LineEnds:
    """The line ends of a window, as the official agent sends them: a newline between two lines, none after the last.

    A carriage return before a line end is part of it.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""  # the beginning of a line end, which is sent if another line follows

    def feed(self, piece: bytes) -> bytes:
        """Return what can be sent of a piece. What is held back at the end of the window is not sent."""
        data = (self._held + piece).replace(b"\r\n", b"\n")
        self._held = data[-1:] if data.endswith((b"\r", b"\n")) else b""
        return data[: len(data) - len(self._held)]


def window(data: bytes, first: int, lines: int | None) -> bytes:
    """Return *lines* lines (None: all) of *data* from the 1-based *first* on, as `LineEnds` defines."""
    data = data[cut_lines(data, first - 1)[0] :]
    return LineEnds().feed(data if lines is None else data[: cut_lines(data, lines)[0]])


def cut_lines(data: bytes, lines: int) -> tuple[int, int]:
    """Return where the first *lines* lines of *data* stop, and how many of their newlines *data* contains."""
    if not lines:
        return 0, 0
    found = data.count(b"\n")
    if found < lines:
        return len(data), found
    low, high = lines, len(data)  # bisect for the shortest prefix with that many newlines
    while low < high:
        middle = (low + high) // 2
        if data.count(b"\n", 0, middle) < lines:
            low = middle + 1
        else:
            high = middle
    return low, lines
