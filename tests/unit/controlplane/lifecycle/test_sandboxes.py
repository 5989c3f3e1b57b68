"""What can be done with sandboxes, and what happens to them, on an engine whose agents the test directs."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from datetime import timedelta

import msgspec
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from controlplane.errors import (
    AgentError,
    CapacityExhausted,
    Conflict,
    EngineUnavailable,
    Field,
    InvalidRequest,
    LinkLost,
    NotFound,
    OutOfMemory,
    QuotaExceeded,
    RuntimeFailure,
    StartFailed,
    StoreError,
)
from controlplane.lifecycle import endings, entrypoints
from controlplane.lifecycle.deadlines import reap_once
from controlplane.lifecycle.endings import FINISHED_RETENTION
from controlplane.lifecycle.records.registry import utc_now
from controlplane.runtime.abilities import Ability
from controlplane.runtime.events import EventKind, RuntimeEvent
from controlplane.sandbox import Limits, Network, Sandbox, State, Volume
from controlplane.server.composition import ControlPlane
from controlplane.settings.sections import PoolSettings, StorageSettings
from execd.errors import ExecdError
from tests.support.fakes.agents import AgentEngine
from tests.support.server.control_plane import Home, a_request, stuck_store, until


def traces(home: Home, plane: ControlPlane) -> set[str]:
    """All sandboxes and containers of which anything is left, beside those that are warm or being started."""
    records = {sandbox.id for sandbox in plane.registry.all()}
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
        with pytest.raises(InvalidRequest, match=r"engine fake cannot give a container GPUs$") as refused:
            await plane.sandboxes.create(a_request(gpus="1"))
        assert refused.value.code == "sandbox.unsupported"
        assert plane.sandboxes.list() == []
        engine.abilities = replace(engine.abilities, can=engine.abilities.can | {Ability.GPUS})
        sandbox = await plane.sandboxes.create(a_request(gpus="all"))
        assert sandbox.id not in warm
        assert engine.find(sandbox.container_id).spec.gpus == sandbox.spec.gpus == "all"
        assert plane.pool.warm_ids() == warm


async def test_other_limits_are_set_at_the_claim(engine: AgentEngine, plane: ControlPlane) -> None:
    """On the warm container; those of the settings are there already."""
    limits = Limits(cpus=0.5, memory_bytes=64 << 20, pids=32)
    sandbox = await plane.sandboxes.create(a_request(limits=limits))
    assert engine.find(sandbox.container_id).limits == limits


SMALL = Limits(cpus=0.5, memory_bytes=64 << 20, pids=32)


async def test_limits_that_a_warm_container_cannot_be_given_are_those_of_a_cold_one(
    home: Home, engine: AgentEngine, plane: ControlPlane
) -> None:
    """The warm one is as it was: the next create takes it."""
    warm = plane.pool.warm_ids()
    home.driver.fail_resize = RuntimeFailure("current usage 129638400")
    with capture_logs():
        sandbox = await plane.sandboxes.create(a_request(limits=SMALL))
    assert sandbox.id not in warm
    assert engine.find(sandbox.container_id).spec.limits == SMALL
    assert plane.sandboxes.list() == [sandbox]
    assert plane.pool.warm_ids() == warm
    assert (await plane.sandboxes.create(a_request())).id in warm
    assert plane.sandboxes.statistics().failed_creates == 0


async def test_an_engine_that_does_not_answer_a_resize_costs_the_container(home: Home, plane: ControlPlane) -> None:
    """Nobody knows which limits it has now."""
    warm = plane.pool.warm_ids()
    home.driver.fail_resize = EngineUnavailable("gone")
    with pytest.raises(EngineUnavailable, match="gone"):
        await plane.sandboxes.create(a_request(limits=SMALL))
    await nothing_left(home, plane)
    assert len(plane.pool.warm_ids() & warm) == len(warm) - 1
    assert plane.sandboxes.statistics().failed_creates == 1


async def test_a_sandbox_that_is_deleted_while_its_limits_are_refused(home: Home, plane: ControlPlane) -> None:
    """Its creator hears of it, and gets no other one."""
    home.driver.fail_resize, home.driver.hold_resize = RuntimeFailure("no"), asyncio.Event()
    creating = asyncio.ensure_future(plane.sandboxes.create(a_request(limits=SMALL)))
    await until(lambda: plane.sandboxes.list() != [])
    await plane.sandboxes.delete(plane.sandboxes.list()[0].id)
    home.driver.hold_resize.set()
    with pytest.raises(Conflict, match="was deleted while it was made"):
        await creating
    await nothing_left(home, plane)


async def test_a_store_that_fails_while_limits_are_refused(
    home: Home, engine: AgentEngine, plane: ControlPlane
) -> None:
    """It is a warm container again, as it was; the record goes as soon as it can."""
    home.driver.fail_resize, home.driver.hold_resize = RuntimeFailure("no"), asyncio.Event()
    creating = asyncio.ensure_future(plane.sandboxes.create(a_request(limits=SMALL)))
    await until(lambda: plane.sandboxes.list() != [])
    (pending,) = plane.sandboxes.list()
    with stuck_store(home), capture_logs():
        home.driver.hold_resize.set()
        with pytest.raises(StoreError):  # of the cold container that is made instead
            await creating
        await until(lambda: pending.id in plane.pool.warm_ids())
    await nothing_left(home, plane)
    await until(lambda: not plane.registry.late_writes.is_late(pending.id))


async def test_memory_that_is_too_little_to_start_is_the_callers_to_mend(home: Home, plane: ControlPlane) -> None:
    """The refusal says which field, and what to ask for. Without a limit of the caller's it is the server's fault."""
    home.driver.fail_start = OutOfMemory("container init was OOM-killed")
    with pytest.raises(InvalidRequest, match=r"^other/image .* with 64 MiB; ask for at least 128Mi"):
        await plane.sandboxes.create(a_request(image="other/image", limits=SMALL))
    with pytest.raises(OutOfMemory):
        await plane.sandboxes.create(a_request(image="other/image"))
    home.driver.fail_start = None
    await nothing_left(home, plane)


async def test_an_image_without_a_pool_starts_with_the_limits_that_were_asked_for(
    engine: AgentEngine, home: Home, plane: ControlPlane
) -> None:
    """There is nothing to change later."""
    home.driver.fail_resize = RuntimeFailure("not to be asked")
    sandbox = await plane.sandboxes.create(a_request(image="other/image", limits=SMALL))
    assert engine.find(sandbox.container_id).spec.limits == SMALL


async def test_lifetimes(home: Home) -> None:
    """None asked for: the longest; longer than the longest, or beyond any calendar: refused, and nothing is used."""
    async with home.run(max_lifetime=100) as plane:
        warm = plane.pool.warm_ids()
        for seconds in (101, 10**15):
            with pytest.raises(InvalidRequest, match=LIFETIME):
                await plane.sandboxes.create(a_request(timeout_s=seconds))
        assert plane.pool.warm_ids() == warm
        sandbox = await plane.sandboxes.create(a_request())
        assert sandbox.expires_at == sandbox.created_at + timedelta(seconds=100)


LIFETIME = r"^a sandbox may last at most 100 s from its creation on this server \(\[sandbox\] max_lifetime\); renewals"


async def test_a_lifetime_counts_from_the_creation_with_all_renewals(home: Home) -> None:
    """One bound and one message for create and renew; renewal by use stops there."""
    async with home.run(max_lifetime=100) as plane:
        extensions = {"access.renew.extend.seconds": "300"}
        sandbox = await plane.sandboxes.create(a_request(timeout_s=60, extensions=extensions))
        end = sandbox.created_at + timedelta(seconds=100)
        with pytest.raises(InvalidRequest, match=LIFETIME) as refused:
            plane.sandboxes.renew(sandbox.id, end + timedelta(seconds=1))
        assert refused.value.code == "sandbox.invalid_expiration"
        assert plane.sandboxes.renew(sandbox.id, end - timedelta(seconds=30)).expires_at == end - timedelta(seconds=30)
        plane.uses.on_use(sandbox.id)
        assert plane.sandboxes.get(sandbox.id).expires_at == end


@pytest.mark.parametrize(
    ("seconds", "message"), [(10**400, "may last at most 315360000 s"), (0, "more than 0"), (-1, "more than 0")]
)
async def test_impossible_lifetimes(seconds: int, message: str, plane: ControlPlane) -> None:
    """Also where the settings set no limit; a renewal is bounded like a create."""
    with pytest.raises(InvalidRequest, match=message):
        await plane.sandboxes.create(a_request(timeout_s=seconds))
    sandbox = await plane.sandboxes.create(a_request())
    with pytest.raises(InvalidRequest, match="may last at most 315360000 s from its creation on this server; renewals"):
        plane.sandboxes.renew(sandbox.id, utc_now() + timedelta(days=3651))


# -- how much there may be


async def test_what_no_sandbox_may_have(home: Home) -> None:
    """The settings' maxima, or the machine; a default may always be asked for, and nothing is used up."""
    async with home.run(max_cpus=2, max_memory=1 << 20, memory_limit=1 << 19) as plane:
        warm = plane.pool.warm_ids()
        for limits, message in (
            (
                Limits(cpus=2.5),
                r"^a sandbox may have at most 2 CPUs on this server \(\[sandbox\] max_cpus\), not 2\.5",
            ),
            (
                Limits(memory_bytes=(1 << 30) + 1),
                r"^a sandbox may have at most 1024Mi .*max_memory\), not 1024Mi",
            ),
        ):
            with pytest.raises(InvalidRequest, match=message):
                await plane.sandboxes.create(a_request(limits=limits))
        assert plane.pool.warm_ids() == warm
        await plane.sandboxes.create(a_request(limits=Limits(cpus=2, memory_bytes=1 << 30)))
    machine = await home.driver.describe()
    async with home.run(memory_limit=(machine.memory_bytes >> 10) + 1024) as plane:
        await plane.sandboxes.create(a_request(limits=Limits(memory_bytes=machine.memory_bytes + (1 << 20))))
        for limits, field in (
            (Limits(cpus=machine.cpus + 1), Field.CPUS),
            (Limits(memory_bytes=machine.memory_bytes * 2), Field.MEMORY),
        ):
            with pytest.raises(InvalidRequest, match=r"^a sandbox may have at most .*the machine's size") as refused:
                await plane.sandboxes.create(a_request(limits=limits))
            assert refused.value.field is field


