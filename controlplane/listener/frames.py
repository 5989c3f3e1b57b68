"""The boundaries of WebSocket frames in a stream of bytes, so that the cost of frames is known before parsing."""

from __future__ import annotations

from controlplane.listener.bounds import MAX_FRAGMENTS, TURN_BYTES, TURN_EVENTS

_CLOSE = 8  # from here on, opcodes are control frames


class TooManyFragments(Exception):
    """A message has too many frames."""


class FrameMeter:
    """The position in the frames of one connection. The parser, not the meter, finds invalid frames."""

    def __init__(self) -> None:
        self.pending_bytes = 0  # of an incomplete message, as far as it has arrived
        self._left = 0  # bytes of the frame's payload that have not arrived
        self._head = b""  # of a frame, as far as it has arrived
        self._fragments = 0  # of this message
        self._is_control = False
        self._ends_message = False

    def cut(self, data: bytes) -> tuple[int, int]:
        """Return the end of a turn's part of *data*, and the number of frames that begin in this part.

        Raises:
            TooManyFragments: a message has more than MAX_FRAGMENTS.
        """
        at = frames = 0
        size, stop = len(data), min(len(data), TURN_BYTES)
        while at < stop:
            if self._left:
                step = min(self._left, stop - at)
                at += step
                self._left -= step
                if not self._is_control:
                    self.pending_bytes += step
            elif frames == TURN_EVENTS:
                break
            else:
                at = self._take_head(data, at)
                if self._head:
                    return size, frames
                frames += 1
            if not self._left and self._ends_message:
                self.pending_bytes = self._fragments = 0
                self._ends_message = False
        return at, frames

    def _take_head(self, data: bytes, at: int) -> int:
        """Take the head of a frame and return its end. Keep an incomplete head in `_head`."""
        head = self._head + data[at : at + 14 - len(self._head)]
        kind = head[1] & 0x7F if len(head) > 1 else 0
        length_end = 2 + (2 if kind == 126 else 8 if kind == 127 else 0)
        end = length_end + (4 if len(head) > 1 and head[1] & 0x80 else 0)
        if len(head) < end:
            self._head = head
            return len(data)
        at += end - len(self._head)
        self._head = b""
        self._left = int.from_bytes(head[2:length_end], "big") if kind > 125 else kind
        self._is_control = head[0] & 0x0F >= _CLOSE
        if not self._is_control:
            self._ends_message = bool(head[0] & 0x80)
            self._fragments += 1
            if self._fragments > MAX_FRAGMENTS:
                raise TooManyFragments
        return at
