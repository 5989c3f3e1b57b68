"""After a restart, and every minute: make what we know and what the engine has agree.

`compare` decides, purely; `Recovery` carries it out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from contextlib import aclosing

import msgspec
import structlog

from controlplane.errors import RuntimeFailure, SandlotError, StoreError
from controlplane.lifecycle.creation import Creation
from controlplane.lifecycle.endings import Endings
from controlplane.lifecycle.following import Following
from controlplane.lifecycle.pauses import DISAGREEMENTS, Pauses
from controlplane.lifecycle.records.registry import Registry
from controlplane.lifecycle.records.states import LIVE
from controlplane.link.accept import Accept
from controlplane.link.directory import Directory
from controlplane.pool.plan import Template
from controlplane.pool.pool import Pool
from controlplane.pool.provision import TEMPLATE_LABEL, Provisioner, template_of
from controlplane.pool.shelf import Warm
from controlplane.runtime.driver import Container, ContainerState, Driver
from controlplane.runtime.events import EventKind, RuntimeEvent
from controlplane.sandbox import Sandbox, State
from controlplane.tasks import Background

log = structlog.get_logger()

SWEEP_S = 60.0
# When the flow of events ends: the driver has tried for a minute already.
RECONNECT_S = 1.0
# A warm container of an earlier run dials again within a second, or is not worth keeping.
ADOPT_TIMEOUT_S = 5.0

_ALIVE = (ContainerState.RUNNING, ContainerState.PAUSED)


class Differences(msgspec.Struct, frozen=True):
    """What does not agree, or has to be taken over."""

    running: tuple[Sandbox, ...] = ()  # or paused, with their containers: take over
    unsettled: tuple[tuple[Sandbox, Container], ...] = ()  # of those, where one is paused and the other is not
    pending: tuple[Sandbox, ...] = ()  # half made
    finish: tuple[Sandbox, ...] = ()  # half removed: remove
    vanished: tuple[tuple[Sandbox, Container | None], ...] = ()  # without a living container
    unclaimed: tuple[Container, ...] = ()  # containers without a sandbox


def compare(sandboxes: Iterable[Sandbox], containers: Iterable[Container]) -> Differences:
    """Compare records with containers."""
    by_id = {container.sandbox_id: container for container in containers}
    running, unsettled, pending, finish, vanished = [], [], [], [], []
    for sandbox in sandboxes:
        container = by_id.pop(sandbox.id, None)
        if sandbox.state is State.PENDING:
            pending.append(sandbox)
        elif sandbox.state is State.STOPPING or (sandbox.state not in LIVE and container is not None):
            finish.append(sandbox)
        elif sandbox.state not in LIVE:
            pass  # ended, and its container is gone: only remembered
        elif container is None or container.state not in _ALIVE:
            vanished.append((sandbox, container))
        else:
            running.append(sandbox)
            if (sandbox.state, container.state) in DISAGREEMENTS:
                unsettled.append((sandbox, container))
    return Differences(
        tuple(running), tuple(unsettled), tuple(pending), tuple(finish), tuple(vanished), tuple(by_id.values())
    )


class Recovery:
    """Makes the records and the containers of the engine agree."""

    def __init__(
        self,
        *,
        driver: Driver,
        registry: Registry,
        following: Following,
        creation: Creation,
        endings: Endings,
        pauses: Pauses,
        provisioner: Provisioner,
        pool: Pool,
        pooled: frozenset[Template],
        accept: Accept,
        directory: Directory,
        background: Background,
    ) -> None:
        self._driver = driver
        self._registry = registry
        self._following = following
        self._creation = creation
        self._endings = endings
        self._pauses = pauses
        self._provisioner = provisioner
        self._pool = pool
        self._pooled = pooled
        self._accept = accept
        self._directory = directory
        self._background = background
        self.engine_answers = False  # known from `start()` on
        # Called when the engine does not answer any more, with what is wrong, and with "" when it answers again.
        self.on_engine: Callable[[str], None] = _tell_nobody

    async def start(self) -> None:
        """Take over what an earlier run left. Call it once, before requests are served.

        Raises:
            RuntimeFailure: the engine does not list its containers, or the sockets cannot be made.
        """
        found = compare(self._registry.all(), await self._driver.containers.list())
        self._answers()
        for sandbox in self._registry.all():
            self._endings.take_over(sandbox)
        for sandbox in found.running:
            await self._provisioner.adopt(sandbox.id, sandbox.container_id)
        for sandbox, living in found.unsettled:
            with contextlib.suppress(StoreError):  # the sweep tries again
                self._pauses.settle(sandbox, living)
        for sandbox, container in found.vanished:
            self._following.on_vanished(sandbox.id, container)
        for sandbox in found.pending:
            self._creation.abandon(sandbox)
        for sandbox in found.finish:
            self._endings.remove(sandbox)
        for container in found.unclaimed:
            template = template_of(container.labels.get(TEMPLATE_LABEL, ""))
            if template in self._pooled and container.state is ContainerState.RUNNING:
                await self._provisioner.adopt(container.sandbox_id, container.id)
                self._pool.adopt(Warm(container.sandbox_id, container.id, template), self._is_back)
            else:
                self._remove_orphan(container)
        await self._remove_stale_directories()
        log.info(
            "recovery.done",
            running=len(found.running),
            vanished=len(found.vanished),
            unclaimed=len(found.unclaimed),
            finished=len(found.finish) + len(found.pending),
        )

    async def sweep_forever(self) -> None:
        """Compare every minute, and remove what should not be. Never returns."""
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self.sweep()
            except SandlotError as error:
                log.warning("recovery.sweep_failed", error=error.message)
            except Exception:
                log.exception("recovery.sweep_broken")

    async def sweep(self) -> None:
        """Compare once. What is being made or removed right now is left alone.

        Raises:
            RuntimeFailure: the engine does not answer.
            StoreError: a difference could not be written down; the next sweep finds it again.
        """
        # Both looks at our side come before the one at the engine: what is newer than them is missing there rightly.
        before, warm_before = self._registry.all(), self._pool.warm_ids()
        containers = await self._driver.containers.list()
        found = compare(before, containers)
        for sandbox_id in warm_before - {one.sandbox_id for one in containers if one.state in _ALIVE}:
            self._pool.lost(sandbox_id)
        for sandbox, _ in found.unsettled:
            self._pauses.look_again(sandbox.id)
        for sandbox, _ in found.vanished:
            # Paused between our two looks, or removed meanwhile: the record of now decides, and the engine once more.
            if self._registry.find(sandbox.id) == sandbox:
                container = await self._driver.containers.inspect(sandbox.container_id)
                if container is None or container.state not in _ALIVE:
                    self._following.on_vanished(sandbox.id, container)
        for sandbox in found.pending:
            if self._registry.find(sandbox.id) == sandbox:
                self._creation.abandon(sandbox)
        for sandbox in found.finish:
            self._endings.remove(sandbox)
        for container in found.unclaimed:
            if not self._provisioner.owns(container.sandbox_id) and self._registry.find(container.sandbox_id) is None:
                self._remove_orphan(container)
        await self._driver.volumes.remove_unused()  # by whom they were used may have ended without us

    async def watch_forever(self) -> None:
        """Follow the engine's events; after a gap in them, compare. Never returns."""
        while True:
            try:
                async with aclosing(self._driver.containers.events()) as events:
                    async for event in events:
                        await self._handle(event)
                log.warning("engine.events_ended")
                self._is_silent("the engine has ended the flow of its events")
            except RuntimeFailure as error:
                log.warning("engine.unavailable", error=error.message)
                self._is_silent(error.public)
            except Exception:
                # A bug. Without this task, nobody would hear of containers that die.
                log.exception("recovery.watch_broken")
                self._is_silent("the server cannot follow the engine's events")
            await asyncio.sleep(RECONNECT_S)

    async def _handle(self, event: RuntimeEvent) -> None:
        try:
            if event.kind is EventKind.CONNECTED:
                self._answers()
                # Not here: while the engine is asked for its containers, it may be gone again, and events tell.
                self._background.start(self._sweep_after_gap(), name="recovery.sweep_after_gap")
            elif event.kind is EventKind.DISCONNECTED:
                log.warning("engine.silent")
                self._is_silent("the engine does not answer")
            elif event.kind in (EventKind.PAUSED, EventKind.RESUMED):
                self._pauses.look_again(event.sandbox_id)
            else:
                self._following.on_engine_event(event)
        except SandlotError as error:  # the next sweep sees to it; events go on
            log.warning("engine.event_failed", kind=event.kind.value, sandbox=event.sandbox_id, error=error.message)

    def _answers(self) -> None:
        if not self.engine_answers:
            self.engine_answers = True
            self.on_engine("")

    def _is_silent(self, message: str) -> None:
        if self.engine_answers:
            self.engine_answers = False
            self.on_engine(message)

    async def _sweep_after_gap(self) -> None:
        try:
            await self.sweep()
        except SandlotError as error:  # the next one sees to it
            log.warning("recovery.sweep_failed", error=error.message)

    async def _is_back(self, warm: Warm) -> None:
        await self._directory.wait(warm.sandbox_id, timeout_s=ADOPT_TIMEOUT_S)

    def _remove_orphan(self, container: Container) -> None:
        log.info("recovery.orphan", sandbox=container.sandbox_id, container=container.id)
        self._background.start(self._remove(container), name="recovery.remove_orphan")

    async def _remove(self, container: Container) -> None:
        try:
            await self._provisioner.remove(container.sandbox_id, container.id)
            await self._driver.volumes.remove_unused()
        except SandlotError as error:
            log.warning("recovery.remove_failed", sandbox=container.sandbox_id, error=error.message)

    async def _remove_stale_directories(self) -> None:
        for sandbox_id in self._accept.known():
            sandbox = self._registry.find(sandbox_id)
            is_live = sandbox is not None and sandbox.state in LIVE
            if not is_live and not self._provisioner.owns(sandbox_id):
                await self._accept.close(sandbox_id)


def _tell_nobody(_problem: str) -> None:
    """Stand for a listener to the engine's state."""
