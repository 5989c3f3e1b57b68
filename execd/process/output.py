"""Output kept for late readers: the head and the tail of it, byte for byte, under absolute offsets."""

from __future__ import annotations

from typing import NamedTuple

HEAD_BYTES = 1 << 20
TAIL_BYTES = 1 << 20


class Piece(NamedTuple):
    """What a read gave: bytes that follow each other without a gap."""

    start: int  # absolute offset of the first byte; beyond the offset asked for when bytes in between were dropped
    data: bytes


class Output:
    """A buffer that keeps the first `head_bytes` and the last `tail_bytes` of all that was appended.

    Memory is used as it fills. Offsets count all bytes ever appended, so they stay true when the middle is dropped.
    """

    __slots__ = ("_head", "_head_bytes", "_tail", "_tail_bytes", "end")

    def __init__(self, head_bytes: int = HEAD_BYTES, tail_bytes: int = TAIL_BYTES) -> None:
        """Make an empty one. Both sizes are at least 1 byte."""
        self.end = 0  # offset after the last byte appended
        self._head = bytearray()
        # A ring: the byte at offset o stands at (o - head_bytes) % tail_bytes.
        self._tail = bytearray()
        self._head_bytes = head_bytes
        self._tail_bytes = tail_bytes

    @property
    def kept_bytes(self) -> int:
        """How much is in memory."""
        return len(self._head) + len(self._tail)

    @property
    def tail_start(self) -> int:
        """Offset of the oldest byte kept behind the head; everything from there to `end` is there."""
        return self.end - len(self._tail)

    def append(self, data: bytes) -> None:
        """Add bytes at the end, dropping the oldest of the tail where it is full."""
        view = memoryview(data)
        room = self._head_bytes - len(self._head)
        if room > 0:
            self._head += view[:room]
            self.end += len(view[:room])
            view = view[room:]
        if len(view) >= self._tail_bytes:
            self.end += len(view)
            at = (self.end - self._head_bytes) % self._tail_bytes  # where the oldest byte of a full ring stands
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
        """Return at most *limit* bytes from *offset* on, or from where kept bytes begin again behind it.

        b"" only at the end. A piece never reaches over a gap: read on at `start + len(data)`.
        """
        offset = min(max(offset, 0), self.end)
        if offset < len(self._head):
            return Piece(offset, bytes(self._head[offset : min(offset + limit, len(self._head))]))
        start = max(offset, self.tail_start)
        at = (start - self._head_bytes) % self._tail_bytes
        return Piece(start, bytes(self._tail[at : at + min(limit, self.end - start)]))
