"""After a restart, and every minute: records and containers agree again, whatever happened in between."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from controlplane.errors import ConfigError, EngineUnavailable, NotFound
from controlplane.lifecycle import recovery as recovery_module
from controlplane.lifecycle.endings import FINISHED_RETENTION
from controlplane.lifecycle.records.registry import utc_now
from controlplane.lifecycle.recovery import Differences, compare
from controlplane.runtime.driver import Container, ContainerSpec, ContainerState
from controlplane.runtime.events import EventKind, RuntimeEvent
from controlplane.sandbox import Limits, Network, Platform, Sandbox, SandboxSpec, State, Volume, new_sandbox_id
from controlplane.server.composition import ControlPlane
from tests.support.fakes.agents import AgentEngine, CutContainers
from tests.support.server.control_plane import IMAGE, Home, a_request, until


def a_record(state: State = State.RUNNING, **changes: object) -> Sandbox:
    """A sandbox as an earlier run wrote it down."""
    now = utc_now()
    sandbox = Sandbox(
        id=new_sandbox_id(),
        container_id="0" * 64,
        requested_image=IMAGE,
        spec=SandboxSpec(image=IMAGE, entrypoint=("tail",)),
        state=state,
        created_at=now,
        state_changed_at=now,
    )
    return replace(sandbox, **changes)


def a_container(sandbox_id: str, state: ContainerState) -> Container:
    """A container as the engine lists it."""
    return Container(id="0" * 64, sandbox_id=sandbox_id, image=IMAGE, state=state, labels={})


async def crash(home: Home) -> None:
    """What a `kill -9` leaves: the engine hears nothing more from this run."""
    home.driver.cut = True


# -- comparing

ENDED = (State.FAILED, State.TERMINATED)
LIVING = (ContainerState.RUNNING, ContainerState.PAUSED)
DEAD = (None, ContainerState.CREATED, ContainerState.EXITED)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("container_state", [None, *ContainerState])
def test_every_pair_of_record_and_container(state: State, container_state: ContainerState | None) -> None:
    """Each ends in one list or, when nothing is to be done, in none."""
    record = a_record(state)
    container = None if container_state is None else a_container(record.id, container_state)
    found = compare([record], [] if container is None else [container])
    if state is State.PENDING:
        expected = Differences(pending=(record,))
    elif state is State.STOPPING or (state in ENDED and container is not None):
        expected = Differences(finish=(record,))
    elif state in ENDED:
        expected = Differences()
    elif container is not None and container_state in LIVING:
        is_settled = (state, container_state) in (
            (State.RUNNING, ContainerState.RUNNING),
            (State.PAUSED, ContainerState.PAUSED),
        )
        expected = Differences(running=(record,), unsettled=() if is_settled else ((record, container),))
    else:
        assert container_state in DEAD
        expected = Differences(vanished=((record, container),))
    assert found == expected


def test_a_container_without_a_record_is_unclaimed() -> None:
    """In whatever state."""
    containers = [a_container(str(number), state) for number, state in enumerate(ContainerState)]
    assert compare([a_record()], containers).unclaimed == tuple(containers)


# -- starting again


async def test_running_sandboxes_are_taken_over(home: Home, engine: AgentEngine) -> None:
    """Same record, same deadline, and a new link follows the same entrypoint."""
    async with home.run() as plane:
        kept = await plane.sandboxes.create(a_request(timeout_s=600, platform=Platform("linux", "amd64")))
        assert kept.spec.platform == Platform("linux", "amd64")
        plane.sandboxes.renew(kept.id, utc_now() + timedelta(seconds=1000))
        kept = plane.sandboxes.get(kept.id)
        await crash(home)
    async with home.run() as plane:
        assert plane.sandboxes.list() == [kept]
        assert kept.expires_at is not None
        assert plane.deadlines.next_due() == kept.expires_at.timestamp()
        await plane.relay.link(kept.id)
        agent = engine.agents[kept.id]
        await until(lambda: len(agent.claims) == 2)
        agent.exit(3)
        await until(lambda: plane.sandboxes.get(kept.id).state is State.FAILED)


async def test_a_deadline_that_passed_while_nobody_looked_is_enforced(home: Home, engine: AgentEngine) -> None:
    """By the reaper's first look."""
    async with home.run() as plane:
        sandbox = await plane.sandboxes.create(a_request(timeout_s=600))
        await crash(home)
    with home.store() as store:
        store.put(replace(sandbox, expires_at=utc_now() - timedelta(seconds=1)))
    async with home.run() as plane:
        await until(lambda: sandbox.id not in engine.sandbox_ids())
        await until(lambda: plane.sandboxes.list() == [])


