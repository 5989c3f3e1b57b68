"""Kept output: the head and the tail of what a process has printed, byte for byte, under absolute offsets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from execd.wire.utf8 import MAX_CHARACTER_BYTES, continued, unfinished

HEAD_BYTES = 1 << 20
TAIL_BYTES = 1 << 20


class Piece(NamedTuple):
    """The bytes that a read returned. They follow each other without a gap."""

    start: int  # absolute offset of the first byte; larger than the offset asked for if bytes between were dropped
    data: bytes


# The end of a line is sought this close to a cut. Without one, the cut is at the end of a character.
LINE_BYTES = 8 * 1024
READ_BYTES = 64 * 1024


class Output:
    """A buffer that keeps the first `head_bytes` and the last `tail_bytes` of everything that was appended.

    Memory is allocated as the buffer fills. An offset counts all bytes ever appended, so it stays valid when the middle
    is dropped.
    """

    __slots__ = ("_head", "_head_bytes", "_tail", "_tail_bytes", "end")

    def __init__(self, head_bytes: int = HEAD_BYTES, tail_bytes: int = TAIL_BYTES) -> None:
        """Create an empty buffer. Both sizes are at least 1 byte."""
        self.end = 0  # offset after the last byte appended
        self._head = bytearray()
        # A ring: the byte at offset o is at index (o - head_bytes) % tail_bytes.
        self._tail = bytearray()
        self._head_bytes = head_bytes
        self._tail_bytes = tail_bytes

    @property
    def kept_bytes(self) -> int:
        """The number of bytes in memory."""
        return len(self._head) + len(self._tail)

    @property
    def tail_start(self) -> int:
        """The offset of the oldest byte that is kept after the head. Every byte from there to `end` is kept."""
        return self.end - len(self._tail)

    def append(self, data: bytes) -> None:
        """Append bytes, and drop the oldest bytes of the tail if it is full."""
        view = memoryview(data)
        room = self._head_bytes - len(self._head)
        if room > 0:
            self._head += view[:room]
            self.end += len(view[:room])
            view = view[room:]
        if len(view) >= self._tail_bytes:
            self.end += len(view)
            at = (self.end - self._head_bytes) % self._tail_bytes  # index of the oldest byte of a full ring
            last = view[-self._tail_bytes :]
            self._tail[:] = bytes(last[self._tail_bytes - at :]) + last[: self._tail_bytes - at]
            return
        while view:
            at = (self.end - self._head_bytes) % self._tail_bytes
            piece = view[: self._tail_bytes - at]
            self._tail[at : at + len(piece)] = piece
            self.end += len(piece)
            view = view[len(piece) :]

    def read(self, offset: int, limit: int) -> Piece:
        """Return at most *limit* bytes from *offset* on, or from the next kept byte after it.

        The result is b"" only at the end. It never spans a gap: read on at `start + len(data)`.
        """
        offset = min(max(offset, 0), self.end)
        if offset < len(self._head):
            return Piece(offset, bytes(self._head[offset : min(offset + limit, len(self._head))]))
        start = max(offset, self.tail_start)
        at = (start - self._head_bytes) % self._tail_bytes
        wanted = min(limit, self.end - start)
        data = bytes(self._tail[at : at + wanted])
        # Read on across the end of the ring: a cut at a character or a line depends on what follows.
        return Piece(start, data if len(data) == wanted else data + self._tail[: wanted - len(data)])

    def text_end(self) -> int:
        """Return the offset after the last complete character."""
        tail, at = b"", max(0, self.end - MAX_CHARACTER_BYTES)
        while at < self.end:
            start, data = self.read(at, self.end - at)
            tail = tail + data if start == at else data
            at = start + len(data)
        return self.end - unfinished(tail)

    def read_text(self, offset: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from *offset* to *end* as text. Where bytes were dropped, a line says how many are missing.

        The text before and after that line consists of whole lines if their ends are within LINE_BYTES, and always of
        whole characters. Bytes that are dropped while the caller consumes the iterator are reported as well.
        """
        at, missing, is_line_start = offset, 0, offset == 0
        while at < end:
            start, data = self.read(at, min(READ_BYTES, end - at))
            data = data[: max(0, end - start)]
            missing += min(start, end) - at
            at = min(start, end) + len(data)
            if missing:
                skipped = _line_start(data)
                yield _say_missing(missing + skipped, is_line_start=is_line_start)
                data, missing, is_line_start = data[skipped:], 0, True
            if at == self._head_bytes and self.tail_start > at:  # the bytes after it were dropped
                kept = _line_end(data)
                missing, data = len(data) - kept, data[:kept]
            if data:
                is_line_start = data.endswith(b"\n")
                yield data


def _line_start(data: bytes) -> int:
    """Return where the first line after a cut begins, or else the first character."""
    newline = data.find(b"\n", 0, LINE_BYTES)
    return newline + 1 if newline >= 0 else continued(data)


def _line_end(data: bytes) -> int:
    """Return where the last line before a cut ends, or else the last character."""
    newline = data.rfind(b"\n", max(0, len(data) - LINE_BYTES))
    return newline + 1 if newline >= 0 else len(data) - unfinished(data)


def _say_missing(count: int, *, is_line_start: bool) -> bytes:
    return b"%s[sandlot: %d bytes of output are missing here]\n" % (b"" if is_line_start else b"\n", count)
