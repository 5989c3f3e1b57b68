"""What sandboxes use together, while they come and go; and how late timers come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection

from controlplane.runtime.driver import Load
from controlplane.telemetry.families import Histogram
from controlplane.telemetry.lag import LOOK_S, watch_lag
from controlplane.telemetry.load import Loads
from tests.support.samples import samples_of
from tests.support.server.control_plane import until


class Containers:
    """Containers whose use a test decides."""

    def __init__(self) -> None:
        self.loads: dict[str, Load] = {}

    async def load(self, container_ids: Collection[str]) -> dict[str, Load]:
        """Return the use of those that are there."""
        return {one: self.loads[one] for one in container_ids if one in self.loads}


async def test_cpu_time_of_sandboxes_that_ended_stays() -> None:
    """A counter never shrinks. What an earlier run of the server has seen does not count again."""
    containers, sandboxes = Containers(), {"old": "c1"}
    loads = Loads(containers, lambda: sandboxes)  # type: ignore[arg-type]
    containers.loads["c1"] = Load(100.0, 1000)
    await loads.look()
    assert (loads.cpu_s, loads.memory_bytes, loads.is_known) == (0.0, 1000, True)
    containers.loads["c1"] = Load(101.5, 2000)
    containers.loads["c2"] = Load(3.0, 500)
    sandboxes["new"] = "c2"
    await loads.look()
    assert (loads.cpu_s, loads.memory_bytes) == (4.5, 2500)
    del sandboxes["old"]
    await loads.look()
    assert (loads.cpu_s, loads.memory_bytes) == (4.5, 500)


async def test_what_cannot_be_seen_is_not_known() -> None:
    """An engine on another machine."""
    loads = Loads(Containers(), lambda: {"one": "c1"})  # type: ignore[arg-type]
    await loads.look()
    assert not loads.is_known


async def test_a_loop_that_is_blocked_is_late() -> None:
    """By as long as it was blocked, after the timer was due."""
    lag = Histogram("lag_seconds", "Lag.", bounds=(0.2,))
    watching = asyncio.ensure_future(watch_lag(lag))
    await asyncio.sleep(0)
    time.sleep(LOOK_S + 0.3)  # noqa: ASYNC251 - the loop is to be blocked
    await until(lambda: samples_of(lag)["lag_seconds_count"])
    watching.cancel()
    told = samples_of(lag)
    assert told["lag_seconds_count"] - told["lag_seconds_bucket[0.2]"] >= 1
