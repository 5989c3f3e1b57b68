"""Hostile text is made harmless, and what people read is right."""

from __future__ import annotations

import pytest

from controlplane.client.text import cut, duration, moment, safe, safe_lines, size, table, width


@pytest.mark.attack(
    "agent",
    "Text of a sandbox with escape sequences, control characters and characters that reorder text",
    "`sandlot` shows them as escapes such as \\x1b, and no terminal obeys them",
)
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ~ text", "plain ~ text"),
        ("日本 é", "日本 é"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\nb\rc\td", "a\\x0ab\\x0dc\\x09d"),
        ("\x9b2J\x7f", "\\x9b2J\\x7f"),
        ("user\u202egnp.exe", "user\\u202egnp.exe"),
        ("\u2028\u2066\ud800", "\\u2028\\u2066\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_text_is_made_safe(text: str, shown: str) -> None:
    assert safe(text) == shown


def test_lines_of_a_program_keep_their_form_and_lose_their_colours() -> None:
    assert safe_lines("\x1b[1;31mred\x1b[0m\tx\r\nnext \x1b[2Jend\r50%") == "red\tx\nnext \\x1b[2Jend\\x0d50%"


def test_a_table_is_aligned_whatever_its_cells_hold() -> None:
    """Wide characters take two columns, and control characters the columns of their escapes."""
    shown = table(("A", "B"), [("日本", "x"), ("\x1b", "yy"), ("c", "")])
    assert shown.splitlines() == ["A     B", "日本  x", "\\x1b  yy", "c"]


def test_a_table_is_cut_at_the_terminal() -> None:
    shown = table(("ID", "LAST"), [("1", "a long text")], columns=10)
    assert shown.splitlines() == ["ID  LAST", "1   a lon…"]
    assert [width(line) <= 10 for line in shown.splitlines()] == [True, True]
    assert table(("ID", "LAST"), [("1" * 20, "text")], columns=10).splitlines()[1] == "1" * 20 + "  text"


@pytest.mark.parametrize(("columns", "shown"), [(9, "日本語日"), (8, "日本語日"), (7, "日本語…"), (1, "…"), (0, "")])
def test_text_is_cut(columns: int, shown: str) -> None:
    assert cut("日本語日", columns) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-5, "0s"),
        (0.9, "0s"),
        (59, "59s"),
        (60, "1m"),
        (90, "1m 30s"),
        (660, "11m"),
        (3600 * 3 + 1200, "3h 20m"),
        (86400 * 40, "40d"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (3e13, "30.0 TB")]
)
def test_sizes(count: float, shown: str) -> None:
    assert size(count) == shown


@pytest.mark.parametrize("text", [None, "", "soon"])
def test_a_moment_that_is_none(text: str | None) -> None:
    assert moment(text) is None
