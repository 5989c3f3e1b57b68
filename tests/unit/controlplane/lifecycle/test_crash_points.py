"""A control plane that is killed before any one of its effects: the next one leaks nothing and loses nothing.

An effect is what outlives the process: a change in the engine, a write to the store. For every number n the same story
is told, and from the n-th effect on nothing has any effect any more; then another control plane starts.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from controlplane.errors import EngineUnavailable, NotFound, SandboxEnded, SandlotError, StoreError
from controlplane.lifecycle import recovery as recovery_module
from controlplane.lifecycle.records.registry import utc_now
from controlplane.lifecycle.snapshots import REPOSITORY
from controlplane.runtime.docker.volumes import PREFIX, engine_name
from controlplane.sandbox import Limits, SnapshotState, State, Volume
from controlplane.server.composition import ControlPlane
from controlplane.store.store import Store
from tests.support.fakes.agents import AgentEngine, CutContainers, CutVolumes
from tests.support.fakes.driver import FakeImages
from tests.support.server.control_plane import IMAGE, Home, a_request, until

OTHER = "other/image"
SHORT, LASTING = "short", "lasting"  # claims: one goes with its last user


class Life:
    """How many effects there may still be. Used up, the process is as good as dead."""

    def __init__(self, effects: int) -> None:
        self.left = effects
        self.over = asyncio.Event()

    def spend(self, error: SandlotError) -> None:
        if self.left == 0:
            self.over.set()
            raise error
        self.left -= 1


class Story:
    """What happened, as far as its callers were told."""

    def __init__(self) -> None:
        self.created: set[str] = set()
        self.gone: set[str] = set()  # deleted, or expired
        self.deadlines: dict[str, Any] = {}
        self.snapshots: set[str] = set()
        self.claims: set[str] = set()  # whose volumes must stay

    async def tell(self, plane: ControlPlane, engine: AgentEngine) -> None:
        """Creates warm and cold, other limits, a renewal, a delete, an exit, pauses, an expiry, snapshots, volumes."""
        first = await self.create(plane)
        due = utc_now() + timedelta(hours=2)
        plane.sandboxes.renew(first, due)
        self.deadlines[first] = due
        second = await self.create(plane, image=OTHER)
        third = await self.create(plane, limits=Limits(cpus=0.5))
        engine.agents[third].exit(1)
        await plane.pauses.pause(first)
        await plane.pauses.resume(first)
        await plane.pauses.pause(second)
        await plane.sandboxes.delete(second)
        self.gone.add(second)
        fourth = await self.create(plane, timeout_s=60)
        plane.endings.expire(fourth, time.time() + 61)
        self.gone.add(fourth)
        kept = plane.snapshots.create(first, "kept").id
        self.snapshots.add(kept)
        dropped = plane.snapshots.create(first, "").id
        await until(lambda: all(one.state is SnapshotState.READY for one in plane.snapshots.list()))
        await plane.snapshots.delete(dropped)
        volumes = tuple(
            Volume(name=claim, mount_path=f"/{claim}", volume_name=claim, delete=claim == SHORT)
            for claim in (SHORT, LASTING)
        )
        maker = await self.create(plane, volumes=volumes)
        self.claims.add(LASTING)
        user = await self.create(plane, volumes=volumes)
        for sandbox_id in (maker, user):
            await plane.sandboxes.delete(sandbox_id)
            self.gone.add(sandbox_id)
        await until(lambda: not {second, third, fourth, maker, user} & engine.sandbox_ids())
        await until(lambda: PREFIX + SHORT not in engine.volumes)
        await self.create(plane)

    async def create(self, plane: ControlPlane, **changes: Any) -> str:
        sandbox = await plane.sandboxes.create(a_request(**changes))
        self.created.add(sandbox.id)
        return sandbox.id


async def live(home: Home, engine: AgentEngine, story: Story, life: Life) -> bool:
    """Tell the story until it ends, or life does; return whether life did."""
    async with home.run(full=False) as plane:
        telling = asyncio.ensure_future(story.tell(plane, engine))
        dying = asyncio.ensure_future(life.over.wait())
        await asyncio.wait([telling, dying], return_when=asyncio.FIRST_COMPLETED)
        if not telling.done():
            telling.cancel()
        await asyncio.wait([telling])
        if not telling.cancelled() and not life.over.is_set():
            telling.result()
        dying.cancel()
        died = life.over.is_set()
        life.left = 0  # an orderly end would tidy up
    return died


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> list[Life]:
    """Make every effect of a control plane cost a bit of the life in this list, while there is one."""
    lives: list[Life] = []

    def costs(cls: type, name: str, error: SandlotError) -> None:
        plain = getattr(cls, name)

        async def effect(self: object, *arguments: object) -> object:
            if lives:
                lives[0].spend(error)
            return await plain(self, *arguments)

        def write(self: object, *arguments: object, **more: object) -> object:
            if lives:
                lives[0].spend(error)
            return plain(self, *arguments, **more)

        monkeypatch.setattr(cls, name, write if cls is Store else effect)

    for verb in ("create", "start", "resize", "pause", "resume", "destroy"):
        costs(CutContainers, verb, EngineUnavailable("dead"))
    for verb in ("commit", "remove"):
        costs(FakeImages, verb, EngineUnavailable("dead"))
    costs(CutVolumes, "remove_unused", EngineUnavailable("dead"))
    for verb in ("put", "delete", "put_snapshot", "delete_snapshot"):
        costs(Store, verb, StoreError("dead"))
    return lives


async def check(home: Home, engine: AgentEngine, story: Story) -> None:
    """Start again: everything is as it should be."""
    async with home.run() as plane:
        ended = (State.FAILED, State.TERMINATED)

        def running() -> set[str]:
            return {one.id for one in plane.sandboxes.list() if one.state in (State.RUNNING, State.PAUSED)}

        def is_settled() -> bool:
            known = running() | plane.pool.warm_ids()
            directories = {path.name for path in home.sockets.iterdir()}
            states = {one.state for one in plane.sandboxes.list()}
            return states <= {State.RUNNING, State.PAUSED, *ended} and engine.sandbox_ids() == known == directories

        await until(lambda: is_settled() and len(plane.pool.warm_ids()) == 2)
        used = {engine_name(volume) for one in plane.sandboxes.list() for volume in one.spec.volumes}
        await until(lambda: set(engine.volumes) - {PREFIX + LASTING} <= used)
        assert used | {PREFIX + claim for claim in story.claims} <= set(engine.volumes)
        # What was acknowledged is so, and nobody is made of a used container.
        for sandbox_id in story.created - story.gone:
            assert plane.sandboxes.get(sandbox_id).state in (State.RUNNING, State.PAUSED, *ended)
        # A snapshot that somebody was told of is there, whole or failed; no image is without its record.
        await until(
            lambda: {one.state for one in plane.snapshots.list()} <= {SnapshotState.READY, SnapshotState.FAILED}
        )
        assert story.snapshots <= {one.id for one in plane.snapshots.list()}
        ready = {one.image for one in plane.snapshots.list() if one.state is SnapshotState.READY}
        images = {image for image in engine.images if image.startswith(REPOSITORY)}
        assert ready <= images <= {one.image for one in plane.snapshots.list()}
        for sandbox_id in story.gone:
            with pytest.raises(NotFound):
                plane.sandboxes.get(sandbox_id)
        for sandbox_id in plane.pool.warm_ids():
            assert engine.agents[sandbox_id].claims == []
        for sandbox_id in running():
            if plane.sandboxes.get(sandbox_id).state is State.PAUSED:
                await plane.pauses.resume(sandbox_id)
            try:
                await plane.relay.link(sandbox_id)
            except SandboxEnded:  # its entrypoint had ended before the death, and this life has just heard of it
                assert plane.sandboxes.get(sandbox_id).state in ended
                continue
            assert {claim.id for claim in engine.agents[sandbox_id].claims} == {sandbox_id}
            if sandbox_id in story.deadlines:
                assert plane.sandboxes.get(sandbox_id).expires_at == story.deadlines[sandbox_id]


async def one_death(effects: int, mortal: list[Life]) -> bool:
    """Live with so many effects, die, start again; return whether death came before the end of the story."""
    engine = AgentEngine(IMAGE, OTHER)
    home = Home(engine)
    life, story = Life(effects), Story()
    try:
        mortal.append(life)
        with capture_logs():
            died = await live(home, engine, story, life)
        mortal.clear()
        await check(home, engine, story)
    finally:
        mortal.clear()
        await home.aclose()
    return died


async def test_death_before_every_effect(mortal: list[Life], monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first to the last."""
    monkeypatch.setattr(recovery_module, "ADOPT_TIMEOUT_S", 2.0)
    effects = 0
    while await one_death(effects, mortal):
        effects += 1
    assert effects > 25
