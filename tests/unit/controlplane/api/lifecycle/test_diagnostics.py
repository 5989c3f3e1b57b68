"""What is shown of an entrypoint's output."""

from __future__ import annotations

import pytest

from controlplane.api.lifecycle.diagnostics import MAX_BYTES, last_lines


@pytest.mark.parametrize(
    ("output", "text", "is_cut"),
    [
        (b"", "", False),
        (b"one\ntwo", "one\ntwo", False),
        (b"cut \xe6\x97", "cut \ufffd", False),
        ("日\n".encode() * 101, "日\n" * 100, True),
        ("日".encode() * 30_000, "日" * (MAX_BYTES // 3), True),
        (b"x" * 10 + "é".encode() * MAX_BYTES + b"\nlast\n", "last\n", True),
    ],
)
def test_the_last_lines_are_whole(output: bytes, text: str, is_cut: bool) -> None:
    """Cut at the end of a line; of a line that is longer than all that is shown, at the end of a character."""
    assert last_lines(output) == (text, is_cut)
