"""A shelf by itself: what it tells the plan, and when it changes without anybody's doing."""

from __future__ import annotations

from controlplane.pool.plan import Template
from controlplane.pool.shelf import DEMAND_WINDOW_S, FIRST_RETRY_S, LAST_RETRY_S, REFILL_DELAY_S, Shelf, Warm
from controlplane.sandbox import Limits, Network

WARM = Warm("s", "c", Template(image="A", network=Network.NONE, limits=Limits()))


def test_failures_side_by_side_count_once() -> None:
    """The pauses double up to the last one, and a success begins anew. The last reason is told."""
    shelf, now, pause = Shelf(1), 0.0, FIRST_RETRY_S
    for _ in range(10):
        assert shelf.failed(now, "first")
        assert not shelf.failed(now, "second")
        assert shelf.trouble == "second"
        assert shelf.not_before == now + pause
        assert shelf.stock(now).blocked
        now, pause = now + pause, min(2 * pause, LAST_RETRY_S)
        assert not shelf.stock(now).blocked
    shelf.succeeded()
    assert shelf.failed(now, "again")
    assert shelf.not_before == now + FIRST_RETRY_S


def test_claims_delay_the_refill_once_and_are_forgotten() -> None:
    """The demand of the last seconds counts."""
    shelf = Shelf(1)
    shelf.claimed(100.0)
    shelf.claimed(100.0 + REFILL_DELAY_S / 2)
    assert shelf.not_before == 100.0 + REFILL_DELAY_S
    assert list(shelf.changes_after(100.0)) == [100.0 + REFILL_DELAY_S, 100.0 + DEMAND_WINDOW_S]
    assert shelf.stock(100.0 + REFILL_DELAY_S).recent == 2
    assert shelf.stock(100.0 + DEMAND_WINDOW_S).recent == 1
    assert shelf.stock(101.0 + DEMAND_WINDOW_S).recent == 0
    assert list(shelf.changes_after(101.0 + DEMAND_WINDOW_S)) == []


def test_a_shelf_is_kept_while_it_has_anything() -> None:
    assert not Shelf(1).is_empty
    shelf = Shelf(0)
    assert shelf.is_empty
    shelf.warm.append(WARM)
    assert not shelf.is_empty
    assert shelf.stock(0.0).warm == ("s",)
    shelf.warm.clear()
    shelf.starting = 1
    assert not shelf.is_empty
