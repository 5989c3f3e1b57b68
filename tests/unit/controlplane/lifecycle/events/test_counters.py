"""The counters once a second, and the states of the pools a few times a second, while a client listens."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from controlplane.access.scopes import OPERATOR
from controlplane.api.server.messages import encode
from controlplane.lifecycle.events import counters, pools
from controlplane.lifecycle.events.bus import Bus, Latest, Message
from controlplane.lifecycle.events.counters import Ticker, Totals
from controlplane.lifecycle.events.pools import PoolWatch
from controlplane.pool.plan import Template
from controlplane.pool.pool import ShelfStatistics
from controlplane.sandbox import Limits, Network
from controlplane.tasks import Background

A, B = (Template(image=name, network=Network.NONE, limits=Limits()) for name in "AB")


class Shelves:
    """What a PoolWatch needs of a pool."""

    def __init__(self) -> None:
        self.on_change: Callable[[], None]
        self.warm = {A: 0, B: 0}

    def shelves(self) -> dict[Template, ShelfStatistics]:
        return {
            template: ShelfStatistics(target=2, warm=warm, starting=0, hits=0, misses=0, trouble="")
            for template, warm in self.warm.items()
        }


@pytest.fixture
async def background() -> AsyncIterator[Background]:
    async with Background() as background:
        yield background


async def test_counters_are_told_while_a_client_listens(
    background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is measured afterwards; the next client starts that again."""
    monkeypatch.setattr(counters, "INTERVAL_S", 0.01)
    reads: list[int] = []

    def read() -> Totals:
        reads.append(1)
        return Totals({"Running": 3}, warm=2, requests=10, runs=4)

    bus = Bus(encode)
    Ticker(bus, background, read)
    for _ in range(2):
        with bus.listening(OPERATOR) as listener:
            async with asyncio.timeout(60):
                (latest,) = await listener.next()
        assert isinstance(latest, Latest)
        said = json.loads(latest.text)
        assert (said["type"], said["sandboxes"], said["warm"], said["requests"]) == ("counters", {"Running": 3}, 2, 10)
        assert said["loop_lag_s"] >= 0
        async with asyncio.timeout(60):
            while background._tasks:  # noqa: ASYNC110 - the end of a task of its own has no event
                await asyncio.sleep(0.001)
    assert len(reads) >= 2


async def test_a_loop_that_is_kept_from_others_is_told() -> None:
    """By as long as it was away."""
    asyncio.get_running_loop().call_later(0.05, block, 0.3)
    assert await counters._longest_lag() >= 0.15


def block(seconds: float) -> None:
    time.sleep(seconds)


async def test_pools_are_told_when_they_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst of changes is one message, and a pool that is as before is none."""
    monkeypatch.setattr(pools, "STEP_S", 0.01)
    bus, pool = Bus(encode), Shelves()
    watch = PoolWatch(pool, bus, {A: "default", B: ""})  # type: ignore[arg-type]
    pool.on_change()
    assert watch._timer is None, "nobody listens"
    with bus.listening(OPERATOR) as listener:
        first = await told(listener, 2)
        assert [(each["name"], each["image"], each["idle"]) for each in first] == [("default", "A", 0), ("", "B", 0)]
        for warm in (1, 2, 1, 2):
            pool.warm[A] = warm
            pool.on_change()
        pool.warm[B] = 0
        (changed,) = await told(listener, 1)
        assert (changed["image"], changed["idle"]) == ("A", 2)
    assert [state.idle for state in watch.states()] == [2, 0]


async def told(listener: Any, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            found += [json.loads(each.text) for each in await listener.next() if isinstance(each, Message)]
    return found
