"""Snapshots: what they are made of, what becomes of them, and what is made of them."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from controlplane.errors import Conflict, EngineUnavailable, ImageMissing, NotFound, RuntimeFailure
from controlplane.lifecycle import snapshots as snapshots_module
from controlplane.lifecycle.snapshots import COMMITS_AT_ONCE
from controlplane.runtime.driver import ContainerState
from controlplane.sandbox import Snapshot, SnapshotState, State, status_of_snapshot
from controlplane.server.composition import ControlPlane
from controlplane.settings.sections import StorageSettings
from controlplane.tasks import Slots
from tests.support.fakes.agents import AgentEngine
from tests.support.server.control_plane import Home, a_request, stuck_store, until


async def ready(plane: ControlPlane, snapshot: Snapshot) -> Snapshot:
    """Wait until it is made, or has failed."""
    await until(lambda: plane.snapshots.get(snapshot.id).state is not SnapshotState.CREATING)
    return plane.snapshots.get(snapshot.id)


@pytest.mark.parametrize("paused", [False, True])
async def test_a_sandbox_starts_from_a_snapshot(plane: ControlPlane, engine: AgentEngine, paused: bool) -> None:
    """Of a running or a paused one. It has the variables of its source, unless others are asked for."""
    source = await plane.sandboxes.create(a_request(env={"A": "1", "B": "1"}))
    if paused:
        await plane.pauses.pause(source.id)
    snapshot = plane.snapshots.create(source.id, "mine")
    assert (snapshot.state, snapshot.name, snapshot.sandbox_id) == (SnapshotState.CREATING, "mine", source.id)
    assert (await ready(plane, snapshot)).state is SnapshotState.READY
    assert plane.sandboxes.get(source.id).state is (State.PAUSED if paused else State.RUNNING)

    restored = await plane.sandboxes.create(a_request(image="", snapshot_id=snapshot.id, env={"B": "2"}))

    assert (restored.snapshot_id, restored.spec.image) == (snapshot.id, snapshot.image)
    assert restored.spec.env == {"A": "1", "B": "2"}


async def test_a_snapshot_is_deleted_when_nobody_lives_on_it(
    home: Home, plane: ControlPlane, engine: AgentEngine
) -> None:
    source = await plane.sandboxes.create(a_request())
    snapshot = await ready(plane, plane.snapshots.create(source.id, ""))
    restored = await plane.sandboxes.create(a_request(image="", snapshot_id=snapshot.id))
    with pytest.raises(Conflict) as refused:
        await plane.snapshots.delete(snapshot.id)
    assert refused.value.code == "snapshot.in_use"
    assert plane.snapshots.get(snapshot.id).state is SnapshotState.READY

    home.driver.hold_destroy = asyncio.Event()  # its container is still there when the snapshot is deleted
    await plane.sandboxes.delete(restored.id)
    deleting = [asyncio.ensure_future(plane.snapshots.delete(snapshot.id)) for _ in range(2)]
    await until(lambda: engine.refused_removals >= 2)
    assert plane.snapshots.get(snapshot.id).state is SnapshotState.DELETING
    assert not any(task.done() for task in deleting)
    home.driver.hold_destroy.set()
    await asyncio.gather(*deleting)  # the second one waits for the first

    assert snapshot.image not in engine.images
    for question in (plane.snapshots.get, lambda one: plane.snapshots.create(one, "")):
        with pytest.raises(NotFound):
            question(snapshot.id)
    with pytest.raises(NotFound):
        await plane.sandboxes.create(a_request(image="", snapshot_id=snapshot.id))


async def test_a_delete_ends_also_when_nobody_waits_for_it(
    home: Home, plane: ControlPlane, engine: AgentEngine
) -> None:
    source = await plane.sandboxes.create(a_request())
    snapshot = await ready(plane, plane.snapshots.create(source.id, ""))
    restored = await plane.sandboxes.create(a_request(image="", snapshot_id=snapshot.id))
    home.driver.hold_destroy = asyncio.Event()
    engine.agents[restored.id].exit(3)  # one that failed is no user either, and is remembered
    await until(lambda: plane.sandboxes.get(restored.id).state is State.FAILED)
    deleting = asyncio.ensure_future(plane.snapshots.delete(snapshot.id))
    await until(lambda: engine.refused_removals >= 1)
    deleting.cancel()
    await asyncio.wait([deleting])
    home.driver.hold_destroy.set()
    await until(lambda: plane.snapshots.list() == [])
    assert snapshot.image not in engine.images


async def test_a_container_that_does_not_go_keeps_its_snapshot(
    home: Home, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delete does not wait for ever."""
    monkeypatch.setattr(snapshots_module, "REMOVAL_PATIENCE_S", 0.1)
    source = await plane.sandboxes.create(a_request())
    snapshot = await ready(plane, plane.snapshots.create(source.id, ""))
    restored = await plane.sandboxes.create(a_request(image="", snapshot_id=snapshot.id))
    home.driver.fail_destroy = EngineUnavailable("hiccup")
    with capture_logs():
        await plane.sandboxes.delete(restored.id)
        with pytest.raises(Conflict, match="a container that is not removed yet") as refused:
            await plane.snapshots.delete(snapshot.id)
    assert refused.value.code == "snapshot.in_use"
    assert plane.snapshots.get(snapshot.id) == snapshot
    home.driver.fail_destroy = None


