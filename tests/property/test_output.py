"""Kept output, against a model that keeps everything."""

from __future__ import annotations

import re

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


MISSING = re.compile(rb"\[sandlot: (\d+) bytes of output are missing here\]\n")
words = st.lists(st.sampled_from(["a", "\n", "日", "é", "word ", "\n\n"]), max_size=120).map("".join)


@given(sizes, sizes, words, st.integers(0, 400), st.integers(0, 3))
def test_text_is_whole_and_says_what_is_missing(head: int, tail: int, text: str, offset: int, spare: int) -> None:
    """Characters are whole beside what was dropped, each kept byte comes once, and the counts add up."""
    written = text.encode()
    output = Output(max(4, head), max(4, tail))
    output.append(written)
    offset = min(len(text[:offset].encode()), len(written))
    end = max(offset, len(text[: len(text) - spare].encode()))

    shown = b"".join(output.read_text(offset, end))

    *kept, last = MISSING.split(shown)
    pieces, counts = [*kept[::2], last], [int(count) for count in kept[1::2]]
    assert sum(counts) + len(b"".join(pieces)) - (end - offset) in (0, 1)  # a newline may end a line that was cut
    for piece in pieces:
        assert "\ufffd" not in piece.decode()
    if output.kept_bytes == len(written):
        assert shown == written[offset:end]


def test_a_character_is_whole_where_the_ring_ends_within_it() -> None:
    """The tail holds the last two bytes of a character, the first of which is the last of the ring."""
    output = Output(4, 4)
    output.append("日日日é".encode())

    assert b"".join(output.read_text(0, output.end)) == "日\n[sandlot: 6 bytes of output are missing here]\né".encode()


@given(words, st.integers(0, 3))
def test_the_end_of_a_text_is_that_of_a_character(text: str, cut: int) -> None:
    """As long as the rest of it has not been written."""
    written = text.encode()
    written = written[: len(written) - cut]
    output = Output(5, 7)
    output.append(written)

    assert text.startswith(written[: output.text_end()].decode())
    assert 0 <= output.end - output.text_end() <= 3


def test_lines_are_whole_beside_what_is_missing() -> None:
    """The half lines at both ends count as missing, too."""
    output = Output(12, 12)
    output.append(b"".join(b"line %d\n" % number for number in range(9)))

    assert b"".join(output.read_text(0, output.end)) == (
        b"line 0\n[sandlot: 49 bytes of output are missing here]\nline 8\n"
    )
    assert b"".join(output.read_text(20, output.end)).startswith(b"\n[sandlot: 36 bytes")


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
