"""Ranges and windows of lines, and what may be opened at all."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execd.errors import ExecdError
from execd.files.read import LineEnds, cut_lines, cut_range, open_regular, window


@pytest.mark.parametrize(
    ("size", "offset", "length", "expected"),
    [
        (10, 0, None, (0, 10)),
        (10, 3, None, (3, 10)),
        (10, 3, 4, (3, 7)),
        (10, 3, 400, (3, 10)),
        (10, 3, 0, (3, 3)),
        (10, 9, None, (9, 10)),
        (10, -4, None, (6, 10)),
        (10, -4, 2, (6, 8)),
        (10, -400, None, (0, 10)),
        (0, 0, None, (0, 0)),
        (0, 0, 5, (0, 0)),
        (0, -5, None, (0, 0)),
        (1 << 60, 1 << 59, 1, (1 << 59, (1 << 59) + 1)),
    ],
)
def test_a_range_is_cut_to_what_there_is(size: int, offset: int, length: int | None, expected: tuple[int, int]) -> None:
    assert cut_range(size, offset, length) == expected


@pytest.mark.parametrize(
    ("size", "offset", "length", "code"),
    [
        (10, 10, None, "file.range"),
        (10, 11, 1, "file.range"),
        (0, 1, None, "file.range"),
        (10, 0, -1, "request.invalid"),
    ],
)
def test_a_range_outside_of_the_file_is_refused(size: int, offset: int, length: int | None, code: str) -> None:
    with pytest.raises(ExecdError) as caught:
        cut_range(size, offset, length)
    assert caught.value.code == code


texts = st.lists(st.sampled_from([b"\n", b"a", b"\r\n", b"\r", b"bb", b"\xff"]), max_size=40).map(b"".join)


def lines_of(data: bytes) -> list[bytes]:
    """Return the lines of a text, each without its newline and a carriage return before that."""
    lines = data.split(b"\n")
    return [line.removesuffix(b"\r") for line in (lines[:-1] if lines[-1] == b"" else lines)]


@pytest.mark.parametrize(
    ("data", "first", "lines", "expected"),
    [
        (b"line1\nline2\nline3\n", 2, 1, b"line2"),
        (b"line1\nline2\nline3\n", 2, None, b"line2\nline3"),
        (b"line1\nline2\nline3", 2, 9, b"line2\nline3"),
        (b"line1\r\nline2\r\nline3\r\n", 1, 2, b"line1\nline2"),
        (b"a\n\nb\n", 1, 2, b"a\n"),
        (b"a\n\nb\n", 2, 1, b""),
        (b"50%\r100%\r\nend", 1, 1, b"50%\r100%"),
        (b"a\n", 9, 1, b""),
    ],
)
def test_a_window_has_newlines_between_its_lines(data: bytes, first: int, lines: int | None, expected: bytes) -> None:
    """As the suites of the official clients assert."""
    assert window(data, first, lines) == expected


@given(texts, st.integers(1, 9), st.integers(0, 9))
def test_a_window_holds_exactly_its_lines(data: bytes, first: int, lines: int) -> None:
    assert window(data, first, lines) == b"\n".join(lines_of(data)[first - 1 :][:lines])
    assert window(data, first, None) == b"\n".join(lines_of(data)[first - 1 :])


@given(st.lists(texts, max_size=8))
def test_line_ends_are_the_same_wherever_the_pieces_are_cut(pieces: list[bytes]) -> None:
    ends = LineEnds()
    assert b"".join(map(ends.feed, pieces)) == b"\n".join(lines_of(b"".join(pieces)))


@given(st.lists(st.sampled_from([b"\n", b"a", b"\r\n", b"bb"]), max_size=40).map(b"".join), st.integers(0, 50))
def test_lines_are_cut_behind_their_newline(data: bytes, lines: int) -> None:
    stop, found = cut_lines(data, lines)
    assert found == min(lines, data.count(b"\n"))
    assert data[:stop].count(b"\n") == found
    assert stop == len(data) if found < lines else data[:stop].endswith(b"\n") or not lines


def test_only_regular_files_are_opened_and_nothing_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path, code in (
            (tmp_path / "fifo", "file.not_regular"),
            (tmp_path / "socket", "file.not_regular"),
            (Path("/dev/null"), "file.not_regular"),
            (tmp_path, "file.is_directory"),
        ):
            with pytest.raises(ExecdError) as caught:
                open_regular(str(path))
            assert caught.value.code == code


def test_a_refused_file_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ExecdError):
        open_regular(str(tmp_path / "fifo"))
    fd, found = open_regular(__file__)
    os.close(fd)
    assert found.st_size == Path(__file__).stat().st_size
    assert len(os.listdir("/proc/self/fd")) == before
