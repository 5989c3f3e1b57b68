"""What can be done with sandboxes, and what happens to them, on an engine whose agents the test directs."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from controlplane.composition import ControlPlane
from controlplane.errors import (
    AgentError,
    Conflict,
    EngineUnavailable,
    InvalidRequest,
    LinkLost,
    NotFound,
    RuntimeFailure,
    StartFailed,
)
from controlplane.lifecycle import claim
from controlplane.lifecycle import sandboxes as sandboxes_module
from controlplane.lifecycle.reaper import reap_once
from controlplane.lifecycle.registry import utc_now
from controlplane.lifecycle.sandboxes import FINISHED_RETENTION
from controlplane.runtime.driver import EventKind, RuntimeEvent
from controlplane.sandbox import Limits, Sandbox, State, Volume
from controlplane.store import StoreError
from execd.errors import ExecdError
from tests.control_plane import Home, a_request, until
from tests.fakes.agents import AgentEngine


@pytest.fixture
async def engine() -> AgentEngine:
    return AgentEngine("fake/image", "other/image")


@pytest.fixture
async def home(engine: AgentEngine) -> AsyncIterator[Home]:
    home = Home(engine)
    yield home
    await home.aclose()


@pytest.fixture
async def plane(home: Home) -> AsyncIterator[ControlPlane]:
    async with home.run() as plane:
        yield plane


@contextlib.contextmanager
def stuck_store(home: Home) -> Iterator[None]:
    """While this lasts, nothing can be written down."""
    holder = sqlite3.connect(home.path / "state" / "sandlot.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        holder.close()


def traces(home: Home, plane: ControlPlane) -> set[str]:
    """All sandboxes and containers of which anything is left, beside those that are warm or being started."""
    records = {sandbox.id for sandbox in plane.sandboxes.list()}
    directories = {path.name for path in home.sockets.iterdir()}
    engine: AgentEngine = home.engine  # type: ignore[assignment]
    return (records | directories | engine.sandbox_ids()) - plane.pool.warm_ids()


async def nothing_left(home: Home, plane: ControlPlane) -> None:
    """Wait until only a full pool is left."""
    await until(lambda: plane.pool.is_full and not traces(home, plane))


# -- create


async def test_a_sandbox_is_made_of_a_warm_container(home: Home, engine: AgentEngine, plane: ControlPlane) -> None:
    """Running at once, written down, its identity given to execd, its deadline set."""
    warm = plane.pool.warm_ids()
    before = utc_now()
    sandbox = await plane.sandboxes.create(a_request(env={"A": "b"}, metadata={"who": "me"}, timeout_s=60))
    assert sandbox.id in warm
    assert sandbox.state is State.RUNNING
    assert sandbox.expires_at is not None
    assert before + timedelta(seconds=60) <= sandbox.expires_at <= utc_now() + timedelta(seconds=60)
    assert plane.sandboxes.get(sandbox.id) == sandbox
    (claimed,) = engine.agents[sandbox.id].claims
    assert (claimed.id, claimed.env, claimed.entrypoint) == (sandbox.id, {"A": "b"}, ("tail", "-f", "/dev/null"))
    assert plane.deadlines.next_due() == sandbox.expires_at.timestamp()


async def test_an_image_that_is_not_pooled_is_started_for_it(plane: ControlPlane) -> None:
    """The cold road."""
    sandbox = await plane.sandboxes.create(a_request(image="other/image"))
    assert (sandbox.state, sandbox.spec.image, sandbox.expires_at) == (State.RUNNING, "other/image", None)
    assert plane.deadlines.next_due() is None


async def test_user_namespaces_are_for_whom_the_settings_allow_them(home: Home) -> None:
    """And no warm container has them: who asks takes the cold road."""
    async with home.run() as plane:
        with pytest.raises(InvalidRequest, match="allow_user_namespaces"):
            await plane.sandboxes.create(a_request(user_namespaces=True))
    async with home.run(allow_user_namespaces=True) as plane:
        warm = plane.pool.warm_ids()
        assert (await plane.sandboxes.create(a_request(user_namespaces=True))).id not in warm
        assert (await plane.sandboxes.create(a_request())).id in warm


async def test_gpus_are_asked_of_an_engine_that_has_some(home: Home, engine: AgentEngine) -> None:
    """On the cold road; where there are none that is said, before anything is made."""
    async with home.run() as plane:
        warm = plane.pool.warm_ids()
        with pytest.raises(InvalidRequest, match=r"^resourceLimits\.gpu: .*no GPUs to give") as refused:
            await plane.sandboxes.create(a_request(gpus="1"))
        assert refused.value.code == "sandbox.unsupported"
        assert plane.sandboxes.list() == []
        engine.has_gpus = True
        sandbox = await plane.sandboxes.create(a_request(gpus="all"))
        assert sandbox.id not in warm
        assert engine.find(sandbox.container_id).spec.gpus == sandbox.spec.gpus == "all"
        assert plane.pool.warm_ids() == warm


async def test_other_limits_are_set_at_the_claim(engine: AgentEngine, plane: ControlPlane) -> None:
    """On the warm container; those of the settings are there already."""
    limits = Limits(cpus=0.5, memory_bytes=64 << 20, pids=32)
    sandbox = await plane.sandboxes.create(a_request(limits=limits))
    assert engine.find(sandbox.container_id).limits == limits


async def test_limits_that_the_engine_refuses_fail_the_create(
    home: Home, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is left."""

    async def refuse(container_id: str, limits: Limits) -> None:
        raise RuntimeFailure("no such limits")

    monkeypatch.setattr(home.driver, "resize", refuse)
    with pytest.raises(RuntimeFailure, match="no such limits"):
        await plane.sandboxes.create(a_request(limits=Limits(cpus=0.5)))
    await nothing_left(home, plane)
    assert plane.sandboxes.statistics().failed_creates == 1


