"""Large events: written in pieces, with the bytes of small ones. `tests/integration` has all events on a real agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from controlplane import turns
from controlplane.api.edge.responses import Sink
from controlplane.api.runs import large_json, sse
from controlplane.api.runs.receipt import CodeFrameView
from tests.support.turns import steps_of


def content(events: bytes) -> Any:
    """Return an event without its time."""
    assert events.endswith(b"\n\n")
    assert events.isascii()
    assert events.count(b"\n") == 2
    return {name: value for name, value in json.loads(events).items() if name != "timestamp"}


@given(
    st.dictionaries(st.text(max_size=5), st.text(st.characters(), max_size=50), max_size=5),
    st.lists(st.text(max_size=20), max_size=5),
    st.integers(1, 40),
)
def test_pieces_are_the_event(data: dict[str, str], traceback: list[str], most: int) -> None:
    """Wherever they are cut."""
    frames = [CodeFrameView("a.py", 1, "f", "x" * 30)] * len(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sse, "LARGE_CHARS", most)
        patch.setattr(large_json, "LARGE_CHARS", most)
        results = b"".join(sse.result_pieces(data, "shown", update=True))
        errors = b"".join(sse.error_pieces("E", "v" * 50, traceback, frames))

    (whole,) = sse.result_pieces(data, "shown", update=True)
    assert content(results) == content(whole)
    assert content(errors) == content(sse.error_event("E", "v" * 50, traceback, frames=frames))


async def test_a_small_event_is_one_write() -> None:
    """Together with what stands before it."""
    written: list[bytes] = []

    async def send(message: Message) -> None:
        written.append(message["body"])

    await Sink(send).write_pieces(b"before", sse.result_pieces({"text/plain": "x" * 1000}))

    assert len(written) == 1
    assert written[0].startswith(b"before{")


@pytest.mark.attack(
    "resources",
    "code shows a value of 16 MiB that becomes 96 MiB as JSON",
    "it is encoded and written in pieces of some 64 Ki characters, and everybody else is served after each",
)
@pytest.mark.parametrize("is_bounded", [True, False])
async def test_a_large_value_takes_turns(is_bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is made when the client has taken the one before it."""
    if not is_bounded:
        monkeypatch.setattr(turns, "TURN_BYTES", 1 << 40)
    value = "\x01" * (4 << 20)
    written = 0

    async def send(message: Message) -> None:
        nonlocal written
        written += len(message["body"])

    with steps_of(lambda: written) as steps:
        await Sink(send).write_pieces(b"before", sse.result_pieces({"text/plain": value}))

    assert written > 6 * len(value)
    assert (steps.largest <= 8 * large_json.LARGE_CHARS) if is_bounded else (steps.largest == written)


class Shown(msgspec.Struct, omit_defaults=True):
    """A value to encode."""

    text: str
    count: int = 0
    more: tuple[str, ...] = ()


@given(st.text(max_size=100), st.lists(st.text(max_size=20), max_size=5), st.integers(1, 40))
async def test_a_large_answer_is_the_same_json(text: str, more: list[str], most: int) -> None:
    """But for characters that are escaped."""
    value = Shown(text, more=tuple(more))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_json, "LARGE_CHARS", most)
        encoded = await large_json.encode(value, 1 << 20)

    assert json.loads(encoded) == json.loads(msgspec.json.encode(value))


@pytest.mark.parametrize("is_bounded", [True, False])
async def test_a_large_answer_takes_turns(is_bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has to be whole, as a message of a WebSocket: others are served while it is made."""
    if not is_bounded:
        monkeypatch.setattr(turns, "TURN_BYTES", 1 << 40)
    pieces = 0
    make = large_json.json_pieces

    def counting(value: object) -> Iterator[bytes]:
        nonlocal pieces
        for piece in make(value):
            pieces += 1
            yield piece

    monkeypatch.setattr(large_json, "json_pieces", counting)
    with steps_of(lambda: pieces) as steps:
        await large_json.encode(Shown("\x01" * (2 << 20)), 2 << 20)

    assert pieces > 30
    assert (steps.largest <= 2) if is_bounded else (steps.largest == pieces)
