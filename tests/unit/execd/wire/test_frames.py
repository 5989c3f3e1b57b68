"""Frames: exact bytes out, and whole frames in however the bytes arrive."""

from __future__ import annotations

import pytest

from execd.wire.errors import RemoteProtocolError
from execd.wire.frames import (
    HEADER_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_RESET_BYTES,
    MORE,
    Channel,
    Frame,
    FrameParser,
    Kind,
    encode,
)


def test_a_frame_is_ten_bytes_of_header_and_the_payload() -> None:
    """The bytes of generation 1, written out."""
    assert encode(0x01020304, Kind.DATA, b"hello", Channel.STDERR) == b"\x01\x02\x03\x04\x04\x02\x00\x00\x00\x05hello"
    assert encode(7, Kind.END) == b"\x00\x00\x00\x07\x06\x00\x00\x00\x00\x00"
    assert (
        encode(7, Kind.CREDIT, (131072).to_bytes(4, "big"))
        == b"\x00\x00\x00\x07\x05\x00\x00\x00\x00\x04\x00\x02\x00\x00"
    )
    assert HEADER_BYTES == 10


def test_the_numbers_of_kinds_channels_and_flags_are_for_good() -> None:
    """Warm containers outlive an upgrade: generation 1 means these numbers."""
    assert {kind.name: int(kind) for kind in Kind} == {
        "HELLO": 1,
        "OPEN": 2,
        "MESSAGE": 3,
        "DATA": 4,
        "CREDIT": 5,
        "END": 6,
        "RESET": 7,
    }
    assert {channel.name: int(channel) for channel in Channel} == {"INPUT": 0, "STDOUT": 1, "STDERR": 2}
    assert MORE == 1
    assert MAX_PAYLOAD_BYTES == 65536


def test_several_frames_in_one_chunk_come_out_in_order() -> None:
    """One WebSocket message may hold many frames."""
    data = encode(1, Kind.DATA, b"a", 1) + encode(2, Kind.END) + encode(1, Kind.DATA, b"b", 2)
    assert list(FrameParser().feed(data)) == [Frame(1, 4, 1, b"a"), Frame(2, 6, 0, b""), Frame(1, 4, 2, b"b")]


def test_a_frame_may_arrive_byte_by_byte() -> None:
    """It comes out with its last byte, neither sooner nor later."""
    parser = FrameParser()
    data = encode(3, Kind.DATA, b"payload", 1)
    for byte in data[:-1]:
        assert list(parser.feed(bytes([byte]))) == []
    assert list(parser.feed(data[-1:])) == [Frame(3, 4, 1, b"payload")]
    assert list(parser.feed(encode(4, Kind.END))) == [Frame(4, 6, 0, b"")]


def test_a_part_of_the_next_frame_is_kept() -> None:
    """A chunk may end in the middle of a header or of a payload."""
    first, second = encode(1, Kind.DATA, b"x" * 100, 1), encode(2, Kind.DATA, b"y" * 100, 1)
    for cut in (1, 9, 10, 11, 109):
        parser = FrameParser()
        assert list(parser.feed(first + second[:cut])) == [Frame(1, 4, 1, b"x" * 100)]
        assert list(parser.feed(second[cut:])) == [Frame(2, 4, 1, b"y" * 100)]


def test_the_largest_frame_passes() -> None:
    """64 KiB are a frame."""
    (frame,) = FrameParser().feed(encode(1, Kind.DATA, b"z" * MAX_PAYLOAD_BYTES, 1))
    assert len(frame.payload) == MAX_PAYLOAD_BYTES


@pytest.mark.parametrize(
    ("kind", "flags", "length"),
    [
        pytest.param(0, 0, 0, id="kind 0"),
        pytest.param(8, 0, 0, id="kind 8"),
        pytest.param(Kind.DATA, 1, MAX_PAYLOAD_BYTES + 1, id="too much data"),
        pytest.param(Kind.DATA, 1, 1 << 30, id="a gigabyte"),
        pytest.param(Kind.DATA, 1, 0, id="no data"),
        pytest.param(Kind.MESSAGE, 0, 0, id="an empty message"),
        pytest.param(Kind.MESSAGE, 2, 5, id="a flag that messages do not have"),
        pytest.param(Kind.OPEN, 0x80, 5, id="a flag that requests do not have"),
        pytest.param(Kind.HELLO, 0, 1025, id="a long hello"),
        pytest.param(Kind.HELLO, 1, 5, id="a hello in parts"),
        pytest.param(Kind.CREDIT, 0, 3, id="short credit"),
        pytest.param(Kind.CREDIT, 0, 5, id="long credit"),
        pytest.param(Kind.CREDIT, 1, 4, id="credit with a flag"),
        pytest.param(Kind.END, 0, 1, id="an end with a payload"),
        pytest.param(Kind.END, 1, 0, id="an end with a flag"),
        pytest.param(Kind.RESET, 0, 0, id="a reset without a problem"),
        pytest.param(Kind.RESET, 0, MAX_RESET_BYTES + 1, id="a long reset"),
    ],
)
def test_a_header_that_cannot_be_is_refused_before_its_payload_arrives(kind: int, flags: int, length: int) -> None:
    """Ten bytes are enough to know."""
    header = encode(1, kind, b"", flags)[:6] + length.to_bytes(4, "big")
    with pytest.raises(RemoteProtocolError):
        list(FrameParser().feed(header))


def test_frames_before_a_bad_one_are_delivered_first() -> None:
    """The same frames come out, whether the bad one is in the same chunk or not."""
    frames = FrameParser().feed(encode(1, Kind.END) + encode(1, 99))
    assert next(frames) == Frame(1, 6, 0, b"")
    with pytest.raises(RemoteProtocolError):
        next(frames)