async def test_as_many_sandboxes_as_the_settings_allow(home: Home, engine: AgentEngine) -> None:
    """Those that are being created count; one that has ended makes room at once."""
    async with home.run(max_sandboxes=2) as plane:
        first = await plane.sandboxes.create(a_request())
        engine.hold_claims = asyncio.Event()
        engine.claimed.clear()
        second = asyncio.create_task(plane.sandboxes.create(a_request()))
        await engine.claimed.wait()
        with pytest.raises(QuotaExceeded, match=r"there are 2 sandboxes, as many as .*\[sandbox\] max_sandboxes"):
            await plane.sandboxes.create(a_request())
        engine.hold_claims.set()
        await second
        with pytest.raises(QuotaExceeded):
            await plane.sandboxes.create(a_request())
        await plane.sandboxes.delete(first.id)
        await plane.sandboxes.create(a_request())


async def test_a_create_that_fails_gives_its_room_back(home: Home, engine: AgentEngine) -> None:
    """Else a few failures would lock everybody out."""
    async with home.run(max_sandboxes=1) as plane:
        engine.refusal = ExecdError("request.invalid", "no")
        for _ in range(2):
            with pytest.raises(InvalidRequest):
                await plane.sandboxes.create(a_request())
        engine.refusal = None
        await plane.sandboxes.create(a_request())