async def test_lifetimes(home: Home) -> None:
    """None asked for: the longest; longer than the longest, or beyond any calendar: refused, and nothing is used."""
    async with home.run(max_lifetime=100) as plane:
        warm = plane.pool.warm_ids()
        for seconds in (101, 10**15):
            with pytest.raises(InvalidRequest, match="timeout must be from 1 to 100 s on this server"):
                await plane.sandboxes.create(a_request(timeout_s=seconds))
        assert plane.pool.warm_ids() == warm
        sandbox = await plane.sandboxes.create(a_request())
        assert sandbox.expires_at == sandbox.created_at + timedelta(seconds=100)


@pytest.mark.parametrize("seconds", [10**15, 0, -1])
async def test_impossible_lifetimes(seconds: int, plane: ControlPlane) -> None:
    """Also where the settings set no limit."""
    with pytest.raises(InvalidRequest, match="timeout must be from 1 to 315360000 s on this server"):
        await plane.sandboxes.create(a_request(timeout_s=seconds))


@pytest.mark.parametrize(
    ("refusal", "error", "message"),
    [
        (ExecdError("process.spawn_failed", "no such file"), InvalidRequest, "the entrypoint cannot be executed: no"),
        (ExecdError("request.invalid", "a NUL in env"), InvalidRequest, "a NUL in env"),
        (ExecdError("internal", "a bug"), AgentError, "a bug"),
    ],
)
async def test_a_refused_claim_leaves_nothing(
    refusal: ExecdError,
    error: type[Exception],
    message: str,
    home: Home,
    engine: AgentEngine,
    plane: ControlPlane,
) -> None:
    """When the caller hears of it, the container is gone: used is never reused."""
    engine.refusal = refusal
    with pytest.raises(error, match=message):
        await plane.sandboxes.create(a_request())
    assert plane.sandboxes.list() == []
    assert traces(home, plane) - _starting(home) == set()
    await nothing_left(home, plane)


