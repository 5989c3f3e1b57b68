"""The budget for what clients leave in memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.listener.bounds import FREE_BODY_BYTES
from controlplane.listener.memory import Memory

LIMIT = 10 * FREE_BODY_BYTES


class Holder:
    """A connection."""

    def __init__(self) -> None:
        self.has_given_up = False

    def give_up(self) -> None:
        """It has lost."""
        self.has_given_up = True


def test_small_holders_do_not_count() -> None:
    """A thousand small requests at once are an ordinary day."""
    memory = Memory(LIMIT)
    holders = [Holder() for _ in range(1000)]
    for holder in holders:
        memory.hold(holder, FREE_BODY_BYTES)
    assert memory.total == 0
    assert not any(holder.has_given_up for holder in holders)


def test_the_oldest_gives_up() -> None:
    """Who holds for long is slow, or does it on purpose; that it holds more by and by makes it no younger."""
    memory = Memory(LIMIT)
    old, new, quick = Holder(), Holder(), Holder()
    memory.hold(old, LIMIT // 4)
    memory.hold(new, LIMIT // 4)
    memory.hold(quick, LIMIT // 4)
    memory.hold(quick, 0)
    memory.hold(old, LIMIT // 2)
    memory.hold(new, LIMIT // 2 + 1)
    assert (old.has_given_up, new.has_given_up, quick.has_given_up) == (True, False, False)
    assert memory.total == LIMIT // 2 + 1


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, LIMIT)), max_size=60))
def test_the_total_is_what_all_hold(steps: list[tuple[int, int]]) -> None:
    """And it is never above the limit."""
    memory = Memory(LIMIT)
    holders = [Holder() for _ in range(6)]
    sizes = [0] * 6
    for which, size in steps:
        memory.hold(holders[which], size)
        sizes[which] = size if size > FREE_BODY_BYTES else 0
        for number, holder in enumerate(holders):
            if holder.has_given_up:
                holder.has_given_up = False
                sizes[number] = 0
        assert memory.total == sum(sizes) <= LIMIT
