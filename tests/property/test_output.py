"""Kept output, against a model that keeps everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from execd.process.output import Output

sizes = st.integers(min_value=1, max_value=40)
pieces = st.lists(st.binary(max_size=100), max_size=40)


def read_all(output: Output, offset: int, limit: int) -> list[tuple[int, bytes]]:
    """Follow the pieces from an offset to the end, as a reader over the link does."""
    found = []
    while (piece := output.read(offset, limit)).data:
        found.append((piece.start, piece.data))
        offset = piece.start + len(piece.data)
    return found


@given(sizes, sizes, pieces, st.integers(-5, 5000), st.integers(1, 60))
def test_every_kept_byte_is_read_once_under_its_offset(
    head: int, tail: int, appended: list[bytes], offset: int, limit: int
) -> None:
    """What can be read from an offset is exactly the head and the last tail bytes, each under its true offset."""
    output = Output(head, tail)
    for data in appended:
        output.append(data)
    everything = b"".join(appended)
    kept = [at for at in range(len(everything)) if at < head or at >= len(everything) - tail]

    found = read_all(output, offset, limit)

    assert output.end == len(everything)
    assert output.kept_bytes == len(kept)
    assert [(start + i, byte) for start, data in found for i, byte in enumerate(data)] == [
        (at, everything[at]) for at in kept if at >= offset
    ]
    assert all(len(data) <= limit for _, data in found)


@given(sizes, sizes, pieces, st.data())
def test_reading_along_while_it_grows_loses_nothing_that_fits_the_tail(
    head: int, tail: int, appended: list[bytes], choices: st.DataObject
) -> None:
    """A reader that follows closely gets every byte; one that falls behind skips only what was dropped, in order."""
    output = Output(head, tail)
    everything = b"".join(appended)
    at = 0
    for data in appended:
        output.append(data)
        if choices.draw(st.booleans()):
            for start, piece in read_all(output, at, 64):
                assert start == at or start == max(at, head, output.end - tail)
                assert everything[start : start + len(piece)] == piece
                at = start + len(piece)
            assert at == output.end


def test_memory_is_used_only_as_it_fills() -> None:
    """An output of a few bytes holds a few bytes, whatever it could hold."""
    output = Output()
    output.append(b"hello")

    assert output.kept_bytes == 5


def test_one_byte_appends_cost_no_more_than_large_ones() -> None:
    """A process that writes byte by byte fills the same two buffers, not a list of a million objects."""
    output = Output(1000, 1000)
    for i in range(10_000):
        output.append(bytes((i % 256,)))

    assert output.kept_bytes == 2000
    assert output.end == 10_000
    assert output.read(5000, 10) == (9000, bytes(i % 256 for i in range(9000, 9010)))
