"""Pausing and resuming, and what happens to a sandbox meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from controlplane.errors import Conflict, EngineUnavailable, NotFound, RuntimeFailure
from controlplane.lifecycle.pauses import CHANGES_AT_ONCE
from controlplane.lifecycle.records.registry import utc_now
from controlplane.runtime.driver import ContainerState
from controlplane.sandbox import Sandbox, State
from controlplane.server.composition import ControlPlane
from controlplane.tasks import Slots
from tests.support.fakes.agents import AgentEngine
from tests.support.server.control_plane import Home, a_request, until


@pytest.fixture
async def sandbox(plane: ControlPlane) -> Sandbox:
    return await plane.sandboxes.create(a_request(timeout_s=600))


def state_of(engine: AgentEngine, sandbox: Sandbox) -> ContainerState:
    return engine.find(sandbox.container_id).told.state


async def test_a_paused_sandbox_stands_still_and_goes_on(
    plane: ControlPlane, engine: AgentEngine, sandbox: Sandbox
) -> None:
    assert (await plane.pauses.pause(sandbox.id)).state is State.PAUSED
    assert state_of(engine, sandbox) is ContainerState.PAUSED
    with pytest.raises(Conflict, match="is Paused, not Running") as refused:
        await plane.relay.link(sandbox.id)
    assert refused.value.code == "sandbox.not_running"
    with pytest.raises(Conflict, match="cannot pause a sandbox that is Paused"):
        await plane.pauses.pause(sandbox.id)

    assert (await plane.pauses.resume(sandbox.id)).state is State.RUNNING
    assert state_of(engine, sandbox) is ContainerState.RUNNING
    await plane.relay.link(sandbox.id)
    with pytest.raises(Conflict) as refused:
        await plane.pauses.resume(sandbox.id)
    assert refused.value.code == "sandbox.not_paused"


async def test_there_must_be_a_sandbox(plane: ControlPlane) -> None:
    for change in (plane.pauses.pause, plane.pauses.resume):
        with pytest.raises(NotFound):
            await change("0" * 16)


async def test_an_engine_that_refuses_leaves_it_as_it_was(home: Home, plane: ControlPlane, sandbox: Sandbox) -> None:
    home.driver.fail_pause = EngineUnavailable("not now")
    with pytest.raises(RuntimeFailure, match="not now") as refused:
        await plane.pauses.pause(sandbox.id)
    assert (refused.value.code, plane.sandboxes.get(sandbox.id).state) == ("sandbox.pause_failed", State.RUNNING)

    home.driver.fail_pause = None
    await plane.pauses.pause(sandbox.id)
    home.driver.fail_pause = EngineUnavailable("not now")
    with pytest.raises(RuntimeFailure) as refused:
        await plane.pauses.resume(sandbox.id)
    assert (refused.value.code, plane.sandboxes.get(sandbox.id).state) == ("sandbox.resume_failed", State.PAUSED)


async def test_a_pause_ends_also_when_nobody_waits_for_it(
    home: Home, plane: ControlPlane, engine: AgentEngine, sandbox: Sandbox
) -> None:
    home.driver.hold_pause = asyncio.Event()
    asking = asyncio.ensure_future(plane.pauses.pause(sandbox.id))
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.PAUSING)
    asking.cancel()
    await asyncio.wait([asking])
    home.driver.hold_pause.set()
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.PAUSED)
    assert state_of(engine, sandbox) is ContainerState.PAUSED


async def test_a_delete_in_the_middle_of_a_pause_wins(
    home: Home, plane: ControlPlane, engine: AgentEngine, sandbox: Sandbox
) -> None:
    home.driver.hold_pause = asyncio.Event()
    asking = asyncio.ensure_future(plane.pauses.pause(sandbox.id))
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.PAUSING)
    await plane.sandboxes.delete(sandbox.id)
    await until(lambda: sandbox.id not in engine.sandbox_ids())
    home.driver.hold_pause.set()
    with pytest.raises((Conflict, NotFound)):
        await asking
    await until(lambda: all(one.id != sandbox.id for one in plane.sandboxes.list()))


async def test_deadlines_go_on_while_it_stands_still(
    plane: ControlPlane, engine: AgentEngine, sandbox: Sandbox
) -> None:
    await plane.pauses.pause(sandbox.id)
    plane.sandboxes.renew(sandbox.id, utc_now() + timedelta(seconds=1))
    await until(lambda: sandbox.id not in engine.sandbox_ids())


async def test_what_somebody_else_pauses_is_noticed(plane: ControlPlane, engine: AgentEngine, sandbox: Sandbox) -> None:
    engine.pause(sandbox.container_id)
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.PAUSED)
    engine.pause(sandbox.container_id, resume=True)
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.RUNNING)

    engine.quiet = True  # also by the sweep, when the engine told nobody
    engine.pause(sandbox.container_id)
    await plane.recovery.sweep()
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.PAUSED)


async def test_an_entrypoint_that_ended_in_the_moment_of_the_pause_ends_the_sandbox(
    plane: ControlPlane, engine: AgentEngine, sandbox: Sandbox
) -> None:
    await plane.pauses.pause(sandbox.id)
    engine.agents[sandbox.id].exit(3)  # what it said arrives only now
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.FAILED)
    assert plane.sandboxes.get(sandbox.id).reason == "CONTAINER_EXITED_ERROR"


@pytest.mark.parametrize("is_resumed", [False, True])
async def test_a_restart_finds_it_paused_or_resumed(home: Home, engine: AgentEngine, *, is_resumed: bool) -> None:
    async with home.run() as plane:
        sandbox = await plane.sandboxes.create(a_request())
        await plane.pauses.pause(sandbox.id)
        home.driver.cut = True
    if is_resumed:
        engine.pause(sandbox.container_id, resume=True)
    async with home.run() as plane:
        assert plane.sandboxes.get(sandbox.id).state is (State.RUNNING if is_resumed else State.PAUSED)
        if not is_resumed:
            await plane.pauses.resume(sandbox.id)
        await plane.relay.link(sandbox.id)
        engine.agents[sandbox.id].exit(0)
        with capture_logs():
            await until(lambda: plane.sandboxes.get(sandbox.id).state is State.TERMINATED)


async def test_metadata_is_merged_and_nobody_loses_anything(plane: ControlPlane, sandbox: Sandbox) -> None:
    async def write(number: int) -> None:
        plane.sandboxes.change_metadata(sandbox.id, {f"k{number}": "v", "last": str(number)}, most=100)

    await asyncio.gather(*(write(number) for number in range(50)))
    plane.sandboxes.change_metadata(sandbox.id, {"k1": None, "no-such": None}, most=100)
    metadata = plane.sandboxes.get(sandbox.id).spec.metadata
    assert metadata == {f"k{number}": "v" for number in range(50) if number != 1} | {"last": "49"}


async def test_no_language_is_made_ready_in_a_paused_sandbox(
    plane: ControlPlane, engine: AgentEngine, sandbox: Sandbox
) -> None:
    """Its agent would answer when it goes on, and the languages of all others would wait for that."""
    paused = engine.agents[sandbox.id]
    opened = await plane.relay._turn(sandbox.id, "python")
    await plane.pauses.pause(sandbox.id)
    opened(True)  # noqa: FBT003
    other = await plane.sandboxes.create(a_request())
    (await plane.relay._turn(other.id, "python"))(True)  # noqa: FBT003
    await until(lambda: "python" in engine.agents[other.id].prepared)
    assert "python" not in paused.prepared

    await plane.pauses.resume(sandbox.id)
    (await plane.relay._turn(sandbox.id, "python"))(True)  # noqa: FBT003
    await until(lambda: "python" in paused.prepared)


@pytest.mark.attack(
    "resources",
    "A client pauses many sandboxes at once",
    "The engine freezes four of them at a time; one that cannot be frozen keeps others waiting for five seconds",
)
@pytest.mark.parametrize("at_once", [CHANGES_AT_ONCE, 100], ids=["bounded", "unbounded"])
async def test_pauses_are_bounded(home: Home, plane: ControlPlane, at_once: int) -> None:
    """The others wait for their turn, and are paused in the end."""
    plane.pauses._engine = Slots(at_once, longest_s=60)
    sandboxes = [await plane.sandboxes.create(a_request()) for _ in range(6)]
    home.driver.hold_pause = asyncio.Event()
    pausing = [asyncio.ensure_future(plane.pauses.pause(sandbox.id)) for sandbox in sandboxes]
    await until(lambda: home.driver.pauses_under_way >= min(at_once, 6))
    for _ in range(10):
        await asyncio.sleep(0)
    assert home.driver.pauses_under_way == min(at_once, 6)
    home.driver.hold_pause.set()
    assert {sandbox.state for sandbox in await asyncio.gather(*pausing)} == {State.PAUSED}
