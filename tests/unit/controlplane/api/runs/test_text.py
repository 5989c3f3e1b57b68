"""The texts of output events, read as the official clients read them. `tests/property` does so with the clients."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.runs import text as output
from controlplane.api.runs.text import LINES_ALONE, MAX_BLANK_EVENTS, MAX_TEXT_BYTES, Lines


def joined_by_newer_clients(texts: list[str]) -> str:
    """Return what `Execution.text` of opensandbox 1.1.1 shows: a newline between texts, unless one is there."""
    parts: list[str] = []
    last_char = ""
    for text in texts:
        if text and last_char and last_char not in "\r\n" and text[0] not in "\r\n":
            parts.append("\n")
        parts.append(text)
        if text:
            last_char = text[-1]
    return "".join(parts).replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


def joined_by_older_clients(texts: list[str]) -> str:
    """Return what `Execution.text` of opensandbox 0.1 to 1.1.0 shows: always a newline, after those at the end."""
    text = "\n".join(text.rstrip("\n") for text in texts)
    return text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


def as_shown(output: bytes) -> str:
    """Return what a person should see of an output: the same, with carriage returns that repeat counted once."""
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
        ([b"a\n\nb\n"], ["a", "\n\n", "b"]),
        ([b"a\n", b"\n", b"b\n"], ["a", "\n\n", "b"]),
        ([b"a\n\nb\n\n\nc\n"], ["a", "\n\n", "b", "\n\n", "\n", "c"]),
        ([b"\n\na\n\n"], ["\n", "\n", "a", "\n\n"]),
        ([b"windows\r\nline\r", b"\nends\r\n"], ["windows", "line\r", "ends"]),
        ([b"10%\r", b"20%\r", b"done\n"], ["10%\r", "20%\r", "done"]),
        ([b"twice\r", b"\r", b"\nend\n"], ["twice\r", "end"]),
        ([b"redrawn\r", b"\n\nend\n"], ["redrawn\r", "\n\n", "end"]),
        ([b"begin\n", b"\r 1/2", b"\r 2/2\n"], ["begin", "\n\n", " 1/2\r 2/2"]),
        ([b"begin\n", b"\r", b"\r", b"\nend\n"], ["begin", "\n\n", "end"]),
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
def test_clients_show_what_was_written_however_it_was_cut(pieces: list[bytes], places: list[int]) -> None:
    """Joined by a client, the texts are the output, at whatever bytes the chunks were cut."""
    output = b"".join(pieces)
    texts = texts_of(*cut(output, places))

    assert joined_by_newer_clients(texts) == as_shown(output)
    assert joined_by_older_clients(texts) == as_shown(output)


@given(st.integers(0, 3), st.lists(st.integers(0, 4000), max_size=6))
def test_a_flood_shares_events_and_loses_nothing(blank: int, places: list[int]) -> None:
    """After the first hundred lines, lines that arrive together come in one event, blank ones among them too."""
    output = b"".join(b"%d\n" % number + b"\n" * blank * (number % 50 == 0) for number in range(600))

    texts = texts_of(*cut(output, places))

    assert joined_by_newer_clients(texts) == as_shown(output)
    assert joined_by_older_clients(texts) == as_shown(output)
    assert len(texts) <= LINES_ALONE + (1 + blank) * (len(places) + 2)


def encoded_bytes(text: str) -> int:
    """Return the size of a text in an event."""
    return len(json.dumps(text)) - 2


@pytest.mark.parametrize("character", ["x", "\x01", "é", "\U0001f600"])
def test_a_line_is_cut_by_its_size_as_json(character: str) -> None:
    """A line that fits an event of 4 MiB stays whole, whatever it consists of; a longer one is cut near the limit."""
    most = MAX_TEXT_BYTES // encoded_bytes(character)

    for size in (most, 2 * most + 1):
        line = character * size
        chunk = line.encode()
        texts = texts_of(*(chunk[at : at + 65_521] for at in range(0, len(chunk), 65_521)), b"\nnext\n")
        *pieces, after = texts

        assert after == "next"
        assert "".join(pieces) == line
        assert all(encoded_bytes(piece) <= MAX_TEXT_BYTES for piece in pieces)
        assert all(encoded_bytes(piece) > MAX_TEXT_BYTES * 0.95 for piece in pieces[:-1])
        assert len(pieces) == (1 if size == most else 3)


def test_a_line_of_json_stays_one_event() -> None:
    """1.5 MB in one line, as programs print for programs."""
    line = json.dumps(["x" * 100] * 15_000)

    assert texts_of(line.encode() + b"\n") == [line]


def test_many_long_lines_do_not_share_an_event() -> None:
    """Lines that arrive together share events only as far as those fit what clients read."""
    lines = ["é" * 300_000, *["€" * 200_000] * 4, "", "end"]
    block = "\n".join(["first"] * LINES_ALONE + lines).encode() + b"\n"

    texts = texts_of(block)

    assert joined_by_newer_clients(texts) == joined_by_older_clients(texts) == as_shown(block)
    assert all(encoded_bytes(text) <= MAX_TEXT_BYTES for text in texts)


def test_a_long_line_that_ends_in_time_stays_whole() -> None:
    """Half a line is held back until its end comes."""
    lines = Lines()

    assert lines.feed(b"x" * 300_000) == []
    assert [len(text) for text in lines.feed(b"end\n")] == [300_003]


def test_repeated_returns_cost_linear_time() -> None:
    """A stream of carriage returns, which a hostile process may write, is one empty redraw."""
    assert texts_of(b"\r" * 100_000, b"\r" * 100_000) == ["\r"]


@pytest.mark.attack(
    "resources",
    "a program writes blank lines without end",
    "the first thousand in a row are events of their own, and all that follow share one for each batch",
)
@pytest.mark.parametrize("is_bounded", [True, False])
def test_blank_lines_without_end_do_not_become_events_without_end(
    is_bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many batches they come in; none is lost."""
    if not is_bounded:
        monkeypatch.setattr(output, "MAX_BLANK_EVENTS", 1 << 30)
    block = b"\n" * 30_000

    texts = texts_of(b"first\n", *[block] * 7, b"last\n", *[b"\n"] * 7, b"end")

    assert joined_by_newer_clients(texts) == "first" + "\n" * 210_001 + "last" + "\n" * 8 + "end"
    most = LINES_ALONE + MAX_BLANK_EVENTS + 7 + 2 + 7
    assert (len(texts) <= most) if is_bounded else (len(texts) > 200_000)


def test_a_block_is_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first lines, a batch costs a few operations, whatever its lines are."""
    lines = Lines()
    lines.feed(b"x\n" * LINES_ALONE)
    sent = 0

    def counting(text: str) -> list[str]:
        nonlocal sent
        sent += 1
        return [text]

    monkeypatch.setattr(output, "_pieces", counting)
    for block in (b"\n" * 500 + b"y\n" * 20_000 + b"\n" * 500, b"\ry" * 20_000 + b"\n", b"y\n\n" * 20_000):
        lines.feed(block)

    assert sent == 3