@pytest.mark.parametrize("resource", ["cpu", "memory"])
async def test_the_machine_is_promised_more_often_than_it_exists_by_a_setting(home: Home, resource: str) -> None:
    """The limits of all sandboxes add up to a multiple of the machine at most; 0 sets no bound."""
    machine = await home._make_driver("machine").describe()
    half = Limits(
        cpus=machine.cpus / 2 if resource == "cpu" else 0.01,
        memory_bytes=machine.memory_bytes // 2 if resource == "memory" else 1 << 20,
    )
    for overcommit, most in ((1, 2), (1.5, 3)):
        async with home.run(
            **{"cpu_overcommit": 0, "memory_overcommit": 0, f"{resource}_overcommit": overcommit}
        ) as plane:
            made = [await plane.sandboxes.create(a_request(limits=half)) for _ in range(most)]
            with pytest.raises(QuotaExceeded, match=rf"add up to more than .*\[sandbox\] {resource}_overcommit"):
                await plane.sandboxes.create(a_request(limits=half))
            for sandbox in made:
                await plane.sandboxes.delete(sandbox.id)
            await nothing_left(home, plane)


# -- pools by name

BIG = PoolSettings(image="other/image", size=1, name="big", cpu_quota=1.5, memory_limit=1 << 18, runtime="strong")


