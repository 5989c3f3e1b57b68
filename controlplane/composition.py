"""The composition root: builds the objects of a control plane and ends them in order. `server.py` adds HTTP."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from controlplane import credentials
from controlplane.config import Settings
from controlplane.credentials import Credentials
from controlplane.lifecycle.deadlines import Deadlines
from controlplane.lifecycle.pauses import Pauses
from controlplane.lifecycle.reaper import reap
from controlplane.lifecycle.recovery import Recovery
from controlplane.lifecycle.registry import Registry
from controlplane.lifecycle.sandboxes import Sandboxes, template_for
from controlplane.lifecycle.snapshots import Snapshots
from controlplane.link.accept import Accept
from controlplane.link.directory import Directory
from controlplane.link.peer import is_init_of
from controlplane.link.relay import Relay
from controlplane.pool.plan import Template
from controlplane.pool.pool import Pool
from controlplane.provision import Provisioner
from controlplane.runtime.driver import Driver
from controlplane.store import Store
from controlplane.tasks import Background


class ControlPlane(msgspec.Struct, frozen=True):
    """A control plane that runs, without its edge."""

    registry: Registry
    sandboxes: Sandboxes
    pauses: Pauses
    snapshots: Snapshots
    pool: Pool
    relay: Relay
    directory: Directory
    deadlines: Deadlines
    recovery: Recovery
    credentials: Credentials
    made_key: str  # the API key, if this was the first start; to be shown this once


@contextlib.asynccontextmanager
async def compose(
    settings: Settings,
    make_driver: Callable[[str], Driver],
    *,
    verify: Callable[[int, str], bool] = is_init_of,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[ControlPlane]:
    """Run a control plane inside the `async with` block.

    `make_driver` gets the id of this installation; by *clock* (Unix time, s) sandboxes are used and end. Leaving the
    block removes warm containers; sandboxes go on. Before that, nothing may be asked of it any more.

    Raises:
        ConfigError: the settings cannot be met here: a directory that cannot be written, or that another server uses.
        StoreError: what an earlier run wrote down cannot be read.
        RuntimeFailure: the engine does not answer.
    """
    async with contextlib.AsyncExitStack() as stack:
        # What is entered first is left last: tasks end while there are still sockets, an engine and a store.
        store = Store(Path(settings.paths.state_dir))
        stack.callback(store.close)
        keys, made_key = credentials.load(Path(settings.paths.state_dir), settings.server.api_keys)
        directory, deadlines = Directory(), Deadlines()
        # Links come up for sandboxes, and sandboxes are made with links: a knot, tied by two late calls.
        accept = Accept(
            Path(settings.paths.run_dir),
            directory,
            on_link=lambda link: sandboxes.linked(link),  # noqa: PLW0108 - bound when called
            on_violation=lambda sandbox_id, text: sandboxes.violated(sandbox_id, text),  # noqa: PLW0108
            verify=verify,
        )
        accept.prepare()
        stack.push_async_callback(accept.aclose)
        registry = Registry(store)
        driver = make_driver(store.instance())
        stack.push_async_callback(driver.aclose)
        background = await stack.enter_async_context(Background())

        provisioner = Provisioner(driver, accept, directory)
        targets = _targets(settings)
        pool = Pool(
            targets=targets,
            provision=provisioner.provision,
            discard=provisioner.discard,
            prepare=provisioner.prepare,
            is_alive=lambda warm: directory.get(warm.sandbox_id) is not None,
            background=background,
            max_starting=settings.engine.concurrent_starts,
        )
        stack.push_async_callback(pool.aclose)
        # Another knot: sandboxes come from snapshots, those need pauses, and to resume a sandbox is to use it.
        pauses = Pauses(
            registry,
            driver,
            background,
            on_resumed=lambda sandbox_id: sandboxes.used(sandbox_id),  # noqa: PLW0108 - bound when called
        )
        snapshots = Snapshots(
            store=store,
            registry=registry,
            pauses=pauses,
            driver=driver,
            background=background,
            most=settings.storage.max_snapshots,
        )
        sandboxes = Sandboxes(
            settings=settings,
            registry=registry,
            deadlines=deadlines,
            pool=pool,
            provisioner=provisioner,
            driver=driver,
            directory=directory,
            background=background,
            find_snapshot=snapshots.get,
            clock=clock,
        )
        recovery = Recovery(
            driver=driver,
            registry=registry,
            sandboxes=sandboxes,
            pauses=pauses,
            provisioner=provisioner,
            pool=pool,
            pooled=frozenset(targets),
            accept=accept,
            directory=directory,
            background=background,
        )
        await recovery.start()
        snapshots.recover()
        background.start(recovery.watch_forever(), name="recovery.watch")
        background.start(recovery.sweep_forever(), name="recovery.sweep")
        background.start(reap(deadlines, sandboxes.expire, clock), name="lifecycle.reap")
        background.start(store.tend(), name="store.tend")
        pool.open()
        yield ControlPlane(
            registry=registry,
            sandboxes=sandboxes,
            pauses=pauses,
            snapshots=snapshots,
            pool=pool,
            relay=Relay(sandboxes.get, directory, sandboxes.used),
            directory=directory,
            deadlines=deadlines,
            recovery=recovery,
            credentials=keys,
            made_key=made_key,
        )


def _targets(settings: Settings) -> dict[Template, int]:
    defaults = settings.sandbox
    targets = {
        template_for(settings, settings.resolve_image(defaults.image), defaults.allow_network): defaults.pool_size
    }
    for pool in settings.pools:
        network = defaults.allow_network if pool.allow_network is None else pool.allow_network
        targets[template_for(settings, settings.resolve_image(pool.image), network)] = pool.size
    return targets
