"""Snapshots: what they are made of, what becomes of them, and what is made of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from controlplane.composition import ControlPlane
from controlplane.config import StorageSettings
from controlplane.errors import Conflict, ImageMissing, NotFound, RuntimeFailure
from controlplane.sandbox import Snapshot, SnapshotState, State
from tests.control_plane import Home, a_request, until
from tests.fakes.agents import AgentEngine


@pytest.fixture
async def engine() -> AgentEngine:
    return AgentEngine("fake/image")


@pytest.fixture
async def home(engine: AgentEngine) -> AsyncIterator[Home]:
    home = Home(engine)
    yield home
    await home.aclose()


@pytest.fixture
async def plane(home: Home) -> AsyncIterator[ControlPlane]:
    async with home.run() as plane:
        yield plane


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


async def test_a_snapshot_is_deleted_when_nobody_lives_on_it(plane: ControlPlane, engine: AgentEngine) -> None:
    source = await plane.sandboxes.create(a_request())
    snapshot = await ready(plane, plane.snapshots.create(source.id, ""))
    restored = await plane.sandboxes.create(a_request(image="", snapshot_id=snapshot.id))
    with pytest.raises(Conflict) as refused:
        await plane.snapshots.delete(snapshot.id)
    assert refused.value.code == "snapshot.in_use"
    assert plane.snapshots.get(snapshot.id).state is SnapshotState.READY

    await plane.sandboxes.delete(restored.id)
    await until(lambda: restored.id not in engine.sandbox_ids())
    await plane.snapshots.delete(snapshot.id)

    assert snapshot.image not in engine.images
    for question in (plane.snapshots.get, lambda one: plane.snapshots.create(one, "")):
        with pytest.raises(NotFound):
            question(snapshot.id)
    with pytest.raises(NotFound):
        await plane.sandboxes.create(a_request(image="", snapshot_id=snapshot.id))


async def test_one_that_is_being_made(plane: ControlPlane, home: Home) -> None:
    """No sandbox starts from it, and it is not deleted; the sandbox counts as running, though the engine pauses it."""
    source = await plane.sandboxes.create(a_request())
    home.driver.slow_commit = asyncio.Event()
    snapshot = plane.snapshots.create(source.id, "")
    with pytest.raises(Conflict) as early:
        await plane.sandboxes.create(a_request(image="", snapshot_id=snapshot.id))
    assert early.value.code == "snapshot.not_ready"
    with pytest.raises(Conflict):
        await plane.snapshots.delete(snapshot.id)
    await home.driver.pause(source.container_id)  # as the engine does, and tells of it
    await plane.recovery.sweep()
    assert plane.sandboxes.get(source.id).state is State.RUNNING
    await home.driver.resume(source.container_id)
    home.driver.slow_commit.set()
    assert (await ready(plane, snapshot)).state is SnapshotState.READY


async def test_one_that_could_not_be_made_says_why(plane: ControlPlane, home: Home) -> None:
    """It stays, to be asked about, and can be deleted."""
    source = await plane.sandboxes.create(a_request())
    home.driver.fail_commit = RuntimeFailure("no space left")
    with capture_logs():
        snapshot = await ready(plane, plane.snapshots.create(source.id, ""))
    assert (snapshot.state, snapshot.reason, snapshot.message) == (
        SnapshotState.FAILED,
        "COMMIT_FAILED",
        "no space left",
    )
    with pytest.raises(Conflict):
        await plane.sandboxes.create(a_request(image="", snapshot_id=snapshot.id))
    await plane.snapshots.delete(snapshot.id)
    assert plane.snapshots.list() == []


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
        assert plane.snapshots.get(cut.id).reason == "INTERRUPTED"


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