def _starting(home: Home) -> set[str]:
    """Those that have no claim."""
    engine: AgentEngine = home.engine  # type: ignore[assignment]
    claimed = {one for one, agent in engine.agents.items() if agent.claims}
    return {path.name for path in home.sockets.iterdir()} - claimed


async def test_an_engine_that_hangs_does_not_keep_the_caller_waiting(
    home: Home, engine: AgentEngine, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refusal is told, although its container is still being removed; that goes on behind."""
    monkeypatch.setattr(sandboxes_module, "UNDO_TIMEOUT_S", 0.05)
    home.driver.hold_destroy = asyncio.Event()
    engine.refusal = ExecdError("process.spawn_failed", "no such file")
    with pytest.raises(InvalidRequest):
        await plane.sandboxes.create(a_request())
    assert [sandbox.state for sandbox in plane.sandboxes.list()] == [State.STOPPING]
    home.driver.hold_destroy.set()
    await nothing_left(home, plane)


async def test_a_create_that_is_cancelled_leaves_nothing(home: Home, engine: AgentEngine, plane: ControlPlane) -> None:
    """In the middle of the claim."""
    engine.hold_claims = asyncio.Event()
    creating = asyncio.ensure_future(plane.sandboxes.create(a_request()))
    await asyncio.wait_for(engine.claimed.wait(), 5)
    assert [sandbox.state for sandbox in plane.sandboxes.list()] == [State.PENDING]
    creating.cancel()
    await asyncio.wait([creating])
    assert creating.cancelled()
    await nothing_left(home, plane)


async def test_an_agent_that_does_not_answer_fails_the_create(
    home: Home, engine: AgentEngine, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bounded time."""
    monkeypatch.setattr(claim, "CLAIM_TIMEOUT_S", 0.05)
    engine.hold_claims = asyncio.Event()
    with pytest.raises(StartFailed, match=r"the agent did not take the claim within 0\.05 s"):
        await plane.sandboxes.create(a_request())
    await nothing_left(home, plane)


async def test_a_container_that_dies_while_it_is_claimed(home: Home, engine: AgentEngine, plane: ControlPlane) -> None:
    """The caller hears why, nothing is left, and the next create works."""
    engine.hold_claims = asyncio.Event()
    creating = asyncio.ensure_future(plane.sandboxes.create(a_request()))
    await asyncio.wait_for(engine.claimed.wait(), 5)
    (pending,) = plane.sandboxes.list()
    # The engine tells of the death before the link breaks, or after: here before.
    container = engine.find(pending.container_id)
    engine.tell(container, EventKind.DIED, 139)
    await until(lambda: plane.sandboxes._making[pending.id] is not None)
    await engine.agents[pending.id].aclose()
    with pytest.raises(StartFailed, match="the container ended with exit code 139"):
        await creating
    engine.hold_claims = None
    await nothing_left(home, plane)
    assert (await plane.sandboxes.create(a_request())).state is State.RUNNING


async def test_a_container_that_died_as_it_took_the_claim_is_not_handed_out(
    home: Home, engine: AgentEngine, plane: ControlPlane
) -> None:
    """The claim was answered, but the engine had told of the death already."""
    engine.hold_claims = asyncio.Event()
    creating = asyncio.ensure_future(plane.sandboxes.create(a_request()))
    await asyncio.wait_for(engine.claimed.wait(), 5)
    (pending,) = plane.sandboxes.list()
    engine.tell(engine.find(pending.container_id), EventKind.DIED, 1)
    await until(lambda: plane.sandboxes._making[pending.id] is not None)
    engine.hold_claims.set()
    with pytest.raises(StartFailed, match="the container ended with exit code 1"):
        await creating
    await nothing_left(home, plane)


async def test_a_link_that_breaks_while_it_is_claimed(home: Home, engine: AgentEngine, plane: ControlPlane) -> None:
    """Whatever execd did meanwhile: this container is not used."""
    engine.hold_claims = asyncio.Event()
    creating = asyncio.ensure_future(plane.sandboxes.create(a_request()))
    await asyncio.wait_for(engine.claimed.wait(), 5)
    (pending,) = plane.sandboxes.list()
    await engine.agents[pending.id].hang_up()
    with pytest.raises(LinkLost):
        await creating
    await nothing_left(home, plane)


async def test_a_sandbox_that_is_deleted_while_it_is_made(home: Home, engine: AgentEngine, plane: ControlPlane) -> None:
    """It shows in lists, so it can be deleted; its creator hears that it ended."""
    engine.hold_claims = asyncio.Event()
    creating = asyncio.ensure_future(plane.sandboxes.create(a_request()))
    await asyncio.wait_for(engine.claimed.wait(), 5)
    (pending,) = plane.sandboxes.list()
    await plane.sandboxes.delete(pending.id)
    engine.hold_claims.set()
    with pytest.raises((Conflict, NotFound, StartFailed, LinkLost)):
        await creating
    await nothing_left(home, plane)


async def test_a_sandbox_that_cannot_be_written_down_is_not_made(home: Home, plane: ControlPlane) -> None:
    """The container that was meant for it is removed."""
    with stuck_store(home), pytest.raises(StoreError):
        await plane.sandboxes.create(a_request())
    await nothing_left(home, plane)


async def test_a_sandbox_whose_start_cannot_be_written_down_is_not_made(
    home: Home, engine: AgentEngine, plane: ControlPlane
) -> None:
    """Neither its start nor its end: the container is removed at once, the record by the next sweep."""
    engine.hold_claims = asyncio.Event()
    creating = asyncio.ensure_future(plane.sandboxes.create(a_request()))
    await asyncio.wait_for(engine.claimed.wait(), 5)
    (pending,) = plane.sandboxes.list()
    with stuck_store(home), capture_logs():
        engine.hold_claims.set()
        with pytest.raises(StoreError):
            await creating
        assert pending.id not in engine.sandbox_ids()
    assert [sandbox.state for sandbox in plane.sandboxes.list()] == [State.PENDING]
    await plane.recovery.sweep()
    await nothing_left(home, plane)


# -- delete


async def test_a_deleted_sandbox_is_gone(home: Home, plane: ControlPlane) -> None:
    """Stopping at once, its container removed behind, then unknown. A second delete meanwhile is no error."""
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60))
    await plane.sandboxes.delete(sandbox.id)
    assert plane.sandboxes.get(sandbox.id).state is State.STOPPING
    await plane.sandboxes.delete(sandbox.id)
    await nothing_left(home, plane)
    assert len(plane.deadlines) == 0
    with pytest.raises(NotFound):
        await plane.sandboxes.delete(sandbox.id)