async def test_a_sandbox_that_ended_while_nobody_looked(home: Home, engine: AgentEngine) -> None:
    """Its container exited, or is gone: Failed, and the reason says which."""
    async with home.run() as plane:
        exited = await plane.sandboxes.create(a_request(timeout_s=600))
        gone = await plane.sandboxes.create(a_request(timeout_s=600))
        await crash(home)
    await engine.die(exited.container_id, 139)
    await engine.remove(gone.container_id)
    async with home.run() as plane:
        ends = {one.id: (one.state, one.reason, one.message) for one in plane.sandboxes.list()}
        assert ends == {
            exited.id: (State.FAILED, "CONTAINER_EXITED_ERROR", "the container ended with exit code 139"),
            gone.id: (State.FAILED, "CONTAINER_VANISHED", "the engine does not know its container any more"),
        }
        await until(lambda: exited.id not in engine.sandbox_ids())
        due = plane.deadlines.next_due()
        assert due is not None
        assert due > (utc_now() + FINISHED_RETENTION - timedelta(seconds=30)).timestamp()
        await until(lambda: not any((home.sockets / one).exists() for one in (exited.id, gone.id)))


async def test_a_half_made_sandbox_is_removed(home: Home, engine: AgentEngine) -> None:
    """The run ended in the middle of a create: nobody was told of it, and its container is not reused."""
    engine.hold_claims = asyncio.Event()
    async with home.run() as plane:
        creating = asyncio.ensure_future(plane.sandboxes.create(a_request()))
        await asyncio.wait_for(engine.claimed.wait(), 5)
        (pending,) = plane.sandboxes.list()
        await crash(home)
        creating.cancel()
        with capture_logs():
            await asyncio.wait([creating])
    with home.store() as store:
        store.put(pending)
    assert pending.id in engine.sandbox_ids()
    engine.hold_claims = None
    async with home.run() as plane:
        await until(lambda: plane.sandboxes.list() == [])
        assert pending.id not in engine.sandbox_ids()
        assert pending.id not in plane.pool.warm_ids()
        await until(lambda: not (home.sockets / pending.id).exists())


async def test_a_half_removed_sandbox_is_finished(home: Home, engine: AgentEngine) -> None:
    """At each point between the decision and the end: nothing is left of it."""
    async with home.run() as plane:
        made = [await plane.sandboxes.create(a_request()) for _ in range(3)]
        await crash(home)
    with home.store() as store:
        for sandbox in made:
            store.put(replace(sandbox, state=State.STOPPING, reason="DELETED"))
    await engine.remove(made[1].container_id)
    await engine.remove(made[2].container_id)
    (home.sockets / made[2].id / "link.sock").unlink()
    (home.sockets / made[2].id).rmdir()
    async with home.run() as plane:
        assert plane.sandboxes.list() == []
        await until(lambda: not {sandbox.id for sandbox in made} & set(engine.sandbox_ids()))
        await until(lambda: plane.sandboxes.statistics().by_state[State.STOPPING] == 0)
        for sandbox in made:
            assert not (home.sockets / sandbox.id).exists()