async def test_a_pool_by_name_decides_image_limits_network_and_runtime(home: Home, engine: AgentEngine) -> None:
    """Its warm container is handed over as it is; the image and limits of the request are not used."""
    async with home.run(pools=[BIG]) as plane:
        sandbox = await plane.sandboxes.create(a_request(pool="big", image="", limits=Limits(cpus=9999)))
        spec = engine.find(sandbox.container_id).spec
        assert (spec.image, spec.runtime, spec.network) == ("other/image", "strong", Network.NONE)
        assert spec.limits == sandbox.spec.limits == Limits(cpus=1.5, memory_bytes=256 << 20, pids=512)
        assert (sandbox.spec.pool, sandbox.requested_image) == ("big", "other/image")
        assert plane.pool.statistics().hits == 1
        assert (await plane.sandboxes.create(a_request(pool="default", image=""))).spec.image == "fake/image"
        assert plane.pool.statistics().hits == 2


async def test_a_pool_with_limits_of_its_own_is_not_taken_by_image(home: Home) -> None:
    """Who asks for the image alone gets what [sandbox] says."""
    async with home.run(pools=[BIG]) as plane:
        warm = plane.pool.warm_ids()
        sandbox = await plane.sandboxes.create(a_request(image="other/image"))
        assert sandbox.id not in warm
        assert sandbox.spec.limits == Limits(cpus=1, memory_bytes=2 << 30, pids=512)


async def test_a_pool_that_nobody_configured(home: Home) -> None:
    """The names that there are are listed."""
    async with home.run(pools=[BIG]) as plane:
        with pytest.raises(InvalidRequest, match=r"there is no pool 'small'; there are: default, big") as refused:
            await plane.sandboxes.create(a_request(pool="small"))
        assert refused.value.code == "pool.not_found"


async def test_an_exhausted_pool(home: Home, engine: AgentEngine) -> None:
    """A fresh container is started, unless the settings refuse that; the pool is filled up again either way."""
    strict = msgspec.structs.replace(BIG, when_exhausted="refuse")
    for pool in (BIG, strict):
        async with home.run(pools=[pool]) as plane:
            engine.hold_claims = None
            await plane.sandboxes.create(a_request(pool="big", image=""))
            if pool is strict:
                with pytest.raises(CapacityExhausted, match="the pool big is exhausted"):
                    await plane.sandboxes.create(a_request(pool="big", image=""))
            else:
                await plane.sandboxes.create(a_request(pool="big", image=""))
            await until(lambda: plane.pool.is_full)
            await plane.sandboxes.create(a_request(pool="big", image=""))
            for sandbox in plane.sandboxes.list():
                await plane.sandboxes.delete(sandbox.id)
            await nothing_left(home, plane)


# -- volumes of the engine