DATA = Volume(name="data", mount_path="/data", claim="data")


@pytest.mark.parametrize("ends_first", ["maker", "user"])
async def test_a_volume_goes_with_its_last_user(engine: AgentEngine, plane: ControlPlane, ends_first: str) -> None:
    """Where its maker said so, and not before; whatever the other one says, and however they end."""
    made = replace(DATA, delete=True)
    maker = await plane.sandboxes.create(a_request(volumes=(made,)))
    user = await plane.sandboxes.create(a_request(volumes=(DATA,)))
    first, last = (maker, user) if ends_first == "maker" else (user, maker)
    await plane.sandboxes.delete(first.id)
    await until(lambda: first.id not in {one.id for one in plane.sandboxes.list()})
    assert "data" in engine.volumes
    engine.agents[last.id].exit(1)
    await until(lambda: "data" not in engine.volumes)
    assert plane.sandboxes.get(last.id).state is State.FAILED


async def test_a_volume_that_was_not_made_to_go_stays(engine: AgentEngine, plane: ControlPlane) -> None:
    """Also when later users would have it removed, and through the sweep."""
    for delete in (False, True):
        sandbox = await plane.sandboxes.create(a_request(volumes=(replace(DATA, delete=delete),)))
        await plane.sandboxes.delete(sandbox.id)
        await until(lambda: plane.sandboxes.list() == [])
    await plane.recovery.sweep()
    assert set(engine.volumes) == {"data"}


