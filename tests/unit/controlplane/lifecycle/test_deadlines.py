"""Deadlines, and who acts on them."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from controlplane.errors import StoreError
from controlplane.lifecycle.deadlines import RETRY_S, Deadlines, reap, reap_once


def test_due_ones_come_earliest_first_and_once() -> None:
    """What has been returned is forgotten."""
    deadlines = Deadlines()
    for name, due in (("late", 30.0), ("early", 10.0), ("middle", 20.0)):
        deadlines.set(name, due)
    assert deadlines.next_due() == 10.0
    assert deadlines.pop_due(20.0) == ["early", "middle"]
    assert deadlines.pop_due(20.0) == []
    assert deadlines.next_due() == 30.0
    assert len(deadlines) == 1


def test_a_renewed_deadline_replaces_the_old_one() -> None:
    """Later, sooner, or the same again."""
    deadlines = Deadlines()
    deadlines.set("a", 10.0)
    deadlines.set("a", 30.0)
    assert deadlines.pop_due(20.0) == []
    deadlines.set("a", 5.0)
    deadlines.set("a", 5.0)
    assert deadlines.pop_due(20.0) == ["a"]
    assert deadlines.pop_due(100.0) == []


def test_a_dropped_deadline_never_comes() -> None:
    """Dropping is idempotent, and setting it anew works."""
    deadlines = Deadlines()
    deadlines.set("a", 10.0)
    deadlines.drop("a")
    deadlines.drop("a")
    assert deadlines.next_due() is None
    deadlines.set("a", 10.0)
    assert deadlines.pop_due(10.0) == ["a"]


def test_renewing_again_and_again_takes_no_memory() -> None:
    """One sandbox renewed every second for a year is still one deadline."""
    deadlines = Deadlines()
    for moment in range(10_000):
        deadlines.set("a", float(moment))
    assert len(deadlines._heap) < 100
    assert deadlines.pop_due(1e9) == ["a"]


@pytest.mark.parametrize(
    ("error", "event"),
    [(StoreError("disk full"), "sandbox.expire_failed"), (ZeroDivisionError("a bug"), "sandbox.expire_broken")],
)
def test_what_cannot_be_ended_now_is_tried_again_and_stops_nobody_else(error: Exception, event: str) -> None:
    """A full disk at the moment of expiry must not keep a sandbox alive for good."""
    deadlines, ended, broken = Deadlines(), [], True

    def expire(sandbox_id: str, _: float) -> None:
        if broken and sandbox_id == "a":
            raise error
        ended.append(sandbox_id)

    deadlines.set("a", 10.0)
    deadlines.set("b", 11.0)
    with capture_logs() as logs:
        reap_once(deadlines, expire, 20.0)
    assert ended == ["b"]
    assert [entry["event"] for entry in logs] == [event]
    broken = False
    reap_once(deadlines, expire, 20.0 + RETRY_S)
    assert ended == ["b", "a"]


async def test_the_reaper_follows_the_wall_clock_wherever_it_jumps() -> None:
    """Set an hour back, nothing is due; set forward, everything is. The reaper looks again without being told."""
    now = 1_000_000.0
    deadlines = Deadlines()
    expired: asyncio.Queue[str] = asyncio.Queue()
    deadlines.set("a", now + 0.01)
    deadlines.set("b", now + 3600)
    now -= 3600  # somebody corrects the clock
    reaper = asyncio.ensure_future(reap(deadlines, lambda one, _: expired.put_nowait(one), clock=lambda: now))
    await asyncio.sleep(0)
    assert expired.empty()
    now += 7201
    assert [await asyncio.wait_for(expired.get(), 10), await asyncio.wait_for(expired.get(), 10)] == ["a", "b"]
    reaper.cancel()
    await asyncio.wait([reaper])