@pytest.mark.parametrize(
    ("allowed", "claim", "name"),
    [
        ((), "data", "sandlot-claim-data"),
        (("data",), "data", "data"),
        (("data-*", "x"), "data-1", "data-1"),
        (("data-*",), "data", "sandlot-claim-data"),
        (("*",), "sandlot-execd", "sandlot-claim-sandlot-execd"),  # ours are nobody's
    ],
)
async def test_a_name_means_a_volume_of_the_engine_where_the_settings_allow_it(
    home: Home, engine: AgentEngine, allowed: tuple[str, ...], claim: str, name: str
) -> None:
    """By name or pattern; every other claim has a volume of its own."""
    async with home.run(storage=StorageSettings(allowed_volumes=allowed)) as plane:
        await plane.sandboxes.create(a_request(volumes=(Volume(name="v", mount_path="/v", volume_name=claim),)))
        assert set(engine.volumes) == {name}


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
    monkeypatch.setattr(endings, "UNDO_TIMEOUT_S", 0.05)
    home.driver.hold_destroy = asyncio.Event()
    engine.refusal = ExecdError("process.spawn_failed", "no such file")
    with pytest.raises(InvalidRequest):
        await plane.sandboxes.create(a_request())
    assert plane.sandboxes.list() == []
    assert plane.sandboxes.statistics().by_state[State.STOPPING] == 1
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
    monkeypatch.setattr(entrypoints, "CLAIM_TIMEOUT_S", 0.05)
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
    await until(lambda: plane.creation._making[pending.id] is not None)
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
    await until(lambda: plane.creation._making[pending.id] is not None)
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
    """Neither its start nor its end: the container is removed at once, the record as soon as it can."""
    engine.hold_claims = asyncio.Event()
    creating = asyncio.ensure_future(plane.sandboxes.create(a_request()))
    await asyncio.wait_for(engine.claimed.wait(), 5)
    (pending,) = plane.sandboxes.list()
    with stuck_store(home), capture_logs():
        engine.hold_claims.set()
        with pytest.raises(StoreError):
            await creating
        assert pending.id not in engine.sandbox_ids()
        assert plane.sandboxes.list() == []
    await nothing_left(home, plane)
    await until(lambda: not plane.registry.late_writes.is_late(pending.id))


# -- delete


async def test_a_deleted_sandbox_is_gone(home: Home, plane: ControlPlane) -> None:
    """Nobody finds it once the delete was answered, although its container is removed behind."""
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60))
    home.driver.hold_destroy = asyncio.Event()
    await plane.sandboxes.delete(sandbox.id)
    assert plane.sandboxes.statistics().by_state[State.STOPPING] == 1
    await unknown(plane, sandbox)
    home.driver.hold_destroy.set()
    await nothing_left(home, plane)
    assert len(plane.deadlines) == 0
    await unknown(plane, sandbox)


async def ask(question: Callable[[str], object], sandbox_id: str) -> None:
    """Ask something of a sandbox, whether the answer is awaited or not."""
    answer = question(sandbox_id)
    if inspect.isawaitable(answer):
        await answer


async def unknown(plane: ControlPlane, sandbox: Sandbox) -> None:
    """Check that whatever is asked of a sandbox, there is none."""
    in_an_hour = utc_now() + timedelta(hours=1)
    for question in (
        plane.sandboxes.get,
        plane.sandboxes.delete,
        plane.pauses.pause,
        plane.pauses.resume,
        plane.relay.link,
        lambda one: plane.sandboxes.renew(one, in_an_hour),
        lambda one: plane.sandboxes.change_metadata(one, {"a": "b"}, most=10),
        lambda one: plane.snapshots.create(one, ""),
    ):
        with pytest.raises(NotFound, match=f"there is no sandbox {sandbox.id}"):
            await ask(question, sandbox.id)
    assert plane.sandboxes.list() == []


async def test_a_sandbox_that_ended_is_gone_when_it_is_deleted_while_its_container_is_removed(
    home: Home, engine: AgentEngine, plane: ControlPlane
) -> None:
    """It can be asked about until then, and is not remembered afterwards."""
    sandbox = await created(plane)
    home.driver.hold_destroy = asyncio.Event()
    engine.agents[sandbox.id].exit(0)
    await until(lambda: plane.sandboxes.get(sandbox.id).state is State.STOPPING)
    assert plane.sandboxes.get(sandbox.id).reason == "CONTAINER_EXITED"
    await plane.sandboxes.delete(sandbox.id)
    await unknown(plane, sandbox)
    home.driver.hold_destroy.set()
    await nothing_left(home, plane)


