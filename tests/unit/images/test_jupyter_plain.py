"""Whatever a Jupyter kernel says, the runner's messages are such as execd accepts."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execd.kernel.runner.channel import MAX_LINE_BYTES, Channel, Display, Error, Result
from execd.wire.messages import MAX_NUMBER

# It lives in the image, not in a package of ours.
sys.path.insert(0, str(Path(__file__).parents[3] / "images" / "kernels" / "jupyter"))
plain = importlib.import_module("plain")
sys.path.pop(0)
del sys.modules["plain"]

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


class _Said:
    """A socket that has one line."""

    def __init__(self, line: bytes) -> None:
        self.line = line

    def recv(self, _: int) -> bytes:
        return self.line


def heard(message: dict[str, object]) -> object:
    (said,) = Channel(_Said(plain.line_of(message))).receive_nowait()  # type: ignore[arg-type]
    return said


@given(st.dictionaries(st.text(max_size=5) | st.integers(), anything, max_size=4), anything)
def test_every_bundle_is_understood(data: dict[object, object], count: object) -> None:
    """And what is JSON in it is JSON."""
    said = heard({"type": "result", "data": plain.bundle(data), "count": plain.number(count)})
    assert isinstance(said, Result)
    for mime, value in data.items():
        if isinstance(value, dict):
            json.loads(said.data[plain.text(mime)], parse_constant=pytest.fail)


@given(anything, anything, anything)
def test_every_error_is_understood(name: object, value: object, traceback: object) -> None:
    said = heard(
        {"type": "error", "name": plain.text(name), "value": plain.text(value), "traceback": plain.lines(traceback)}
    )
    assert isinstance(said, Error)


def test_numbers_are_the_nearest_that_are_possible() -> None:
    assert [plain.number(one) for one in (2**70, -5, True, 3, "x", None, 1.5)] == [MAX_NUMBER, 0, 1, 3, 0, 0, 0]


def test_what_is_too_long_is_told() -> None:
    said = heard({"type": "display", "data": {"text/plain": "x" * MAX_LINE_BYTES}, "display_id": "a", "ack": 3})
    assert isinstance(said, Display)
    assert (said.data["text/plain"].startswith("(not shown: 1"), said.display_id, said.ack) == (True, "a", 3)


def test_texts_in_pieces_are_joined_and_lone_surrogates_replaced() -> None:
    assert plain.bundle({"text/plain": ["a", "b\ud800"], "application/json": ["a"]}) == {
        "text/plain": "ab?",
        "application/json": '["a"]',
    }
