"""The entries of an activity: numbered, bounded, and what is missing is said."""

from __future__ import annotations

from execd.activity.ring import ENTRY_BYTES, Ring
from execd.wire.messages import (
    ActivityBegun,
    ActivityDropped,
    ActivityItem,
    ContextError,
    ContextPrompt,
    ContextResult,
    RunOutput,
)


def begun(text: str = "") -> ActivityBegun:
    return ActivityBegun("key", "command", text)


def everything(ring: Ring, after: int = 0) -> list[ActivityItem]:
    """Read a ring as a reader does."""
    items = []
    while (item := ring.next(after)) is not None:
        items.append(item)
        after = item.number
    return items


def told(ring: Ring, after: int = 0) -> list[str]:
    """Return what a reader is told: numbers, and gaps as from-to."""
    return [
        f"{item.said.since}-{item.number}" if isinstance(item.said, ActivityDropped) else str(item.number)
        for item in everything(ring, after)
    ]


def test_numbers_begin_with_one_and_have_no_gap() -> None:
    """Whatever kind the entries are of."""
    ring = Ring()
    assert (ring.first, ring.last, everything(ring)) == (1, 0, [])
    for said in (begun(), RunOutput(1, b"x"), ContextResult("result", {}), ContextPrompt("?")):
        ring.put(0.0, "a", said)
    assert told(ring) == ["1", "2", "3", "4"]
    assert told(ring, 3) == ["4"]
    assert told(ring, 4) == told(ring, 99) == []


def test_the_number_of_entries_is_bounded() -> None:
    """The oldest go first, and a reader hears how many."""
    ring = Ring(max_entries=3)
    for _ in range(5):
        ring.put(0.0, "a", begun())
    assert (ring.first, ring.last, told(ring)) == (3, 5, ["1-2", "3", "4", "5"])
    assert told(ring, 1) == ["2-2", "3", "4", "5"]


def test_the_bytes_are_bounded() -> None:
    """Also if a claim lowers the bound later."""
    ring = Ring(max_bytes=64 << 10)
    for _ in range(100):
        ring.put(0.0, "a", begun("x" * 2000))
        assert ring.total_bytes <= 64 << 10
    ring.limit(10_000, 8 << 10)
    assert ring.total_bytes <= 8 << 10
    assert ring.last == 100
    assert told(ring)[0] == f"1-{ring.first - 1}"


def test_a_flood_of_output_leaves_the_outline() -> None:
    """It drops its own beginning, and a reader hears where."""
    ring = Ring(max_bytes=64 << 10)
    ring.put(0.0, "a", begun("before"))
    for _ in range(50):
        ring.put(0.0, "b", RunOutput(1, b"x" * 4096))
    ring.put(0.0, "b", begun("after"))
    heard = told(ring)
    assert heard[0] == "1"
    assert heard[1].startswith("2-")
    assert heard[-1] == "52"
    assert ring.total_bytes <= 64 << 10


def test_an_outline_leaves_half_to_the_output() -> None:
    """Long code does not drop all output."""
    ring = Ring(max_bytes=64 << 10)
    for number in range(100):
        ring.put(0.0, "a", begun(f"{number}" + "x" * 3000))
        ring.put(0.0, "a", RunOutput(1, b"y" * 1000))
    kept = everything(ring)
    assert any(isinstance(item.said, RunOutput) for item in kept)
    assert any(isinstance(item.said, ActivityBegun) for item in kept)


def test_an_entry_that_is_too_large_is_cut() -> None:
    """And says how much is missing: code, a prompt, a value's largest types, a traceback."""
    ring = Ring(max_bytes=64 << 10)
    most = 16 << 10
    for said in (
        begun("x" * 100_000),
        begun("\N{SNOWMAN}" * 100_000),
        ContextPrompt("p" * 100_000),
        ContextResult("result", {"text/plain": "small", "image/png": "l" * 100_000}),
        ContextError("E", "v" * 100_000, tuple("t" * 5000 for _ in range(50))),
        ContextError("E" * 100_000, "v", ("t",)),
    ):
        ring.put(0.0, "a", said)
        item = everything(ring)[-1]
        assert item.cut_bytes > 50_000
        assert ring.total_bytes <= 64 << 10
        assert ring._entries[-1] is not None
        assert ring._entries[-1].size <= most
    value = next(item.said for item in everything(ring) if isinstance(item.said, ContextResult))
    assert value.data == {"text/plain": "small"}


def test_an_entry_costs_more_than_its_content() -> None:
    """A flood of tiny entries is bounded in memory."""
    ring = Ring(max_bytes=100 * ENTRY_BYTES)
    for _ in range(1000):
        ring.put(0.0, "a", RunOutput(1, b""))
    assert len(ring._entries) <= 100
