"""The driver that counts calls is a driver like the one it wraps, whose answers and errors it passes on."""

from __future__ import annotations

import asyncio
import contextlib
import inspect

import pytest

from controlplane.errors import ImageMissing
from controlplane.runtime.driver import Containers, ContainerSpec, Driver, Images, Volumes
from controlplane.runtime.events import EventKind
from controlplane.sandbox import Limits, Network
from controlplane.telemetry.engine import MeasuredContainers, MeasuredDriver, MeasuredImages, MeasuredVolumes
from controlplane.telemetry.metrics import Metrics
from tests.support.fakes.agents import AgentEngine, CutDriver
from tests.support.samples import Samples, samples_of

IMAGE = "fake/image"


def spec(image: str = IMAGE) -> ContainerSpec:
    """A container of an image."""
    return ContainerSpec(sandbox_id="one", image=image, socket_dir="/tmp", limits=Limits(), network=Network.NONE)


def calls(metrics: Metrics) -> Samples:
    """How often each call had each outcome."""
    return {
        name.removeprefix("sandlot_engine_calls_total"): count
        for name, count in samples_of(metrics.engine_calls).items()
    }


@pytest.mark.parametrize(
    ("whole", "wrapper"),
    [
        (Containers, MeasuredContainers),
        (Images, MeasuredImages),
        (Volumes, MeasuredVolumes),
        (Driver, MeasuredDriver),
    ],
    ids=["containers", "images", "volumes", "driver"],
)
def test_nothing_of_the_seam_is_left_out(whole: type, wrapper: type) -> None:
    """A method that is added to a protocol has to be counted too."""
    methods = {name for name, member in vars(whole).items() if inspect.isfunction(member) and name[0] != "_"}
    assert methods
    assert methods - set(vars(wrapper)) == set()


async def test_calls_are_counted_by_their_outcome() -> None:
    """Done, failed by class of error, and given up; what is open is told meanwhile."""
    engine, metrics = AgentEngine(IMAGE), Metrics()
    driver = MeasuredDriver(CutDriver(engine, instance="test"), metrics)
    await driver.containers.create(spec())
    with pytest.raises(ImageMissing):
        await driver.containers.create(spec("no/such"))
    assert calls(metrics) == {"[container.create][ok]": 1, "[container.create][ImageMissing]": 1}
    assert samples_of(metrics.engine_calls_open) == {"sandlot_engine_calls_open[container.create]": 0}
    timed = samples_of(metrics.engine_call_duration)
    assert timed["sandlot_engine_call_duration_seconds_count[container.create]"] == 2
    await driver.describe()
    assert driver.info is not None
    assert await driver.disk_room() == driver.room
    await engine.aclose()


async def test_a_call_that_is_given_up_is_counted_as_such() -> None:
    """It is no error of the engine."""

    class Hanging(CutDriver):
        async def describe(self) -> object:  # type: ignore[override]
            return await asyncio.get_running_loop().create_future()

    engine, metrics = AgentEngine(IMAGE), Metrics()
    asking = asyncio.ensure_future(MeasuredDriver(Hanging(engine, instance="test"), metrics).describe())
    await asyncio.sleep(0)
    assert samples_of(metrics.engine_calls_open) == {"sandlot_engine_calls_open[engine.describe]": 1}
    asking.cancel()
    await asyncio.wait([asking])
    assert calls(metrics) == {"[engine.describe][cancelled]": 1}
    await engine.aclose()


async def test_events_are_counted_and_passed_on() -> None:
    """Out of memory has a counter of its own, because people ask for it by that name."""
    engine, metrics = AgentEngine(IMAGE), Metrics()
    driver = MeasuredDriver(CutDriver(engine, instance="test"), metrics)
    container = engine.find(await driver.containers.create(spec()))
    async with contextlib.aclosing(driver.containers.events()) as events:
        seen = [(await anext(events)).kind]
        engine.tell(container, EventKind.OOM)
        seen.append((await anext(events)).kind)
    assert seen == [EventKind.CONNECTED, EventKind.OOM]
    assert samples_of(metrics.engine_events) == {
        "sandlot_engine_events_total[connected]": 1,
        "sandlot_engine_events_total[oom]": 1,
    }
    assert samples_of(metrics.oom_kills) == {"sandlot_oom_kills_total": 1}
    await engine.aclose()