async def test_a_create_that_fails_leaves_no_volume(home: Home, engine: AgentEngine, plane: ControlPlane) -> None:
    """Neither when its container does not start, nor when its entrypoint is refused."""
    made = replace(DATA, delete=True)
    home.driver.fail_start = StartFailed("no")
    with pytest.raises(StartFailed):
        await plane.sandboxes.create(a_request(volumes=(made,)))
    assert engine.volumes == {}
    home.driver.fail_start = None
    engine.refusal = ExecdError("process.spawn_failed", "no such file")
    with pytest.raises(InvalidRequest):
        await plane.sandboxes.create(a_request(volumes=(made,)))
    assert engine.volumes == {}


async def test_a_removal_that_fails_is_tried_again_by_the_sweep(home: Home, plane: ControlPlane) -> None:
    """The engine hiccups: the sandbox stays Stopping, and never comes back."""
    sandbox = await plane.sandboxes.create(a_request())
    home.driver.fail_destroy = EngineUnavailable("hiccup")
    with capture_logs() as logs:
        await plane.sandboxes.delete(sandbox.id)
        await until(lambda: "sandbox.remove_failed" in [entry["event"] for entry in logs])
    assert plane.sandboxes.get(sandbox.id).state is State.STOPPING
    home.driver.fail_destroy = None
    await plane.recovery.sweep()
    await nothing_left(home, plane)


async def test_a_full_disk_does_not_keep_a_sandbox_alive(home: Home, engine: AgentEngine, plane: ControlPlane) -> None:
    """It may be this sandbox that fills it: the container goes, the caller hears that it was not written down."""
    sandbox = await plane.sandboxes.create(a_request())
    with stuck_store(home), capture_logs():
        with pytest.raises(StoreError):
            await plane.sandboxes.delete(sandbox.id)
        await until(lambda: sandbox.id not in engine.sandbox_ids())
    await plane.recovery.sweep()  # what the engine told could not be written down either
    assert plane.sandboxes.get(sandbox.id).state is State.FAILED
    await plane.sandboxes.delete(sandbox.id)
    await nothing_left(home, plane)


# -- renew and expire


def expire(plane: ControlPlane, at: float) -> None:
    """Let the reaper do its work as if it were that moment."""
    reap_once(plane.deadlines, plane.sandboxes.expire, at)


async def test_a_sandbox_ends_when_its_time_has_come(home: Home, plane: ControlPlane) -> None:
    """Not sooner; renewed, at the new moment; then nothing is left of it."""
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60))
    assert sandbox.expires_at is not None
    later = plane.sandboxes.renew(sandbox.id, sandbox.expires_at + timedelta(seconds=30)).expires_at
    assert later == plane.sandboxes.get(sandbox.id).expires_at
    expire(plane, sandbox.expires_at.timestamp() + 1)
    assert plane.sandboxes.get(sandbox.id).state is State.RUNNING
    expire(plane, sandbox.expires_at.timestamp() + 31)
    assert plane.sandboxes.get(sandbox.id).state is State.STOPPING
    assert plane.sandboxes.statistics().expired == 1
    await nothing_left(home, plane)


async def test_a_sandbox_that_had_no_deadline_can_be_given_one(plane: ControlPlane) -> None:
    """And a shorter one than it had."""
    sandbox = await plane.sandboxes.create(a_request())
    for seconds in (100, 10):
        due = utc_now() + timedelta(seconds=seconds)
        assert plane.sandboxes.renew(sandbox.id, due).expires_at == due
        assert plane.deadlines.next_due() == due.timestamp()