async def test_volumes_that_an_earlier_run_left_are_removed(home: Home, engine: AgentEngine) -> None:
    """Made for a container that was never made, or left behind when that went; no others, and none that is used."""
    async with home.run() as plane:
        volume = Volume(name="v", mount_path="/v", volume_name="used", delete=True)
        kept = await plane.sandboxes.create(a_request(volumes=(volume,)))
        mine = engine.volumes["sandlot-claim-used"]
        await crash(home)
    engine.volumes["left"] = mine
    engine.volumes["lasting"] = mine._replace(disposable=False)
    engine.volumes["foreign"] = mine._replace(instance="another")
    async with home.run() as plane:
        await until(lambda: "left" not in engine.volumes)
        assert set(engine.volumes) == {"sandlot-claim-used", "lasting", "foreign"}
        await plane.sandboxes.delete(kept.id)
        await until(lambda: set(engine.volumes) == {"lasting", "foreign"})


async def test_a_last_user_that_ended_while_nobody_looked_takes_its_volume_along(
    home: Home, engine: AgentEngine
) -> None:
    """Its maker has ended before, so there is no record any more that asks for it."""
    async with home.run() as plane:
        volume = Volume(name="v", mount_path="/v", volume_name="shared", delete=True)
        maker, user = [await plane.sandboxes.create(a_request(volumes=(volume,))) for _ in range(2)]
        await plane.sandboxes.delete(maker.id)
        await until(lambda: [one.id for one in plane.sandboxes.list()] == [user.id])
        await crash(home)
    await engine.die(user.container_id)
    assert "sandlot-claim-shared" in engine.volumes
    async with home.run():
        await until(lambda: "sandlot-claim-shared" not in engine.volumes)


async def test_ended_sandboxes_are_remembered_as_long_as_before(home: Home) -> None:
    """Not for ever, and not until the deadline that they had; a left-over container of one is removed."""
    long_ago = utc_now() - FINISHED_RETENTION - timedelta(seconds=1)
    forgotten = a_record(State.FAILED, state_changed_at=long_ago)
    kept = a_record(State.TERMINATED, expires_at=utc_now() - timedelta(days=1), reason="CONTAINER_EXITED")
    with home.store() as store:
        store.put(forgotten)
        store.put(kept)
    (home.sockets / kept.id).mkdir(parents=True)
    async with home.run() as plane:
        assert plane.sandboxes.get(kept.id) == kept
        await until(lambda: plane.sandboxes.list() == [kept])
        assert plane.deadlines.next_due() == (kept.state_changed_at + FINISHED_RETENTION).timestamp()
        assert not (home.sockets / kept.id).exists()


async def test_a_container_left_over_by_an_ended_sandbox_is_removed(home: Home, engine: AgentEngine) -> None:
    """The run ended between writing the end down and removing the container."""
    async with home.run() as plane:
        sandbox = await plane.sandboxes.create(a_request())
        await crash(home)
    ended = replace(sandbox, state=State.FAILED, reason="CONTAINER_EXITED_ERROR")
    with home.store() as store:
        store.put(ended)
    async with home.run() as plane:
        await until(lambda: sandbox.id not in engine.sandbox_ids())
        assert plane.sandboxes.list() == [ended]


async def test_warm_containers_are_taken_over(home: Home, engine: AgentEngine) -> None:
    """A full pool without a single start; they serve claims."""
    async with home.run() as plane:
        warm = plane.pool.warm_ids()
        await crash(home)
    starts = engine.starts
    async with home.run() as plane:
        assert plane.pool.warm_ids() == warm
        assert engine.starts == starts
        sandbox = await plane.sandboxes.create(a_request())
        assert sandbox.id in warm


async def test_warm_containers_that_fit_no_pool_are_removed(home: Home, engine: AgentEngine) -> None:
    """The settings have changed."""
    async with home.run() as plane:
        warm = plane.pool.warm_ids()
        await crash(home)
    async with home.run(image="other/image") as plane:
        await until(lambda: not warm & engine.sandbox_ids())
        await until(lambda: not any((home.sockets / one).exists() for one in warm))