async def test_a_server_that_is_killed_leaves_no_source_standing_still(home: Home, engine: AgentEngine) -> None:
    """It goes on with the next start; one that its client had paused stays so."""
    async with home.run() as plane:
        running, paused = [await plane.sandboxes.create(a_request()) for _ in range(2)]
        await plane.pauses.pause(paused.id)
        home.driver.slow_commit = asyncio.Event()
        for source in (running, paused):
            plane.snapshots.create(source.id, "")
        home.driver.cut = True
    engine.pause(running.container_id)  # as the driver did before it was killed
    async with home.run() as plane:
        await until(lambda: plane.sandboxes.get(running.id).state is State.RUNNING)
        assert plane.sandboxes.get(paused.id).state is State.PAUSED
        assert {snapshot.state for snapshot in plane.snapshots.list()} == {SnapshotState.FAILED}


async def test_one_that_is_being_made(plane: ControlPlane, home: Home) -> None:
    """No sandbox starts from it, and it is not deleted; the sandbox counts as running, though the engine pauses it."""
    source = await plane.sandboxes.create(a_request())
    home.driver.slow_commit = asyncio.Event()
    snapshot = plane.snapshots.create(source.id, "")
    with pytest.raises(Conflict) as early:
        await plane.sandboxes.create(a_request(image="", snapshot_id=snapshot.id))
    assert early.value.code == "snapshot.not_ready"
    with pytest.raises(Conflict) as early:
        await plane.snapshots.delete(snapshot.id)
    assert early.value.code == "snapshot.being_made"
    await home.driver.containers.pause(source.container_id)  # as the engine does, and tells of it
    await plane.recovery.sweep()
    assert plane.sandboxes.get(source.id).state is State.RUNNING
    await home.driver.containers.resume(source.container_id)
    home.driver.slow_commit.set()
    assert (await ready(plane, snapshot)).state is SnapshotState.READY


async def test_a_pause_during_a_snapshot_waits_for_it(plane: ControlPlane, home: Home, engine: AgentEngine) -> None:
    """Otherwise the end of the snapshot would undo it. So do a resume and another snapshot."""
    source = await plane.sandboxes.create(a_request())
    home.driver.slow_commit = asyncio.Event()
    first, second = plane.snapshots.create(source.id, "1"), plane.snapshots.create(source.id, "2")
    await until(lambda: home.driver.commits_under_way == 1)
    pausing = asyncio.ensure_future(plane.pauses.pause(source.id))
    await until(lambda: plane.sandboxes.get(source.id).state is State.PAUSING)
    assert engine.find(source.container_id).told.state is ContainerState.RUNNING
    home.driver.slow_commit.set()
    await pausing
    assert engine.find(source.container_id).told.state is ContainerState.PAUSED
    for snapshot in (first, second):
        assert (await ready(plane, snapshot)).state is SnapshotState.READY
    assert home.driver.most_commits_under_way == 1
    await plane.recovery.sweep()
    assert plane.sandboxes.get(source.id).state is State.PAUSED


async def test_one_that_could_not_be_made_says_why(plane: ControlPlane, home: Home) -> None:
    """It stays, to be asked about, and can be deleted."""
    source = await plane.sandboxes.create(a_request())
    home.driver.fail_commit = RuntimeFailure("no space left")
    with capture_logs():
        snapshot = await ready(plane, plane.snapshots.create(source.id, ""))
    assert snapshot.state is SnapshotState.FAILED
    assert status_of_snapshot(snapshot) == ("snapshot_runtime_failed", "no space left")
    with pytest.raises(Conflict):
        await plane.sandboxes.create(a_request(image="", snapshot_id=snapshot.id))
    await plane.snapshots.delete(snapshot.id)
    assert plane.snapshots.list() == []


