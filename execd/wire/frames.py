"""Frames: a fixed header of ten bytes, then the payload.

    stream id  u32   0 is the link itself
    kind       u8    see Kind
    flags      u8    MESSAGE and OPEN: MORE. DATA: the channel number. Otherwise 0.
    length     u32   payload bytes that follow, at most MAX_PAYLOAD_BYTES

All numbers are big-endian. Frames are a byte stream: one WebSocket message may hold several frames, or a part of one.
The header stands outside the payload, so that the control plane can relay data without decoding it.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

from .errors import RemoteProtocolError

HEADER = struct.Struct("!IBBI")
HEADER_BYTES = HEADER.size

# Small enough that one frame never occupies the link for long, and large enough that headers cost nothing.
MAX_PAYLOAD_BYTES = 64 * 1024

# The text of a problem is for people, in a log or a reply.
MAX_RESET_BYTES = 8 * 1024

# On OPEN and MESSAGE: the message continues in the next MESSAGE frame of the stream.
MORE = 0x01


class Kind(enum.IntEnum):
    """The kinds of frames. The numbers are part of generation 1."""

    HELLO = 1  # stream 0, the first frame in each direction: msgpack Hello
    OPEN = 2  # opens a stream and begins its request message
    MESSAGE = 3  # a msgpack message, or a part of one
    DATA = 4  # raw bytes; the flags name the channel
    CREDIT = 5  # u32: the sender of this frame can take so many more bytes on this stream
    END = 6  # no payload: the sender has nothing more to send on this stream
    RESET = 7  # msgpack Problem: the stream ends at once, in both directions


class Channel(enum.IntEnum):
    """What a DATA frame carries. A channel has one meaning in each direction."""

    INPUT = 0  # to execd: stdin, file content, port bytes
    STDOUT = 1  # from execd: stdout, file content, port bytes
    STDERR = 2  # from execd: stderr


class Frame(NamedTuple):
    """One parsed frame. `kind` is one of the numbers of Kind."""

    stream_id: int
    kind: int
    flags: int
    payload: bytes


def encode_header(stream_id: int, kind: int, length: int, flags: int = 0) -> bytes:
    """Return the header of a frame whose payload has *length* bytes."""
    return HEADER.pack(stream_id, kind, flags, length)


def encode(stream_id: int, kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """Return a whole frame."""
    return encode_header(stream_id, kind, len(payload), flags) + payload


# kind → the flags that it may have, and the length of its shortest and longest payload
_SHAPES: dict[int, tuple[int, int, int]] = {
    Kind.HELLO: (0, 1, 1024),
    Kind.OPEN: (MORE, 1, MAX_PAYLOAD_BYTES),
    Kind.MESSAGE: (MORE, 1, MAX_PAYLOAD_BYTES),
    Kind.DATA: (0xFF, 1, MAX_PAYLOAD_BYTES),
    Kind.CREDIT: (0, 4, 4),
    Kind.END: (0, 0, 0),
    Kind.RESET: (0, 1, MAX_RESET_BYTES),
}


class FrameParser:
    """Cuts a byte stream into frames, however the bytes arrive. It holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._wanted = 0  # the number of bytes in `_rest` that allows the next step

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes, and yield the frames that become complete. Take all of them before the next call.

        After an error the parser cannot be used any more.

        Raises:
            RemoteProtocolError: The kind is unknown, or has a size or flags that it cannot have. This is known from the
                header alone.
        """
        if self._rest:
            # Bytes are only collected here, so that the cost of a frame that arrives byte by byte is linear, not
            # quadratic.
            self._rest += data
            if len(self._rest) < self._wanted:
                return
            data = bytes(self._rest)
        at, end = 0, len(data)
        self._wanted = HEADER_BYTES
        while end - at >= HEADER_BYTES:
            stream_id, kind, flags, length = HEADER.unpack_from(data, at)
            if (shape := _SHAPES.get(kind)) is None:
                raise RemoteProtocolError(f"unknown frame kind {kind}")
            allowed_flags, shortest, longest = shape
            if flags & ~allowed_flags or not shortest <= length <= longest:
                raise RemoteProtocolError(f"a frame of kind {kind} cannot have {length} bytes and flags {flags:#04x}")
            start, stop = at + HEADER_BYTES, at + HEADER_BYTES + length
            if stop > end:
                self._wanted = stop - at
                break
            yield Frame(stream_id, kind, flags, data[start:stop])
            at = stop
        self._rest = bytearray(memoryview(data)[at:])
