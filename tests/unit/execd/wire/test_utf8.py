"""Where bytes may be cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execd.wire.utf8 import continued, unfinished


@given(st.text(max_size=8), st.integers(0, 32))
def test_a_text_that_is_cut_is_whole_without_what_is_unfinished(text: str, place: int) -> None:
    """The rest begins with the bytes that belong to that character."""
    data = text.encode()
    head, tail = data[:place], data[place:]
    cut = len(head) - unfinished(head)

    assert text.startswith(head[:cut].decode())
    assert text.endswith(tail[continued(tail) :].decode())
    assert (data[cut:] == b"") == (cut == len(data))


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 0),
        (b"a", 0),
        (b"a\xe6", 1),
        (b"\xe6\x97", 2),
        (b"\xf0\x9f\x98", 3),
        (b"\x80\x80\x80\x80", 0),
        (b"\xff", 0),
    ],
)
def test_only_what_can_become_a_character_is_unfinished(data: bytes, count: int) -> None:
    """What is invalid whatever follows is not waited for."""
    assert unfinished(data) == count


@given(st.binary(max_size=8))
def test_of_any_bytes_at_most_three_are_held_back(data: bytes) -> None:
    """A program may print what it likes."""
    assert 0 <= unfinished(data) <= min(3, len(data))
    assert 0 <= continued(data) <= min(3, len(data))
