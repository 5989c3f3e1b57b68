"""The cuts between the items of a recorded run's output. Each item can be shown without its neighbours."""

from __future__ import annotations

from execd.wire.frames import MAX_PAYLOAD_BYTES, Channel
from execd.wire.utf8 import MAX_CHARACTER_BYTES, unfinished

# An item of this size travels in one frame. Only lines may be longer.
MAX_PIECE_BYTES = MAX_PAYLOAD_BYTES - 1024
# So many lines of each output are items of their own. After that, lines that are written together share an item.
LINES_ALONE = 100


class Cutter:
    """Cuts output between characters, or at the ends of lines. An incomplete character or line is held back."""

    __slots__ = ("_alone", "_held", "_lines")

    def __init__(self, *, lines: bool) -> None:
        self._lines = lines
        self._held = {Channel.STDOUT: bytearray(), Channel.STDERR: bytearray()}
        self._alone = dict.fromkeys(self._held, LINES_ALONE)

    @property
    def held_bytes(self) -> int:
        """How many bytes wait for the rest of their line or character."""
        return sum(map(len, self._held.values()))

    def feed(self, data: bytes, channel: Channel) -> list[bytes]:
        """Take output. Return the pieces that are complete now."""
        held = self._held[channel]
        # What is held back contains no end of a line and no whole character, so only the new bytes are searched.
        end = _end_of_lines(data) if self._lines else len(data) - _unfinished(held, data)
        whole = bytes(held) + data[:end] if end > 0 else b""
        if whole:
            held.clear()
        held += data[max(end, 0) :]
        return self._split_lines(whole, channel) if self._lines else _split_characters(whole)

    def flush(self) -> list[tuple[Channel, bytes]]:
        """Return what is held back, and do not wait for its rest any more."""
        pieces = [(channel, bytes(held)) for channel, held in self._held.items() if held]
        for held in self._held.values():
            held.clear()
        return pieces

    def _split_lines(self, whole: bytes, channel: Channel) -> list[bytes]:
        *lines, rest = whole.split(b"\n", self._alone[channel])
        self._alone[channel] -= len(lines)
        return [*(line + b"\n" for line in lines), *([rest] if rest else [])]


def _end_of_lines(data: bytes) -> int:
    return max(data.rfind(b"\n"), data.rfind(b"\r")) + 1


def _unfinished(held: bytearray, data: bytes) -> int:
    """Return how many bytes at the end begin a character: more than *data* has if the character began earlier."""
    return unfinished(held + data if len(data) <= MAX_CHARACTER_BYTES else data[-MAX_CHARACTER_BYTES:])


def _split_characters(whole: bytes) -> list[bytes]:
    pieces = []
    while len(whole) > MAX_PIECE_BYTES:
        end = MAX_PIECE_BYTES - unfinished(whole[MAX_PIECE_BYTES - MAX_CHARACTER_BYTES : MAX_PIECE_BYTES])
        pieces.append(whole[:end])
        whole = whole[end:]
    return [*pieces, whole] if whole else pieces
