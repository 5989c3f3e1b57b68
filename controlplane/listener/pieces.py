"""Where the pieces of a connection's input end, so that the parser never sees two requests or two chunks at once."""

from __future__ import annotations

from controlplane.listener.bounds import BODY_PIECE_BYTES, PIECE_BYTES

END = b"\r\n\r\n"  # of a head, and of a body in chunks


class Pieces:
    """The framing of the arriving message, as far as it decides where a piece ends."""

    def __init__(self) -> None:
        self.body_left = 0  # bytes of a body of known length
        self.is_chunked = False
        self._size_line = b""  # of a chunk, as far as it has arrived
        self._chunk_left = 0  # bytes of a chunk, with its end of line
        self._is_last_chunk = False
        self._tail = b""  # the last parsed bytes, in which the end of the message may have begun

    def begin_body(self) -> None:
        """Forget the head, which is complete."""
        self._tail = b""

    def begin_message(self) -> None:
        """Forget the message, which is complete."""
        self.is_chunked = self._is_last_chunk = False
        self.body_left = self._chunk_left = 0
        self._size_line = self._tail = b""

    def end_of(self, data: bytes, at: int) -> int:
        """Return the end of the next piece: of a body, a chunk, a head or trailers."""
        if self.body_left:
            return min(len(data), at + self.body_left, at + BODY_PIECE_BYTES)
        if self.is_chunked and not self._is_last_chunk:
            return self._chunk_end(data, at)
        end = min(len(data), at + PIECE_BYTES)
        # The end may have begun in the piece before.
        found = (self._tail + data[at : at + 3]).find(END)
        if found >= 0:
            end = at + found + len(END) - len(self._tail)
        elif (found := data.find(END, at, end)) >= 0:
            end = found + len(END)
        self._tail = (self._tail + data[max(at, end - 3) : end])[-3:]
        return end

    def _chunk_end(self, data: bytes, at: int) -> int:
        """Return the end of a chunk: of its size, its content and the end of line after the content."""
        begin = at
        if not self._chunk_left:
            found = data.find(b"\n", at, at + PIECE_BYTES)
            at = found + 1 if found >= 0 else min(len(data), at + PIECE_BYTES)
            self._size_line += data[begin:at]
            if found < 0:
                return at
            size = _size_of_chunk(self._size_line)
            self._is_last_chunk = not size
            self._chunk_left = size + 2 if size else 0
            self._tail = self._size_line[-3:]
            self._size_line = b""
        end = min(len(data), at + self._chunk_left, at + BODY_PIECE_BYTES)
        self._chunk_left -= end - at
        return end


def _size_of_chunk(line: bytes) -> int:
    """Return the size in the line before a chunk. The parser, not this function, finds an invalid line."""
    try:
        return max(0, int(line.partition(b";")[0], 16))
    except ValueError:
        return 0
