"""From a template to a container with a live link, or a clean failure."""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from controlplane.errors import LinkLost, SandlotError
from controlplane.link.accept import Accept
from controlplane.link.directory import Directory
from controlplane.pool.plan import Template
from controlplane.pool.pool import Warm
from controlplane.runtime.driver import ContainerSpec, Driver
from controlplane.sandbox import new_sandbox_id
from execd.wire.messages import ContextPrepare, Done

log = structlog.get_logger()

# A start takes 0.2 s; on a machine that is busy with many at once, a few seconds.
LINK_TIMEOUT_S = 30.0
PREPARE_TIMEOUT_S = 30.0
TEMPLATE_LABEL = "sandlot.template"


class Provisioner:
    """Makes containers ready, and takes them away again."""

    def __init__(self, driver: Driver, accept: Accept, directory: Directory) -> None:
        self._driver = driver
        self._accept = accept
        self._directory = directory
        # What this process makes, has made, has adopted or is removing. A container with our label that is neither
        # here nor in the registry is an orphan.
        self._owned: set[str] = set()

    def owns(self, sandbox_id: str) -> bool:
        """Whether this process has a container of that id, or is making or removing one."""
        return sandbox_id in self._owned

    async def adopt(self, sandbox_id: str, container_id: str) -> None:
        """Listen for the execd of a container of an earlier run; it dials again by itself. Raises StartFailed."""
        self._owned.add(sandbox_id)
        await self._accept.listen(sandbox_id, container_id)

    async def provision(self, template: Template) -> Warm:
        """Make a container and wait for its execd. Nothing is left behind on failure or cancellation.

        Raises:
            ImageMissing, VolumeRefused, StartFailed, RuntimeFailure: the engine's reasons.
            LinkLost: it started, but its agent did not connect.
        """
        sandbox_id = new_sandbox_id()
        container_id = ""
        self._owned.add(sandbox_id)
        try:
            socket_dir = await self._accept.listen(sandbox_id)
            container_id = await self._driver.create(
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
            # From before the start: the engine may tell that the container died before it tells that it started.
            with self._directory.expect(sandbox_id) as arrival:
                await self._driver.start(container_id)
                await arrival.wait(timeout_s=LINK_TIMEOUT_S)
        except BaseException:
            await self._undo(sandbox_id, container_id, template)
            raise
        return Warm(sandbox_id, container_id, template)

    async def prepare(self, warm: Warm) -> None:
        """Have the languages of a warm container made ready, so that the first context is quick.

        Raises:
            AgentError, LinkLost: it could not be done, or not in time.
        """
        link = await self._directory.wait(warm.sandbox_id, timeout_s=LINK_TIMEOUT_S)
        try:
            async with asyncio.timeout(PREPARE_TIMEOUT_S):
                await link.call(ContextPrepare(), Done)
        except TimeoutError:
            raise LinkLost(f"its languages were not ready within {PREPARE_TIMEOUT_S:g} s") from None

    async def remove(self, sandbox_id: str, container_id: str) -> None:
        """Take a container and its socket away. Idempotent; succeeds on what is gone.

        Raises:
            RuntimeFailure: the engine failed. The container is nobody's then, and the sweep tries again.
        """
        try:
            if container_id:
                await self._driver.destroy(container_id)
            await self._accept.close(sandbox_id)
        finally:
            self._owned.discard(sandbox_id)

    async def discard(self, warm: Warm) -> None:
        """Take a container that is nobody's away, with what was made for it. Errors as in `remove`."""
        await self._discard(warm.sandbox_id, warm.container_id, warm.template)

    async def _discard(self, sandbox_id: str, container_id: str, template: Template) -> None:
        await self.remove(sandbox_id, container_id)
        if any(volume.claim for volume in template.volumes):
            await self._driver.remove_unused_volumes()

    async def _undo(self, sandbox_id: str, container_id: str, template: Template) -> None:
        try:
            await self._discard(sandbox_id, container_id, template)
        except SandlotError as error:  # the reason why we undo is worth more to the caller
            log.warning("provision.undo_failed", sandbox=sandbox_id, error=error.message)


def template_text(template: Template) -> str:
    """Return a template as a label's text, by which a later start knows its warm containers again."""
    return msgspec.json.encode(template).decode()


def template_of(text: str) -> Template | None:
    """Return the template that a label names; None when the label is not ours, or of another version."""
    try:
        return msgspec.json.decode(text, type=Template)
    except msgspec.MsgspecError:
        return None
