"""Events, and who hears of them: the creator of a sandbox, the pool, or the sandbox itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from controlplane.errors import StartFailed
from controlplane.lifecycle.following import Following
from controlplane.runtime.driver import Container, ContainerState
from controlplane.runtime.events import EventKind, RuntimeEvent
from controlplane.sandbox import DISK_LIMIT, EXITED_ERROR, PROTOCOL_VIOLATION, VANISHED, State
from tests.support.server.parts import Parts, a_record, parts


class World:
    """Following, with stand-ins for creation, pool and entrypoints that remember what they hear."""

    def __init__(self, below: Parts) -> None:
        self.below = below
        self.making: set[str] = set()
        self.warm: set[str] = set()
        self.heard: list[tuple[str, str]] = []  # by whom, and of which container
        self.following = Following(
            below.registry,
            below.directory,
            _Losing("pool", self.warm, self.heard),
            _Losing("creation", self.making, self.heard),
            self,
            below.endings,
        )

    def follow_again(self, sandbox: object, link: _Link) -> None:
        """As `Entrypoints.follow_again`."""
        self.heard.append(("entrypoints", link.sandbox_id))


class _Losing:
    """As `Creation.lost` and `Pool.lost`."""

    def __init__(self, name: str, mine: set[str], heard: list[tuple[str, str]]) -> None:
        self._name = name
        self._mine = mine
        self._heard = heard

    def lost(self, sandbox_id: str, _ended: StartFailed | None = None) -> bool:
        if sandbox_id in self._mine:
            self._heard.append((self._name, sandbox_id))
        return sandbox_id in self._mine


class _Link:
    def __init__(self, sandbox_id: str) -> None:
        self.sandbox_id = sandbox_id


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with parts() as below:
        yield World(below)


def died(sandbox_id: str = "one") -> RuntimeEvent:
    return RuntimeEvent(EventKind.DIED, sandbox_id, "c", 137)


async def test_a_container_that_died_is_somebody_s(world: World) -> None:
    """Its creator hears of it first, then the pool; only a sandbox that neither of them has fails."""
    world.below.put()
    world.making.add("one")
    world.warm.add("one")
    world.following.on_engine_event(died())
    world.making.clear()
    world.following.on_engine_event(died())
    assert world.heard == [("creation", "one"), ("pool", "one")]
    assert world.below.registry.get("one").state is State.RUNNING
    world.warm.clear()
    with capture_logs():
        world.following.on_engine_event(died())
    assert world.below.registry.get("one").reason == EXITED_ERROR
    assert "exit code 137" in world.below.registry.get("one").message


async def test_who_waits_for_a_link_hears_that_its_container_died(world: World) -> None:
    """Whoever it belongs to."""
    waiting = asyncio.ensure_future(world.below.directory.wait("one", timeout_s=10))
    await asyncio.sleep(0)
    world.following.on_engine_event(died())
    with pytest.raises(StartFailed, match="exit code 137"):
        await waiting


async def test_each_event_has_its_reason(world: World) -> None:
    """And what nobody knows is nobody's."""
    following = world.following
    container = Container(
        id="c", sandbox_id="one", image="i", state=ContainerState.EXITED, labels={}, exit_code=1, oom_killed=True
    )
    events = [
        (lambda: following.on_violation("one", "a bad frame"), PROTOCOL_VIOLATION, "its agent broke the protocol"),
        (lambda: following.on_overfilled("one", "too much"), DISK_LIMIT, "too much"),
        (lambda: following.on_engine_event(RuntimeEvent(EventKind.REMOVED, "one", "c")), VANISHED, "not by us"),
        (lambda: following.on_vanished("one", None), VANISHED, "does not know"),
        (lambda: following.on_vanished("one", container), EXITED_ERROR, r"exit code 1 (out of memory)"),
    ]
    with capture_logs():
        for event, reason, text in events:
            event()
            world.below.put()
            event()
            failed = world.below.registry.get("one")
            assert (failed.state, failed.reason) == (State.FAILED, reason)
            assert text in failed.message
            world.below.registry.forget("one")


async def test_the_kernel_s_end_of_a_process_is_noted_and_ends_nothing(world: World) -> None:
    event = RuntimeEvent(EventKind.OOM, "one", "c")
    with capture_logs():
        world.following.on_engine_event(event)
        assert world.below.registry.journal.entries("one") == []
        world.below.put()
        world.following.on_engine_event(event)
    assert [entry.kind for entry in world.below.registry.journal.entries("one")] == ["OutOfMemory"]
    assert world.below.registry.get("one").state is State.RUNNING


@pytest.mark.parametrize(
    ("state", "is_followed"),
    [(State.PENDING, False), (State.RUNNING, True), (State.PAUSED, True), (State.STOPPING, False)],
)
async def test_a_link_that_came_back_is_followed_again(world: World, state: State, *, is_followed: bool) -> None:
    """Of a claimed sandbox; a sandbox that is being made is followed by its creator."""
    world.following.on_link(_Link("one"))
    world.below.registry.put(a_record(state))
    world.following.on_link(_Link("one"))
    assert world.heard == [("entrypoints", "one")] * is_followed