async def test_a_warm_container_that_does_not_come_back_is_replaced(
    home: Home, engine: AgentEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its agent hangs, or died: another takes its place."""
    monkeypatch.setattr(recovery_module, "ADOPT_TIMEOUT_S", 0.1)
    async with home.run() as plane:
        silent, dead = sorted(plane.pool.warm_ids())
        await crash(home)
    await engine.agents.pop(silent).aclose()
    dead_container = next(one for one in engine.containers.values() if one.spec.sandbox_id == dead)
    await engine.die(dead_container.told.id)
    async with home.run() as plane:
        assert plane.pool.warm_ids().isdisjoint({silent, dead})
        await until(lambda: engine.sandbox_ids() == plane.pool.warm_ids())
        await until(lambda: {path.name for path in home.sockets.iterdir()} == plane.pool.warm_ids())


async def test_stale_socket_directories_are_removed(home: Home) -> None:
    """Those without a container and a record; live ones stay."""
    async with home.run() as plane:
        sandbox = await plane.sandboxes.create(a_request())
        await crash(home)
    stale = home.sockets / "0123456789abcdef"
    stale.mkdir()
    (stale / "link.sock").touch()
    async with home.run() as plane:
        assert not stale.exists()
        assert (home.sockets / sandbox.id / "link.sock").exists()
        await plane.relay.link(sandbox.id)


async def test_an_engine_that_does_not_answer_at_the_start(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clear error; nothing is changed, nothing stays locked, and the next start works."""
    async with home.run() as plane:
        sandbox = await plane.sandboxes.create(a_request())
        await crash(home)

    async def fail(self: CutContainers) -> list[Container]:
        raise EngineUnavailable("the container engine does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(CutContainers, "list", fail)
        with pytest.raises(EngineUnavailable, match="the container engine does not answer"):
            async with home.run(full=False):
                pass
    async with home.run() as plane:
        assert plane.sandboxes.list() == [sandbox]


async def test_two_servers_cannot_share_their_sockets(home: Home, engine: AgentEngine) -> None:
    """A second one with a store of its own would take the first one's directories for stale."""
    async with home.run() as plane:
        sandbox = await plane.sandboxes.create(a_request())
        second = Home(engine)
        second.path.rmdir()
        second.path = home.path
        (home.path / "state").rename(home.path / "state-of-first")
        with pytest.raises(ConfigError, match=r"another Sandlot server uses .*/run: stop it"):
            async with second.run(full=False):
                pass
        await plane.relay.link(sandbox.id)


# -- sweeping


async def test_a_sweep_finds_nothing_to_do_where_all_is_well(
    home: Home, engine: AgentEngine, plane: ControlPlane
) -> None:
    """Running sandboxes, warm containers and ended records stay."""
    running = await plane.sandboxes.create(a_request())
    ended = await plane.sandboxes.create(a_request())
    engine.agents[ended.id].exit(0)
    await until(lambda: plane.sandboxes.get(ended.id).state is State.TERMINATED)
    await plane.pool.wait_full()
    before, warm = plane.sandboxes.list(), plane.pool.warm_ids()
    await plane.recovery.sweep()
    assert plane.sandboxes.list() == before
    assert plane.pool.warm_ids() == warm
    assert engine.sandbox_ids() == warm | {running.id}


async def test_a_sweep_leaves_alone_what_is_being_started(home: Home, engine: AgentEngine, plane: ControlPlane) -> None:
    """A container that the engine lists, before anybody else knows of it."""
    home.driver.slow_start = asyncio.Event()
    creating = asyncio.ensure_future(plane.sandboxes.create(a_request(image="other/image")))
    await until(lambda: any(one.spec.image == "other/image" for one in engine.containers.values()))
    await plane.recovery.sweep()
    home.driver.slow_start.set()
    assert (await creating).state is State.RUNNING


async def test_a_sweep_leaves_alone_what_is_being_claimed(engine: AgentEngine, plane: ControlPlane) -> None:
    """A record that is pending, with somebody who makes it."""
    engine.hold_claims = asyncio.Event()
    creating = asyncio.ensure_future(plane.sandboxes.create(a_request()))
    await asyncio.wait_for(engine.claimed.wait(), 5)
    await plane.recovery.sweep()
    engine.hold_claims.set()
    assert (await creating).state is State.RUNNING


async def test_a_sweep_leaves_alone_what_was_made_while_it_looked(
    home: Home, engine: AgentEngine, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's answer is old when it arrives: a sandbox that is not in it, because it is newer, lives on."""
    answer = await home.driver.containers.list()
    sandbox = await plane.sandboxes.create(a_request(image="other/image"))
    listed = asyncio.Event()
    gate = asyncio.Event()

    async def slow_list() -> list[Container]:
        listed.set()
        await gate.wait()
        return answer

    async def inspect(container_id: str) -> Container:
        return engine.find(container_id).told

    monkeypatch.setattr(home.driver.containers, "list", slow_list)
    monkeypatch.setattr(home.driver.containers, "inspect", inspect)
    sweeping = asyncio.ensure_future(plane.recovery.sweep())
    await listed.wait()
    newer = await plane.sandboxes.create(a_request(image="other/image"))
    gate.set()
    await sweeping
    assert {one.id: one.state for one in plane.sandboxes.list()} == {
        sandbox.id: State.RUNNING,
        newer.id: State.RUNNING,
    }
    assert {sandbox.id, newer.id} <= engine.sandbox_ids()


async def test_a_sweep_finds_what_died_unheard(engine: AgentEngine, plane: ControlPlane) -> None:
    """In a gap of events: a sandbox fails, a warm container is replaced."""
    sandbox = await plane.sandboxes.create(a_request())
    await plane.pool.wait_full()
    victim, other = sorted(plane.pool.warm_ids())
    engine.quiet = True
    await engine.die(sandbox.container_id, 9)
    await engine.die(next(one.told.id for one in engine.containers.values() if one.spec.sandbox_id == victim))
    engine.quiet = False
    assert plane.sandboxes.get(sandbox.id).state is State.RUNNING
    await plane.recovery.sweep()
    assert plane.sandboxes.get(sandbox.id).message == "the container ended with exit code 9"
    await until(lambda: plane.pool.is_full)
    assert other in plane.pool.warm_ids()
    assert victim not in plane.pool.warm_ids()
    await until(lambda: engine.sandbox_ids() == plane.pool.warm_ids())


async def test_a_sweep_removes_orphans(home: Home, engine: AgentEngine, plane: ControlPlane) -> None:
    """Containers with our label that nobody here knows, with their directories."""
    stranger = new_sandbox_id()
    directory = home.sockets / stranger
    directory.mkdir()
    spec = ContainerSpec(
        sandbox_id=stranger, image=IMAGE, socket_dir=str(directory), limits=Limits(), network=Network.NONE
    )
    await home.driver.containers.start(await home.driver.containers.create(spec))
    await plane.recovery.sweep()
    await until(lambda: stranger not in engine.sandbox_ids())
    await until(lambda: not directory.exists())


async def test_a_sweep_removes_what_could_not_be_discarded(
    home: Home, engine: AgentEngine, plane: ControlPlane
) -> None:
    """A cold container whose claim is gone, and an engine that failed just then: nobody's, so an orphan."""
    home.driver.slow_start = asyncio.Event()
    creating = asyncio.ensure_future(plane.sandboxes.create(a_request(image="other/image")))
    await until(lambda: any(one.spec.image == "other/image" for one in engine.containers.values()))
    creating.cancel()
    home.driver.fail_destroy = EngineUnavailable("hiccup")
    with capture_logs() as logs:
        home.driver.slow_start.set()
        await until(lambda: "pool.discard_failed" in [entry["event"] for entry in logs])
    home.driver.fail_destroy = None
    left = engine.sandbox_ids() - plane.pool.warm_ids()
    assert len(left) == 1
    await plane.recovery.sweep()
    await until(lambda: engine.sandbox_ids() == plane.pool.warm_ids())
    await until(lambda: {path.name for path in home.sockets.iterdir()} == plane.pool.warm_ids())


async def test_events_are_followed_again_after_the_engine_was_away(
    home: Home, engine: AgentEngine, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happened meanwhile is found, what happens later is heard, and readiness tells of the gap."""
    monkeypatch.setattr(recovery_module, "RECONNECT_S", 0.01)
    sandbox = await plane.sandboxes.create(a_request())
    assert plane.recovery.engine_answers

    async def broken():  # type: ignore[no-untyped-def]
        raise EngineUnavailable("no events from the engine for 60 s")
        yield

    following = home.driver.containers.events
    monkeypatch.setattr(home.driver.containers, "events", broken)
    with capture_logs() as logs:
        engine.cut_events()  # in a way that no driver should
        await until(lambda: not plane.recovery.engine_answers)
        await until(lambda: "engine.unavailable" in [entry["event"] for entry in logs])
        await engine.die(sandbox.container_id, 1)
    assert logs[0]["event"] == "recovery.watch_broken"
    monkeypatch.setattr(home.driver.containers, "events", following)
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.FAILED)
    assert plane.recovery.engine_answers
    other = await plane.sandboxes.create(a_request())
    await engine.die(other.container_id, 1)
    await until(lambda: plane.sandboxes.get(other.id).state is State.FAILED)


async def test_an_engine_that_falls_silent_is_told_of_at_once(engine: AgentEngine, plane: ControlPlane) -> None:
    """The driver goes on asking it; nobody waits until it gives up."""
    with capture_logs():
        for kind, answers in ((EventKind.DISCONNECTED, False), (EventKind.CONNECTED, True)):
            for queue in engine._subscribers:
                queue.put_nowait(("", RuntimeEvent(kind)))
            await until(lambda answers=answers: plane.recovery.engine_answers is answers)


async def test_a_sweep_that_fails_stops_nothing(
    home: Home, engine: AgentEngine, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine does not answer once: the next sweep is made all the same."""
    monkeypatch.setattr(recovery_module, "SWEEP_S", 0.01)
    home.driver.fail_list = EngineUnavailable("hiccup")
    with capture_logs() as logs:
        sweeping = asyncio.ensure_future(plane.recovery.sweep_forever())
        await until(lambda: [entry["event"] for entry in logs].count("recovery.sweep_failed") > 1)
    home.driver.fail_list = None
    sandbox = await plane.sandboxes.create(a_request())
    engine.quiet = True
    await engine.die(sandbox.container_id)
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.FAILED)
    sweeping.cancel()
    await asyncio.wait([sweeping])


# -- stopping


async def test_an_orderly_stop_removes_warm_containers_and_keeps_sandboxes(home: Home, engine: AgentEngine) -> None:
    """Nobody would end warm containers before the next start; sandboxes have their own time."""
    async with home.run() as plane:
        sandbox = await plane.sandboxes.create(a_request())
    assert engine.sandbox_ids() == {sandbox.id}
    assert {path.name for path in home.sockets.iterdir()} == {sandbox.id}
    async with home.run() as plane:
        assert plane.sandboxes.get(sandbox.id) == sandbox
        await plane.sandboxes.delete(sandbox.id)
        with pytest.raises(NotFound):
            await until(lambda: plane.sandboxes.get(sandbox.id) is None)
    assert engine.sandbox_ids() == set()


async def test_a_stop_in_the_middle_of_starts_leaves_nothing(home: Home, engine: AgentEngine) -> None:
    """Containers that are being made are removed, and no socket stays."""
    async with home.run(full=False, pool_size=0) as plane:
        home.driver.slow_start = asyncio.Event()
        creating = asyncio.ensure_future(plane.sandboxes.create(a_request()))
        await until(lambda: engine.containers)
        creating.cancel()
    assert engine.containers == {}
    assert list(home.sockets.iterdir()) == []