async def test_what_cannot_be_renewed(plane: ControlPlane) -> None:
    """The past, an unknown sandbox, one that is ending; the deadline stays as it was."""
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60))
    with pytest.raises(InvalidRequest, match="expiresAt must be in the future"):
        plane.sandboxes.renew(sandbox.id, utc_now() - timedelta(seconds=1))
    assert plane.sandboxes.get(sandbox.id).expires_at == sandbox.expires_at
    with pytest.raises(NotFound):
        plane.sandboxes.renew("nobody", utc_now() + timedelta(seconds=1))
    await plane.sandboxes.delete(sandbox.id)
    with pytest.raises(Conflict):
        plane.sandboxes.renew(sandbox.id, utc_now() + timedelta(seconds=60))


async def test_an_expiry_that_cannot_be_written_down_is_enforced_all_the_same(
    home: Home, engine: AgentEngine, plane: ControlPlane
) -> None:
    """The container is removed now, the record when the store works again."""
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60))
    assert sandbox.expires_at is not None
    due = sandbox.expires_at.timestamp()
    with stuck_store(home), capture_logs():
        expire(plane, due + 1)
        await until(lambda: sandbox.id not in engine.sandbox_ids())
    expire(plane, due + 10)
    await nothing_left(home, plane)


# -- what happens by itself


async def created(plane: ControlPlane) -> Sandbox:
    return await plane.sandboxes.create(a_request(timeout_s=60))


async def test_an_entrypoint_that_ends_well_ends_the_sandbox(engine: AgentEngine, plane: ControlPlane) -> None:
    """It is remembered as Terminated for a while, without its container, and then forgotten."""
    sandbox = await created(plane)
    engine.agents[sandbox.id].exit(0)
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.TERMINATED)
    ended = plane.sandboxes.get(sandbox.id)
    assert (ended.reason, ended.message) == ("ENTRYPOINT_EXITED", "the entrypoint ended: exit, exit code 0")
    assert sandbox.id not in engine.sandbox_ids()
    retention = FINISHED_RETENTION.total_seconds()
    expire(plane, ended.state_changed_at.timestamp() + retention - 5)
    assert plane.sandboxes.get(sandbox.id) == ended
    expire(plane, ended.state_changed_at.timestamp() + retention + 5)
    with pytest.raises(NotFound):
        plane.sandboxes.get(sandbox.id)


@pytest.mark.parametrize(("code", "text"), [(3, "exit, exit code 3"), (137, "signal, exit code 137")])
async def test_an_entrypoint_that_ends_badly_fails_the_sandbox(
    code: int, text: str, home: Home, engine: AgentEngine, plane: ControlPlane
) -> None:
    """With the cause; a delete removes the record at once."""
    sandbox = await created(plane)
    engine.agents[sandbox.id].exit(code)
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.FAILED)
    failed = plane.sandboxes.get(sandbox.id)
    assert (failed.reason, failed.message) == ("ENTRYPOINT_FAILED", f"the entrypoint ended: {text}")
    await until(lambda: sandbox.id not in engine.sandbox_ids())
    await plane.sandboxes.delete(sandbox.id)
    await nothing_left(home, plane)


async def test_a_terminated_sandbox_can_be_deleted(home: Home, engine: AgentEngine, plane: ControlPlane) -> None:
    """At once: there is nothing to remove any more."""
    sandbox = await created(plane)
    engine.agents[sandbox.id].exit(0)
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.TERMINATED)
    await plane.sandboxes.delete(sandbox.id)
    assert plane.sandboxes.list() == []
    assert len(plane.deadlines) == 0


async def test_a_container_that_dies_fails_its_sandbox(home: Home, engine: AgentEngine, plane: ControlPlane) -> None:
    """With the exit code, and its own message; requests that waited for its agent hear of it at once."""
    sandbox = await created(plane)
    await engine.die(sandbox.container_id, 137)
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.FAILED)
    failed = plane.sandboxes.get(sandbox.id)
    assert (failed.reason, failed.message) == ("CONTAINER_DIED", "the container ended with exit code 137")
    with pytest.raises(Conflict, match="is Failed, not Running"):
        await plane.relay.link(sandbox.id)


