"""What a context prints and shows between runs: how much is kept, where it is cut, and what is said of the rest."""

from __future__ import annotations

import pytest

from execd.kernel.backlog import MAX_PRINTED_BYTES, MAX_SHOWN_BYTES, Backlog
from execd.kernel.run import Run
from execd.wire.frames import Channel
from execd.wire.messages import ContextResult


class Listener(Run):
    """A run that writes down what it gets."""

    def __init__(self) -> None:
        self.printed = {Channel.STDOUT: b"", Channel.STDERR: b""}
        self.shown: list[str] = []

    async def write(self, data: bytes, output: Channel) -> None:
        """Keep output."""
        self.printed[output] += data

    async def show(self, result: ContextResult) -> None:
        """Keep a display's text."""
        self.shown.append(result.data["text/plain"])


async def delivered(backlog: Backlog) -> Listener:
    listener = Listener()
    await backlog.deliver(listener)
    return listener


async def test_a_little_is_all_kept_and_delivered_once() -> None:
    backlog = Backlog()
    backlog.append(b"a\nb", Channel.STDOUT)
    backlog.append(b"e", Channel.STDERR)
    backlog.show(ContextResult("display", {"text/plain": "x"}))

    first, second = await delivered(backlog), await delivered(backlog)

    assert (first.printed, first.shown) == ({Channel.STDOUT: b"a\nb", Channel.STDERR: b"e"}, ["x"])
    assert (second.printed, second.shown) == ({Channel.STDOUT: b"", Channel.STDERR: b""}, [])


@pytest.mark.parametrize("piece_bytes", [1000, 65_536, 1 << 20, 3 << 20])
async def test_whole_lines_are_kept_and_the_rest_is_counted(piece_bytes: int) -> None:
    """However it arrives: the lines at the end, at most 1 MiB, and how many bytes came before them."""
    lines = "".join(f"Zeile {i} — 日本語\n" for i in range(100_000)).encode()
    backlog = Backlog()
    for start in range(0, len(lines), piece_bytes):
        backlog.append(lines[start : start + piece_bytes], Channel.STDOUT)

    heard = await delivered(backlog)

    kept, said = heard.printed[Channel.STDOUT], heard.printed[Channel.STDERR].decode()
    assert lines.endswith(kept)
    assert lines[: -len(kept)].endswith(b"\n")
    assert MAX_PRINTED_BYTES - 100 < len(kept) <= MAX_PRINTED_BYTES
    missing = len(lines) - len(kept)
    assert said == f"[sandlot: {missing} bytes that were printed on stdout between runs are dropped; the end follows]\n"


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
async def test_a_line_that_is_too_long_is_cut_between_characters(size: int, end: str) -> None:
    """Also where every character has several bytes."""
    character = {1: "a", 2: "é", 3: "語", 4: "𝄞"}[size]
    text = (character * (2 * MAX_PRINTED_BYTES // size) + end).encode()
    backlog = Backlog()
    backlog.append(b"x" + text, Channel.STDERR)

    kept = (await delivered(backlog)).printed[Channel.STDERR].partition(b"\n")[2]

    assert set(kept.decode()) == {character, *end}
    assert MAX_PRINTED_BYTES - 4 < len(kept) <= MAX_PRINTED_BYTES


async def test_the_newest_displays_are_kept_and_the_rest_is_counted() -> None:
    backlog = Backlog()
    for i in range(10):
        backlog.show(ContextResult("display", {"text/plain": str(i) + "x" * (MAX_SHOWN_BYTES // 4)}))

    heard = await delivered(backlog)

    assert [text[0] for text in heard.shown] == ["7", "8", "9"]
    assert heard.printed[Channel.STDERR] == b"[sandlot: 7 displays that were shown between runs are dropped]\n"
