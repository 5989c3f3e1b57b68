"""The ring of an activity under random entries: a reader gets every number once, kept or missing, in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from execd.activity.ring import Ring
from execd.wire.messages import ActivityBegun, ActivityDropped, ContextResult, RunOutput

outputs = st.integers(0, 9000).map(lambda size: RunOutput(1, b"x" * size))
outlines = st.integers(0, 9000).map(lambda size: ActivityBegun("", "code", "x" * size))
results = st.integers(0, 9000).map(lambda size: ContextResult("result", {"text/plain": "x" * size, "a/b": "y" * size}))


@given(
    st.lists(outputs | outlines | results | st.just("read"), max_size=80),
    st.integers(1, 30),
    st.integers(2_000, 60_000),
)
def test_a_reader_gets_each_number_once(steps: list[object], max_entries: int, max_bytes: int) -> None:
    """Whenever it reads, and within the bounds whatever is put."""
    ring = Ring(max_entries, max_bytes)
    after, put, heard = 0, 0, []
    for step in [*steps, "read"]:
        if step == "read":
            while (item := ring.next(after)) is not None:
                begin = item.said.since if isinstance(item.said, ActivityDropped) else item.number
                heard += range(begin, item.number + 1)
                assert begin == after + 1
                after = item.number
            assert after == ring.last
        else:
            put += 1
            assert ring.put(0.0, "a", step) == put  # type: ignore[arg-type]
        assert ring.total_bytes <= max_bytes
        assert len(ring._entries) <= max_entries
        kept = [entry for entry in ring._entries if entry is not None]
        assert ring.total_bytes == sum(entry.size for entry in kept)
        assert [entry.item.number for entry in kept if entry.is_bulk] == list(ring._bulk)
        assert ring.last - ring.first + 1 == len(ring._entries)
    assert heard == list(range(1, put + 1))