@pytest.mark.parametrize("by_client", [True, False])
async def test_one_whose_source_goes_meanwhile_says_so(
    plane: ControlPlane, home: Home, engine: AgentEngine, by_client: bool
) -> None:
    """And not what the engine makes of a container that it removes."""
    source = await plane.sandboxes.create(a_request())
    home.driver.slow_commit = asyncio.Event()
    home.driver.fail_commit = RuntimeFailure("you cannot commit a container which is being removed")
    snapshot = plane.snapshots.create(source.id, "")
    await until(lambda: home.driver.commits_under_way == 1)
    with capture_logs():
        if by_client:
            await plane.sandboxes.delete(source.id)
            end = "was deleted while the snapshot was made"
        else:
            engine.agents[source.id].exit(3)
            await until(lambda: plane.sandboxes.get(source.id).state is State.FAILED)
            end = "ended while the snapshot was made (CONTAINER_EXITED_ERROR: the entrypoint ended: exit, exit code 3)"
        home.driver.slow_commit.set()
        snapshot = await ready(plane, snapshot)
    assert status_of_snapshot(snapshot) == ("snapshot_runtime_failed", f"sandbox {source.id} {end}")


async def test_no_more_than_the_settings_allow(home: Home) -> None:
    """And the refusal says what to do."""
    async with home.run(storage=StorageSettings(max_snapshots=1)) as plane:
        source = await plane.sandboxes.create(a_request())
        first = plane.snapshots.create(source.id, "")
        with pytest.raises(Conflict, match="max_snapshots"):
            plane.snapshots.create(source.id, "")
        await ready(plane, first)
        await plane.snapshots.delete(first.id)
        await ready(plane, plane.snapshots.create(source.id, ""))


async def test_they_outlive_the_server(home: Home, engine: AgentEngine) -> None:
    """One that was being made has failed; one that was being deleted is gone."""
    async with home.run() as plane:
        source = await plane.sandboxes.create(a_request())
        kept, cut, going = [
            await ready(plane, plane.snapshots.create(source.id, name)) for name in ("kept", "cut", "going")
        ]
    with home.store() as store:
        for snapshot, state in ((cut, SnapshotState.CREATING), (going, SnapshotState.DELETING)):
            store.put_snapshot(Snapshot(**{**as_dict(snapshot), "state": state}))
    async with home.run() as plane:
        await until(lambda: going.image not in engine.images)
        await until(lambda: len(plane.snapshots.list()) == 2)
        assert plane.snapshots.get(kept.id) == kept
        assert plane.snapshots.get(cut.id).reason == "snapshot_recovery_failed"


async def test_a_snapshot_whose_image_is_gone_is_said_to_be_missing(plane: ControlPlane, engine: AgentEngine) -> None:
    """Nobody looks for it in a registry."""
    source = await plane.sandboxes.create(a_request())
    snapshot = await ready(plane, plane.snapshots.create(source.id, ""))
    engine.images.discard(snapshot.image)
    engine.registry[snapshot.image] = None
    with pytest.raises(ImageMissing), capture_logs():
        await plane.sandboxes.create(a_request(image="", snapshot_id=snapshot.id))


def as_dict(snapshot: Snapshot) -> dict[str, object]:
    return {name: getattr(snapshot, name) for name in snapshot.__struct_fields__}


@pytest.mark.parametrize("fails", [False, True])
async def test_a_snapshot_whose_end_cannot_be_written_down(home: Home, plane: ControlPlane, *, fails: bool) -> None:
    """It is ready, or failed, all the same; the store has it as soon as it can."""
    source = await plane.sandboxes.create(a_request())
    home.driver.slow_commit = asyncio.Event()
    if fails:
        home.driver.fail_commit = RuntimeFailure("no")
    snapshot = plane.snapshots.create(source.id, "")
    with stuck_store(home), capture_logs():
        home.driver.slow_commit.set()
        settled = await ready(plane, snapshot)
        assert settled.state is (SnapshotState.FAILED if fails else SnapshotState.READY)
        assert plane.registry.late_writes.is_late(snapshot.id)
    await until(lambda: not plane.registry.late_writes.is_late(snapshot.id))
    await plane.snapshots.delete(snapshot.id)


@pytest.mark.attack(
    "resources",
    "A client makes many snapshots at once",
    "The engine makes two of them at a time; one that takes long keeps others waiting for a minute",
)
@pytest.mark.parametrize("at_once", [COMMITS_AT_ONCE, 100], ids=["bounded", "unbounded"])
async def test_snapshots_are_bounded(home: Home, plane: ControlPlane, at_once: int) -> None:
    """The others wait for their turn, as Creating."""
    plane.snapshots._commits = Slots(at_once, longest_s=60)
    home.driver.slow_commit = asyncio.Event()
    sources = [await plane.sandboxes.create(a_request()) for _ in range(4)]
    made = [plane.snapshots.create(source.id, "") for source in sources]
    await until(lambda: home.driver.commits_under_way >= min(at_once, 4))
    home.driver.slow_commit.set()
    assert {(await ready(plane, snapshot)).state for snapshot in made} == {SnapshotState.READY}
    assert home.driver.most_commits_under_way == min(at_once, 4)