@pytest.mark.parametrize(("code", "reason"), [(0, "CONTAINER_EXITED"), (3, "CONTAINER_EXITED_ERROR")])
async def test_what_is_asked_of_a_sandbox_that_has_ended_is_refused_with_the_reason(
    code: int, reason: str, engine: AgentEngine, plane: ControlPlane
) -> None:
    """The one of its status, whatever the question was."""
    sandbox = await created(plane)
    engine.agents[sandbox.id].exit(code)
    await until(lambda: plane.sandboxes.get(sandbox.id).state in (State.TERMINATED, State.FAILED))
    cause = f"({reason}: the entrypoint ended: exit, exit code {code})"
    in_an_hour = utc_now() + timedelta(hours=1)
    for question in (
        plane.pauses.pause,
        plane.pauses.resume,
        plane.relay.link,
        lambda one: plane.sandboxes.renew(one, in_an_hour),
        lambda one: plane.sandboxes.change_metadata(one, {"a": "b"}, most=10),
        lambda one: plane.snapshots.create(one, ""),
    ):
        with pytest.raises(Conflict, match=re.escape(cause)):
            await ask(question, sandbox.id)


DATA = Volume(name="data", mount_path="/data", volume_name="data")


@pytest.mark.parametrize("ends_first", ["maker", "user"])
async def test_a_volume_goes_with_its_last_user(engine: AgentEngine, plane: ControlPlane, ends_first: str) -> None:
    """Where its maker said so, and not before; whatever the other one says, and however they end."""
    made = replace(DATA, delete=True)
    maker = await plane.sandboxes.create(a_request(volumes=(made,)))
    user = await plane.sandboxes.create(a_request(volumes=(DATA,)))
    first, last = (maker, user) if ends_first == "maker" else (user, maker)
    await plane.sandboxes.delete(first.id)
    await until(lambda: first.id not in {one.id for one in plane.sandboxes.list()})
    assert "sandlot-claim-data" in engine.volumes
    engine.agents[last.id].exit(1)
    await until(lambda: "sandlot-claim-data" not in engine.volumes)
    assert plane.sandboxes.get(last.id).state is State.FAILED


async def test_a_volume_that_was_not_made_to_go_stays(engine: AgentEngine, plane: ControlPlane) -> None:
    """Also when later users would have it removed, and through the sweep."""
    for delete in (False, True):
        sandbox = await plane.sandboxes.create(a_request(volumes=(replace(DATA, delete=delete),)))
        await plane.sandboxes.delete(sandbox.id)
        await until(lambda: plane.sandboxes.list() == [])
    await plane.recovery.sweep()
    assert set(engine.volumes) == {"sandlot-claim-data"}


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
    await unknown(plane, sandbox)
    home.driver.fail_destroy = None
    await plane.recovery.sweep()
    await nothing_left(home, plane)


@pytest.mark.attack(
    "chaos",
    "The disk of the state directory is full, or another program holds the database, when a sandbox is deleted",
    "The answer says that it is gone, its container is, and the record follows as soon as it can be written",
)
async def test_a_store_that_fails_does_not_keep_a_sandbox_alive(
    home: Home, engine: AgentEngine, plane: ControlPlane
) -> None:
    """It may be this sandbox that fills the disk. The answer comes when the container is gone."""
    sandbox = await plane.sandboxes.create(a_request())
    with stuck_store(home), capture_logs():
        await plane.sandboxes.delete(sandbox.id)
        assert sandbox.id not in engine.sandbox_ids()
        await unknown(plane, sandbox)
    await nothing_left(home, plane)
    await until(lambda: not plane.registry.late_writes.is_late(sandbox.id))


