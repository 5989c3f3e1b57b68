"""The composition root: builds the objects of a control plane and ends them in order. `serve.py` adds HTTP."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import msgspec

from controlplane.access import credentials
from controlplane.access.attempts import Attempts
from controlplane.access.audit import Audit
from controlplane.access.connections import KeyConnections
from controlplane.access.control import AccessControl
from controlplane.access.credentials import Credentials
from controlplane.access.keys import Keys
from controlplane.access.sign_ins import Links, SignIns
from controlplane.activity.activities import Activities
from controlplane.activity.keeping import Keeping
from controlplane.activity.records import Records
from controlplane.api.activity.entries import entry_view
from controlplane.errors import LinkLost
from controlplane.lifecycle.creation import Creation, claimed
from controlplane.lifecycle.deadlines import Deadlines, reap
from controlplane.lifecycle.endings import Endings
from controlplane.lifecycle.entrypoints import ClaimBounds, Entrypoints
from controlplane.lifecycle.following import Following
from controlplane.lifecycle.pauses import Pauses
from controlplane.lifecycle.pulls import Pulls
from controlplane.lifecycle.records.registry import Registry
from controlplane.lifecycle.records.states import CLAIMED
from controlplane.lifecycle.recovery import Recovery
from controlplane.lifecycle.resolve import Resolver, template_of_pool
from controlplane.lifecycle.room.capacity import Capacity
from controlplane.lifecycle.room.disk import DiskLimits, DiskWatch
from controlplane.lifecycle.room.disk_quotas import DiskQuotas
from controlplane.lifecycle.sandboxes import Sandboxes
from controlplane.lifecycle.snapshots import REPOSITORY as SNAPSHOTS
from controlplane.lifecycle.snapshots import Snapshots
from controlplane.lifecycle.uses import Uses
from controlplane.link.accept import Accept
from controlplane.link.directory import Directory
from controlplane.link.peer import is_init_of
from controlplane.link.relay import Relay
from controlplane.link.traced_relay import relay_with
from controlplane.pool.plan import Template
from controlplane.pool.pool import Pool
from controlplane.pool.preparations import Preparations
from controlplane.pool.provision import Provisioner
from controlplane.runtime.driver import Driver
from controlplane.sandbox import State
from controlplane.server.events import ServerEvents, follow
from controlplane.settings.sections import Settings
from controlplane.store.store import Store
from controlplane.tasks import Background
from controlplane.telemetry.engine import MeasuredDriver
from controlplane.telemetry.metrics import Metrics
from controlplane.telemetry.tracing import SILENT, Tracer
from execd.wire.discreet import Discreet


class ControlPlane(Discreet, msgspec.Struct, frozen=True):
    """A control plane that runs, without its edge."""

    registry: Registry
    sandboxes: Sandboxes
    following: Following
    pauses: Pauses
    snapshots: Snapshots
    creation: Creation
    uses: Uses
    endings: Endings
    pool: Pool
    relay: Relay
    activities: Activities
    records: Records | None
    directory: Directory
    deadlines: Deadlines
    recovery: Recovery
    credentials: Credentials
    access: AccessControl
    driver: MeasuredDriver
    metrics: Metrics
    events: ServerEvents
    settings: Settings
    made_key: str  # the API key, if this was the first start; to be shown this once


@contextlib.asynccontextmanager
async def compose(
    settings: Settings,
    make_driver: Callable[[str], Driver],
    *,
    verify: Callable[[int, str], bool] = is_init_of,
    clock: Callable[[], float] = time.time,
    tracer: Tracer = SILENT,
) -> AsyncIterator[ControlPlane]:
    """Run a control plane inside the `async with` block.

    `make_driver` gets the id of this installation. *clock* (Unix time, s) decides deadlines and idle times. Stop all
    requests before you leave the block: leaving it removes warm containers, and sandboxes go on.

    Raises:
        ConfigError: the settings cannot be met here: a directory that cannot be written, or that another server uses.
        StoreError: what an earlier run wrote down cannot be read.
        RuntimeFailure: the engine does not answer.
    """
    async with contextlib.AsyncExitStack() as stack:
        # What is entered first is left last: tasks end while there are still sockets, an engine and a store.
        store = Store(Path(settings.paths.state_dir))
        stack.callback(store.close)
        tokens = credentials.load(Path(settings.paths.state_dir))
        access, made_key = _access(settings, store)
        directory, deadlines = Directory(), Deadlines()
        accept = Accept(Path(settings.paths.run_dir), directory, verify=verify)
        accept.prepare()
        stack.push_async_callback(accept.aclose)
        registry = Registry(store)
        stack.callback(registry.late_writes.catch_up)
        metrics = Metrics(_images(settings), snapshots=f"{SNAPSHOTS}:")
        driver = MeasuredDriver(make_driver(store.instance()), metrics, tracer)
        stack.push_async_callback(driver.aclose)
        stack.push_async_callback(access.audit.aclose)
        background = await stack.enter_async_context(Background())

        provisioner = Provisioner(driver, accept, directory, metrics, tracer)
        targets = _targets(settings)

        preparations = Preparations(
            prepare=partial(_prepare, registry, provisioner),
            background=background,
            at_once=len(os.sched_getaffinity(0)),
        )
        pool = Pool(
            targets=targets,
            provision=provisioner.provision,
            discard=provisioner.discard,
            prepare=lambda warm: preparations.ahead(warm.sandbox_id),
            is_alive=lambda warm: directory.get(warm.sandbox_id) is not None,
            background=background,
            max_starting=settings.engine.concurrent_starts,
            clients_wait=lambda: preparations.clients_wait,
        )
        preparations.quiet = pool.wait_quiet
        stack.push_async_callback(pool.aclose)
        activities, keeping = _watching(settings, registry, directory, background)
        uses = Uses(registry, deadlines, directory, max_lifetime_s=settings.sandbox.max_lifetime, clock=clock)
        pauses = Pauses(
            *(registry, driver, background),
            on_resumed=partial(_resumed, uses, keeping, background),
            before_pause=keeping.before_pause,
        )
        snapshots = Snapshots(
            store=store,
            registry=registry,
            pauses=pauses,
            driver=driver,
            background=background,
            most=settings.storage.max_snapshots,
        )
        endings = Endings(
            *(registry, deadlines, uses, provisioner, driver.volumes, background, metrics),
            before_end=keeping.before_end,
        )
        entrypoints = Entrypoints(registry, directory, endings, background, _claim_bounds(settings))
        pulls = Pulls(driver, settings, background)
        capacity = Capacity(settings.sandbox, claimed(registry), clock)
        creation = Creation(
            resolver=Resolver(settings, snapshots.get, capacity.check),
            capacity=capacity,
            uses=uses,
            registry=registry,
            pool=pool,
            pulls=pulls,
            driver=driver,
            entrypoints=entrypoints,
            endings=endings,
            metrics=metrics,
            tracer=tracer,
        )
        following = Following(registry, directory, pool, creation, entrypoints, endings)
        accept.on_link, accept.on_violation = following.on_link, following.on_violation
        recovery = Recovery(
            driver=driver,
            registry=registry,
            following=following,
            creation=creation,
            endings=endings,
            pauses=pauses,
            provisioner=provisioner,
            pool=pool,
            pooled=frozenset(targets),
            accept=accept,
            directory=directory,
            background=background,
        )
        capacity.learn(await driver.describe())
        await recovery.start()
        snapshots.recover()
        background.start(recovery.watch_forever(), name="recovery.watch")
        background.start(recovery.sweep_forever(), name="recovery.sweep")
        background.start(reap(deadlines, endings.expire, clock), name="lifecycle.reap")
        quotas = DiskQuotas(access.keys.list, registry.owner_of)
        capacity.disk_taken = quotas.taken_by
        background.start(
            DiskWatch(driver, _disk_limits(settings), following.on_overfilled, quotas).watch_forever(),
            name="disk.watch",
        )
        background.start(store.tend(), name="store.tend")
        background.start(registry.late_writes.catch_up_forever(), name="store.catch_up")
        background.start(access.audit.run(), name="audit.write")
        pool.open()
        events = follow(
            settings,
            background,
            registry=registry,
            snapshots=snapshots,
            pulls=pulls,
            recovery=recovery,
            pool=pool,
            metrics=metrics,
        )
        yield ControlPlane(
            registry=registry,
            sandboxes=Sandboxes(registry, capacity, creation, uses, endings),
            following=following,
            pauses=pauses,
            snapshots=snapshots,
            creation=creation,
            uses=uses,
            endings=endings,
            pool=pool,
            relay=relay_with(tracer)(registry.get, directory, uses.on_use, preparations.turn),
            activities=activities,
            records=keeping.records,
            directory=directory,
            deadlines=deadlines,
            recovery=recovery,
            credentials=tokens,
            access=access,
            driver=driver,
            metrics=metrics,
            events=events,
            settings=settings,
            made_key=made_key,
        )


def _access(settings: Settings, store: Store) -> tuple[AccessControl, str]:
    """Return the control of access, and the API key if this start has made it, else "".

    Raises:
        ConfigError: the key of the first start cannot be read or written.
        StoreError: a key of the store cannot be read.
    """
    state_dir, made_key = Path(settings.paths.state_dir), ""
    configured = settings.server.named_keys
    if not configured:
        key, is_new = credentials.first_key(state_dir)
        configured, made_key = {credentials.KEY_FILE: key}, key if is_new else ""
    connections, audit = KeyConnections(), settings.audit
    keys = Keys(configured, store, on_narrowed=connections.end)
    access = AccessControl(
        keys=keys,
        sign_ins=SignIns(keys, store, hours=settings.console.sign_in_hours, on_ended=connections.end_others),
        links=Links(keys),
        connections=connections,
        attempts=Attempts(settings.server.max_failed_attempts),
        audit=Audit(state_dir, audit.level, max_bytes=audit.max_file_size * 1024, max_files=audit.max_files),
    )
    return access, made_key


def _is_live(registry: Registry, sandbox_id: str) -> bool:
    """Return whether a sandbox exists and is not about to end."""
    sandbox = registry.find(sandbox_id)
    return sandbox is not None and (sandbox.state in CLAIMED or sandbox.state is State.PENDING)


async def _prepare(registry: Registry, provisioner: Provisioner, sandbox_id: str, language: str) -> None:
    """Have a language made ready. Raises LinkLost, also for a paused sandbox, and AgentError."""
    sandbox = registry.find(sandbox_id)
    if sandbox is not None and sandbox.state in (State.PAUSING, State.PAUSED):
        # The agent answers when the sandbox goes on, and the languages of all other sandboxes would wait for that.
        raise LinkLost(f"sandbox {sandbox_id} is paused")
    await provisioner.prepare(sandbox_id, language)


def _watching(
    settings: Settings, registry: Registry, directory: Directory, background: Background
) -> tuple[Activities, Keeping]:
    """Return what reads activities, and what adds to them and keeps records, where the settings want records."""
    activities = Activities(directory, partial(_is_live, registry), entry_view, background)
    records, wanted = None, settings.activity
    if wanted.keep_on_disk:
        records = Records(Path(settings.paths.state_dir), wanted.max_records, wanted.max_records_size * 1024)
    return activities, Keeping(activities, records)


def _resumed(uses: Uses, keeping: Keeping, background: Background, sandbox_id: str) -> None:
    """Note that a sandbox goes on."""
    uses.on_use(sandbox_id)
    background.start(keeping.after_resume(sandbox_id), name="activity.note")


def _claim_bounds(settings: Settings) -> ClaimBounds:
    sandbox, activity = settings.sandbox, settings.activity
    return ClaimBounds(
        max_contexts=sandbox.max_contexts,
        max_output_bytes=sandbox.output_limit * 1024,
        max_recorded_bytes=sandbox.recording_limit * 1024,
        activity=activity.keep,
        max_activity_entries=activity.max_entries,
        max_activity_bytes=activity.limit * 1024,
    )


def _disk_limits(settings: Settings) -> DiskLimits:
    return DiskLimits(
        sandbox_bytes=settings.sandbox.disk_limit * 1024,
        sandbox_files=settings.sandbox.file_limit,
        least_free_bytes=settings.storage.min_free * 1024,
        least_free_files=settings.storage.min_free_files,
    )


def _images(settings: Settings) -> set[str]:
    """Return the images that the settings name: metrics always tell them by their names."""
    return {pool.image for pool in settings.warm_pools()} | set(settings.all_aliases.values())


def _targets(settings: Settings) -> dict[Template, int]:
    return {template_of_pool(settings, pool): pool.size for pool in settings.warm_pools()}
