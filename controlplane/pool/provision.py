"""The start of a container with a live link from a template, and its removal."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import structlog

from controlplane.errors import LinkLost, OutOfMemory, SandlotError, StartFailed
from controlplane.link.accept import Accept
from controlplane.link.directory import Directory
from controlplane.pool.plan import Template
from controlplane.pool.shelf import Warm
from controlplane.runtime.driver import ContainerSpec, Driver
from controlplane.sandbox import Network, new_sandbox_id
from controlplane.tasks import Slots
from controlplane.telemetry.metrics import Metrics
from controlplane.telemetry.tracing import SILENT, Tracer
from execd.wire.messages import ContextPrepare, Done

log = structlog.get_logger()

# A start takes 0.2 s, and much longer on a machine that is busy with many. The engine reports a dead container, and
# callers have limits of their own for a slow one. So these limits are for an agent that hangs.
LINK_TIMEOUT_S = 120.0
PREPARE_TIMEOUT_S = 120.0  # a second on an idle machine; others wait for their turn
# Sixty removals at once occupy the engine, and with it this server, for more than a second. No client waits for one.
REMOVALS_AT_ONCE = 4
MAX_REMOVAL_SLOT_S = 10.0
TEMPLATE_LABEL = "sandlot.template"


class Provisioner:
    """The maker of ready containers, which also removes them."""

    def __init__(
        self,
        driver: Driver,
        accept: Accept,
        directory: Directory,
        metrics: Metrics | None = None,
        tracer: Tracer = SILENT,
    ) -> None:
        self._tracer = tracer
        self._driver = driver
        self._metrics = metrics or Metrics()
        self._accept = accept
        self._directory = directory
        # The containers that this process makes, has made, has adopted or is removing. A container with this server's
        # label that is neither here nor in the registry is an orphan.
        self._owned: set[str] = set()
        self._removals = Slots(REMOVALS_AT_ONCE, longest_s=MAX_REMOVAL_SLOT_S)

    def owns(self, sandbox_id: str) -> bool:
        """Return whether this process has a container of that id, or is making or removing one."""
        return sandbox_id in self._owned

    async def adopt(self, sandbox_id: str, container_id: str) -> None:
        """Listen for the execd of an earlier run's container, which connects again by itself. Raises StartFailed."""
        self._owned.add(sandbox_id)
        await self._accept.listen(sandbox_id, container_id)

    async def provision(self, template: Template) -> Warm:
        """Make a container and wait for its execd. A failed or cancelled call leaves nothing behind.

        It is a trace of its own, because no request waits for a container that the pool keeps.

        Raises:
            ImageMissing, VolumeRefused, StartFailed, RuntimeFailure: the engine refused or failed.
            OutOfMemory: the memory limit is too low for a start.
            LinkLost: the container started, but its agent did not connect.
        """
        with self._tracer.first("container.provision", {"sandlot.image": template.image}):
            return await self._provision(template)

    async def _provision(self, template: Template) -> Warm:
        sandbox_id = new_sandbox_id()
        container_id = ""
        began = time.perf_counter()
        self._owned.add(sandbox_id)
        try:
            socket_dir = await self._accept.listen(sandbox_id)
            container_id = await self._driver.containers.create(
                ContainerSpec(
                    sandbox_id=sandbox_id,
                    image=template.image,
                    socket_dir=str(socket_dir),
                    limits=template.limits,
                    network=template.network,
                    labels={TEMPLATE_LABEL: template_text(template)},
                    runtime=template.runtime,
                    hardened=template.hardened,
                    volumes=template.volumes,
                    gpus=template.gpus,
                    user_namespaces=template.user_namespaces,
                )
            )
            self._accept.expect(sandbox_id, container_id)
            # Before the start, because the engine may report the container's death before it answers the start.
            with self._directory.expect(sandbox_id) as arrival:
                started = time.perf_counter()
                await self._driver.containers.start(container_id)
                await arrival.wait(timeout_s=LINK_TIMEOUT_S)
        except BaseException as error:
            is_too_small = isinstance(error, StartFailed) and await self._ran_out_of_memory(container_id)
            await self._undo(sandbox_id, container_id, template)
            if isinstance(error, StartFailed) and is_too_small:
                raise OutOfMemory(f"{error.message} (out of memory)", public=error.public) from error
            raise
        now = time.perf_counter()
        self._metrics.provisioned(template.image, now - began, linked_s=now - started)
        return Warm(sandbox_id, container_id, template)

    async def prepare(self, sandbox_id: str, language: str = "") -> None:
        """Prepare a language of a container, or all eager ones, so that the next context opens quickly.

        Raises:
            AgentError, LinkLost: the preparation failed, or took too long.
        """
        link = self._directory.get(sandbox_id)
        if link is None:
            raise LinkLost(f"the agent of sandbox {sandbox_id} is not connected")
        try:
            async with asyncio.timeout(PREPARE_TIMEOUT_S):
                await link.call(ContextPrepare(language), Done)
        except TimeoutError:
            raise LinkLost(f"its languages were not ready within {PREPARE_TIMEOUT_S:g} s") from None

    async def remove(self, sandbox_id: str, container_id: str) -> None:
        """Remove a container and its socket. Idempotent, also for a container that is gone.

        The socket is removed even if the engine fails: perhaps only its answer was lost, and no sweep would find the
        socket.

        Raises:
            RuntimeFailure: the engine failed. The container has no owner then, and the sweep tries again.
        """
        try:
            if container_id:
                async with self._removals.slot():
                    await self._driver.containers.destroy(container_id)
        finally:
            try:
                await self._accept.close(sandbox_id)
            finally:
                self._owned.discard(sandbox_id)

    async def discard(self, warm: Warm) -> None:
        """Remove a container without an owner, and everything made for it. Raises what `remove` raises."""
        await self._discard(warm.sandbox_id, warm.container_id, warm.template)

    async def _discard(self, sandbox_id: str, container_id: str, template: Template) -> None:
        await self.remove(sandbox_id, container_id)
        if any(volume.volume_name for volume in template.volumes):
            await self._driver.volumes.remove_unused()

    async def _ran_out_of_memory(self, container_id: str) -> bool:
        try:
            container = await self._driver.containers.inspect(container_id)
        except SandlotError:  # the caller needs the first error more than this one
            return False
        return container is not None and container.oom_killed

    async def _undo(self, sandbox_id: str, container_id: str, template: Template) -> None:
        try:
            await self._discard(sandbox_id, container_id, template)
        except SandlotError as error:  # the caller needs the first error more than this one
            log.warning("provision.undo_failed", sandbox=sandbox_id, error=error.message)


def template_text(template: Template) -> str:
    """Return a template as the text of a label, by which a later start recognises its warm containers."""
    return msgspec.json.encode(template).decode()


def template_of(text: str) -> Template | None:
    """Return the template of a label; None if the label is not ours, or has another version."""
    try:
        told = msgspec.json.decode(text, type=dict[str, Any])
        if isinstance(network := told.get("network"), bool):  # of an earlier release
            told["network"] = Network.allowed(network)
        return msgspec.convert(told, Template)
    except msgspec.MsgspecError:
        return None