async def test_an_end_that_nobody_would_know_of_is_not_acknowledged(home: Home, plane: ControlPlane) -> None:
    """Neither the store nor the engine took it: a server that is killed now would find the sandbox alive."""
    sandbox = await plane.sandboxes.create(a_request())
    home.driver.fail_destroy = EngineUnavailable("hiccup")
    with capture_logs():
        with stuck_store(home), pytest.raises(StoreError, match="both are tried again"):
            await plane.sandboxes.delete(sandbox.id)
        home.driver.fail_destroy = None
        await plane.recovery.sweep()
    await nothing_left(home, plane)


async def test_states_that_cannot_be_written_down_mend_themselves(
    home: Home, engine: AgentEngine, plane: ControlPlane
) -> None:
    """A container that died while the store was stuck is Failed at once, and a second start knows."""
    sandbox = await plane.sandboxes.create(a_request())
    (container_id,) = (one.told.id for one in engine.containers.values() if one.spec.sandbox_id == sandbox.id)
    with stuck_store(home), capture_logs():
        await engine.die(container_id)
        await until(lambda: plane.sandboxes.get(sandbox.id).state is State.FAILED)
        assert plane.registry.late_writes.is_late(sandbox.id)
    await until(lambda: not plane.registry.late_writes.is_late(sandbox.id))


# -- renew and expire


def expire(plane: ControlPlane, at: float) -> None:
    """Let the reaper do its work as if it were that moment."""
    reap_once(plane.deadlines, plane.endings.expire, at)


async def test_a_sandbox_ends_when_its_time_has_come(home: Home, plane: ControlPlane) -> None:
    """Not sooner; renewed, at the new moment; then nothing is left of it."""
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60))
    assert sandbox.expires_at is not None
    later = plane.sandboxes.renew(sandbox.id, sandbox.expires_at + timedelta(seconds=30)).expires_at
    assert later == plane.sandboxes.get(sandbox.id).expires_at
    expire(plane, sandbox.expires_at.timestamp() + 1)
    assert plane.sandboxes.get(sandbox.id).state is State.RUNNING
    expire(plane, sandbox.expires_at.timestamp() + 31)
    expired = plane.sandboxes.get(sandbox.id)
    assert (expired.state, expired.reason) == (State.STOPPING, "EXPIRED")
    with pytest.raises(Conflict, match=r"is Stopping \(EXPIRED: the sandbox reached its expiry\)"):
        plane.sandboxes.renew(sandbox.id, sandbox.expires_at + timedelta(seconds=90))
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
    """The past, an unknown sandbox; the deadline stays as it was."""
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60))
    with pytest.raises(InvalidRequest, match="must be in the future"):
        plane.sandboxes.renew(sandbox.id, utc_now() - timedelta(seconds=1))
    assert plane.sandboxes.get(sandbox.id).expires_at == sandbox.expires_at
    with pytest.raises(NotFound):
        plane.sandboxes.renew("nobody", utc_now() + timedelta(seconds=1))


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
    assert (ended.reason, ended.message) == ("CONTAINER_EXITED", "the entrypoint ended: exit, exit code 0")
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
    assert (failed.reason, failed.message) == ("CONTAINER_EXITED_ERROR", f"the entrypoint ended: {text}")
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
    assert (failed.reason, failed.message) == ("CONTAINER_EXITED_ERROR", "the container ended with exit code 137")
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
    plane.following.on_engine_event(RuntimeEvent(EventKind.OOM, sandbox.id, sandbox.container_id))
    assert plane.sandboxes.get(sandbox.id).state is State.RUNNING


async def test_events_about_strangers_change_nothing(plane: ControlPlane) -> None:
    """Containers that are gone already, for one."""
    for kind in EventKind:
        plane.following.on_engine_event(RuntimeEvent(kind, "nobody", "c", 1))
    plane.following.on_violation("nobody", "text")
    plane.following.on_vanished("nobody", None)
    plane.endings.expire("nobody", 0.0)
    assert plane.sandboxes.list() == []


async def test_a_broken_protocol_fails_the_sandbox(plane: ControlPlane) -> None:
    """That one, and no other."""
    sandbox, other = await created(plane), await created(plane)
    plane.following.on_violation(sandbox.id, "frame of 9999999 bytes")
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