async def test_a_container_that_somebody_removes_fails_its_sandbox(engine: AgentEngine, plane: ControlPlane) -> None:
    """`docker rm -f` behind our back, of which only the removal was told."""
    sandbox = await created(plane)
    engine.tell(engine.find(sandbox.container_id), EventKind.REMOVED)
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.FAILED)
    assert plane.sandboxes.get(sandbox.id).reason == "CONTAINER_VANISHED"


async def test_a_process_that_the_kernel_kills_does_not_end_the_sandbox(plane: ControlPlane) -> None:
    """An OOM event is about some process in it; execd lives on."""
    sandbox = await created(plane)
    plane.sandboxes.happened(RuntimeEvent(EventKind.OOM, sandbox.id, sandbox.container_id))
    assert plane.sandboxes.get(sandbox.id).state is State.RUNNING


async def test_events_about_strangers_change_nothing(plane: ControlPlane) -> None:
    """Containers that are gone already, for one."""
    for kind in EventKind:
        plane.sandboxes.happened(RuntimeEvent(kind, "nobody", "c", 1))
    plane.sandboxes.violated("nobody", "text")
    plane.sandboxes.vanished("nobody", None)
    plane.sandboxes.expire("nobody", 0.0)
    assert plane.sandboxes.list() == []


async def test_a_broken_protocol_fails_the_sandbox(plane: ControlPlane) -> None:
    """That one, and no other."""
    sandbox, other = await created(plane), await created(plane)
    plane.sandboxes.violated(sandbox.id, "frame of 9999999 bytes")
    failed = plane.sandboxes.get(sandbox.id)
    assert (failed.state, failed.reason) == (State.FAILED, "PROTOCOL_VIOLATION")
    assert "frame of 9999999 bytes" in failed.message
    assert plane.sandboxes.get(other.id).state is State.RUNNING


async def test_a_warm_container_that_dies_is_replaced(home: Home, engine: AgentEngine, plane: ControlPlane) -> None:
    """Nobody but the log hears of it."""
    (victim, *_) = plane.pool.warm_ids()
    container_id = next(one.told.id for one in engine.containers.values() if one.spec.sandbox_id == victim)
    await engine.die(container_id)
    await until(lambda: victim not in plane.pool.warm_ids())
    await nothing_left(home, plane)
    assert victim not in engine.sandbox_ids()


async def test_a_new_link_follows_the_same_entrypoint(engine: AgentEngine, plane: ControlPlane) -> None:
    """execd claims again what it has, and its end is still heard of."""
    sandbox = await created(plane)
    agent = engine.agents[sandbox.id]
    await agent.hang_up()
    await until(lambda: len(agent.claims) == 2)
    assert agent.claims[0] == agent.claims[1]
    assert plane.sandboxes.get(sandbox.id).state is State.RUNNING
    agent.exit(0)
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.TERMINATED)


async def test_an_agent_that_refuses_its_own_sandbox_fails_it(engine: AgentEngine, plane: ControlPlane) -> None:
    """After a new link, execd denies the claim: whatever runs there, it is not this sandbox."""
    sandbox = await created(plane)
    engine.refusal = ExecdError("request.invalid", "claimed by another already")
    await engine.agents[sandbox.id].hang_up()
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.FAILED)
    assert plane.sandboxes.get(sandbox.id).reason == "CLAIM_REFUSED"


async def test_statistics(engine: AgentEngine, plane: ControlPlane) -> None:
    """Counts for /metrics."""
    await created(plane)
    engine.refusal = ExecdError("process.spawn_failed", "x")
    with pytest.raises(InvalidRequest):
        await created(plane)
    statistics = plane.sandboxes.statistics()
    assert (statistics.created, statistics.failed_creates, statistics.expired) == (1, 1, 0)
    assert statistics.by_state[State.RUNNING] == 1
