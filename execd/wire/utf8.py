"""The places where bytes may be cut, so that each piece alone can be decoded into whole characters."""

from __future__ import annotations

MAX_CHARACTER_BYTES = 4
_CONTINUES, _CONTINUES_MASK = 0b1000_0000, 0b1100_0000


def unfinished(data: bytes | bytearray) -> int:
    """Return how many bytes at the end of *data* begin a character whose other bytes are missing: 0 to 3."""
    for count in range(1, min(len(data), MAX_CHARACTER_BYTES - 1) + 1):
        byte = data[-count]
        if byte & _CONTINUES_MASK != _CONTINUES:
            return count if count < _size(byte) else 0
    return 0


def continued(data: bytes) -> int:
    """Return how many bytes at the beginning of *data* belong to a character that began before them: 0 to 3."""
    limit = min(len(data), MAX_CHARACTER_BYTES - 1)
    return next((at for at in range(limit) if data[at] & _CONTINUES_MASK != _CONTINUES), limit)


def _size(first: int) -> int:
    """Return the size of the character that begins with a byte; 1 if none begins with it (RFC 3629, 4)."""
    if 0xC2 <= first <= 0xDF:
        return 2
    if 0xE0 <= first <= 0xEF:
        return 3
    return 4 if 0xF0 <= first <= 0xF4 else 1
