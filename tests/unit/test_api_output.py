"""The texts of output events, read as the official client reads them."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.output import LINES_ALONE, MAX_BLANK_LINES, MAX_LINE_CHARS, Lines


def joined_as_the_sdk_does(texts: list[str]) -> str:
    """What `Execution.text` of opensandbox 1.1.1 shows: its `_format_output_messages`."""
    parts: list[str] = []
    last_char = ""
    for text in texts:
        if text and last_char and last_char not in "\r\n" and text[0] not in "\r\n":
            parts.append("\n")
        parts.append(text)
        if text:
            last_char = text[-1]
    return "".join(parts).replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


def as_shown(output: bytes) -> str:
    """What a person should see of an output: the same, with carriage returns that repeat counted once."""
    text = re.sub("\r+", "\r", output.decode(errors="replace"))
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


def texts_of(*chunks: bytes) -> list[str]:
    """All texts of a stream that arrives in these chunks."""
    lines = Lines()
    texts = [text for chunk in chunks for text in lines.feed(chunk)]
    return texts + lines.flush()


def cut(output: bytes, places: list[int]) -> list[bytes]:
    """Cut an output at some places."""
    marks = sorted({min(place, len(output)) for place in places} | {0, len(output)})
    return [output[start:stop] for start, stop in itertools.pairwise(marks)]


@pytest.mark.parametrize(
    ("chunks", "texts"),
    [
        ([b"Hello OpenSandbox E2E\n"], ["Hello OpenSandbox E2E"]),
        ([b"no newline at the end"], ["no newline at the end"]),
        ([b"one\ntwo\nthree\n"], ["one", "two", "three"]),
        ([b"in ", b"two ", b"halves\nand", b" more"], ["in two halves", "and more"]),
        ([b"\n"], ["\n"]),
        ([b"a\n\nb\n"], ["a", "\n\nb"]),
        ([b"a\n", b"\n", b"b\n"], ["a", "\n\nb"]),
        ([b"\n\na\n\n"], ["\n\na", "\n"]),
        ([b"windows\r\nline\r", b"\nends\r\n"], ["windows", "line\r", "ends"]),
        ([b"10%\r", b"20%\r", b"done\n"], ["10%\r", "20%\r", "done"]),
        ([b"twice\r", b"\r", b"\nend\n"], ["twice\r", "end"]),
        ([b"begin\n", b"\r 1/2", b"\r 2/2\n"], ["begin", "\n\r", " 1/2\r 2/2"]),
        ([b"gr\xc3", b"\xbc\xc3", b"\x9fe\n"], ["grüße"]),
        ([b"bad \xff byte\n", b"cut \xe2\x82"], ["bad � byte", "cut �"]),
        ([b""], []),
    ],
)
def test_texts(chunks: list[bytes], texts: list[str]) -> None:
    """Lines become texts without their newline; blank lines, redrawn lines and halves are put where nothing is lost."""
    assert texts == texts_of(*chunks)


@given(
    st.lists(st.sampled_from([b"a", b"b c", b"\n", b"\r", b"\r\n", b"\xc3\xa9", b"\xe2\x82", b"x" * 40]), max_size=60),
    st.lists(st.integers(0, 400), max_size=12),
)
def test_a_client_shows_what_was_written_however_it_was_cut(pieces: list[bytes], places: list[int]) -> None:
    """Joined by the official client, the texts are the output, at whatever bytes the chunks were cut."""
    output = b"".join(pieces)

    assert as_shown(output) == joined_as_the_sdk_does(texts_of(*cut(output, places)))


@given(st.integers(0, 3), st.lists(st.integers(0, 4000), max_size=6))
def test_a_flood_shares_events_and_loses_nothing(blank: int, places: list[int]) -> None:
    """After the first hundred lines, lines that arrive together come in one event, blank ones among them too."""
    output = b"".join(b"%d\n" % number + b"\n" * blank * (number % 50 == 0) for number in range(600))

    texts = texts_of(*cut(output, places))

    assert as_shown(output) == joined_as_the_sdk_does(texts)
    assert len(texts) <= LINES_ALONE + len(places) + 2


def test_an_endless_line_is_cut_and_its_newline_is_no_blank_line() -> None:
    """A line without an end is sent in bounded pieces; the newline that ends it at last adds nothing."""
    texts = texts_of(b"x" * (MAX_LINE_CHARS + 10), b"y" * 10, b"\nnext\n")

    assert [len(text) for text in texts] == [MAX_LINE_CHARS, 10, 10, 4]
    assert texts[-1] == "next"
    assert texts_of(b"x" * (MAX_LINE_CHARS + 10), b"\n\nnext\n")[-1] == "\n\nnext"


def test_a_long_line_that_ends_in_time_stays_whole() -> None:
    """Half a line is held back until its end comes."""
    lines = Lines()

    assert lines.feed(b"x" * 300_000) == []
    assert [len(text) for text in lines.feed(b"end\n")] == [300_003]


def test_repeated_returns_cost_linear_time() -> None:
    """A stream of carriage returns, which a hostile process may write, is one empty redraw."""
    assert texts_of(b"\r" * 100_000, b"\r" * 100_000) == ["\r"]


def test_blank_lines_without_end_do_not_pile_up() -> None:
    """A flood of blank lines leaves in pieces, and none of them is lost."""
    block = b"\n" * 30_000

    texts = texts_of(b"first\n", *[block] * 7, b"last\n")

    assert joined_as_the_sdk_does(texts) == "first" + "\n" * 210_001 + "last"
    assert max(map(len, texts)) <= MAX_BLANK_LINES + len(block) + 10
