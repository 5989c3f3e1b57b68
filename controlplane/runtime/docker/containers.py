"""Containers of a Docker engine."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Collection
from typing import Any

import aiodocker
import msgspec
import structlog
from aiodocker import DockerError
from aiodocker.containers import DockerContainer
from msgspec.structs import replace

from controlplane.errors import ImageUnfinished, RuntimeFailure, StartFailed
from controlplane.runtime import labels
from controlplane.runtime.docker import events, hardening
from controlplane.runtime.docker.disk import Meter
from controlplane.runtime.docker.engine import ANSWER, ANSWER_TIMEOUT_S, NOT_FOUND, SOON, our_errors, request
from controlplane.runtime.docker.hardening import ExecdVolume
from controlplane.runtime.docker.info import Asker
from controlplane.runtime.docker.load import load_of
from controlplane.runtime.docker.network import Bridge
from controlplane.runtime.docker.seccomp import Profiles
from controlplane.runtime.docker.volumes import DockerVolumes, Promise, check
from controlplane.runtime.driver import Container, ContainerSpec, ContainerState, DiskUsage, Load
from controlplane.runtime.events import RuntimeEvent
from controlplane.sandbox import Limits, Network

log = structlog.get_logger()

# A loaded machine may not freeze or thaw processes at once; the kernel is asked again for so long.
_BUSY_PATIENCE_S = 10.0
_FIRST_BUSY_RETRY_S, _LAST_BUSY_RETRY_S = 0.1, 1.0

# The kernel may still hold the container's root for a moment, or its end has not come through.
_REMOVE_RETRIES_S = (0.1, 0.5, 2.0)

_REMOVE_AGAIN = (409, 500)

_STATES = {
    "created": ContainerState.CREATED,
    "running": ContainerState.RUNNING,
    "restarting": ContainerState.RUNNING,
    "paused": ContainerState.PAUSED,
    "removing": ContainerState.EXITED,
    "exited": ContainerState.EXITED,
    "dead": ContainerState.EXITED,
}

# The engines' refusals of a quota: overlay2 has them on XFS with the mount option pquota.
_NO_QUOTAS = re.compile(r"storage-opt|storage opt|quota", re.IGNORECASE)

# It becomes part of a URL's path, where `..` would lead to other requests.
_CONTAINER_ID = re.compile(r"[0-9a-f]{12,64}")


class _State(msgspec.Struct, rename="pascal"):
    status: str
    exit_code: int = 0
    oom_killed: bool = msgspec.field(name="OOMKilled", default=False)


class _Config(msgspec.Struct, rename="pascal"):
    labels: dict[str, str] | None = None


class _Inspected(msgspec.Struct, rename="pascal"):
    id: str
    state: _State
    config: _Config


class DockerContainers:
    """See `Containers` for what each method promises; for the arguments, see `DockerDriver`."""

    def __init__(
        self,
        docker: aiodocker.Docker,
        *,
        instance: str,
        asker: Asker,
        bridge: Bridge,
        volumes: DockerVolumes,
        execd_volume: str | asyncio.Future[str],
        seccomp: Profiles,
        disk_limit_bytes: int,
        not_yet: Callable[[str], str],
    ) -> None:
        self._docker = docker
        self._instance = instance
        self._asker = asker
        self._bridge = bridge
        self._volumes = volumes
        self._execd_volume = execd_volume
        self._seccomp = seccomp
        self._disk_limit_bytes = disk_limit_bytes
        self._not_yet = not_yet
        self._meter = Meter(docker, instance)
        self._undoing: set[asyncio.Task[None]] = set()
        # Of containers that are not started yet: what must turn out to be mounted in them.
        self._promised: dict[str, tuple[Promise, ...]] = {}

    async def create(self, spec: ContainerSpec) -> str:
        """Make a container. See `Containers.create`."""
        creation = asyncio.ensure_future(self._create(spec))
        try:
            return await asyncio.shield(creation)
        except asyncio.CancelledError:
            # The engine finishes what it has begun, so a request cut off would leave a container behind.
            undoing = asyncio.ensure_future(self._undo(creation))
            self._undoing.add(undoing)
            undoing.add_done_callback(self._undoing.discard)
            await asyncio.shield(undoing)
            raise

    async def _create(self, spec: ContainerSpec) -> str:
        await self._asker.check(spec)
        execd = await self._find_execd()
        if spec.network is Network.BRIDGE:
            await self._bridge.ensure()
        async with self._volumes.mounts(spec) as mounts:
            config = hardening.container_config(
                spec,
                labels=labels.labels_of(spec, self._instance),
                execd=execd,
                network=self._bridge.name,
                seccomp=self._seccomp,
                mounts=[mount.config for mount in mounts],
            )
            with our_errors(f"create a container for sandbox {spec.sandbox_id}", image=spec.image):
                try:
                    container = await self._make(config, _name_of(spec, self._instance))
                except DockerError as error:
                    if error.status == NOT_FOUND and (reason := self._not_yet(spec.image)):
                        raise ImageUnfinished(reason, image=spec.image) from error
                    raise
        if promised := tuple(mount.promise for mount in mounts if mount.promise is not None):
            self._promised[container.id] = promised
        return container.id

    async def _make(self, config: dict[str, Any], name: str) -> DockerContainer:
        """Have the engine make a container; with a quota of its disk, where the engine's storage can do that."""
        if self._disk_limit_bytes and await self._asker.has_quotas():
            quota = {"StorageOpt": {"size": str(self._disk_limit_bytes)}}
            try:
                host = config["HostConfig"] | quota
                return await self._docker.containers.create(config | {"HostConfig": host}, name=name)
            except DockerError as error:
                if not _NO_QUOTAS.search(error.message):
                    raise
                self._asker.refused_quotas()
        return await self._docker.containers.create(config, name=name)

    async def _undo(self, creation: asyncio.Future[str]) -> None:
        try:
            await self.destroy(await creation)
        except RuntimeFailure as error:
            log.warning("container.create_abandoned", error=error.message)  # nothing was made, or list() shows it

    async def start(self, container_id: str) -> None:
        """Start it. See `Containers.start`."""
        with our_errors("start the container", refused=StartFailed):
            await self.handle(container_id).start()
            if promised := self._promised.pop(container_id, None):
                shown = await self.handle(container_id).show()
                check(shown["State"]["Pid"], promised)

    async def resize(self, container_id: str, limits: Limits) -> None:
        """Change its limits. See `Containers.resize`."""
        with our_errors("change the limits of the container"):
            path = f"containers/{self.handle(container_id).id}/update"
            await request(self._docker, "POST", path, hardening.resources(limits))

    async def pause(self, container_id: str) -> None:
        """Freeze it. See `Containers.pause`."""
        with our_errors("pause the container"):
            await self._insist(container_id, ContainerState.RUNNING, ContainerState.PAUSED)

    async def resume(self, container_id: str) -> None:
        """Thaw it. See `Containers.resume`."""
        with our_errors("resume the container"):
            await self._insist(container_id, ContainerState.PAUSED, ContainerState.RUNNING)

    async def _insist(self, container_id: str, before: ContainerState, after: ContainerState) -> None:
        """Pause or resume a container, again and again while its engine is only too busy for that.

        Raises:
            DockerError: the container is in neither of these states, or has not changed in time.
        """
        container = self.handle(container_id)
        change = container.pause if after is ContainerState.PAUSED else container.unpause
        loop = asyncio.get_running_loop()
        give_up_at, delay_s = loop.time() + _BUSY_PATIENCE_S, _FIRST_BUSY_RETRY_S
        while True:
            try:
                await change()
            except DockerError:
                state = await self.state(container_id)
                if state is after:
                    return
                if state is not before or loop.time() + delay_s > give_up_at:
                    raise
            else:
                return
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LAST_BUSY_RETRY_S)

    async def state(self, container_id: str) -> ContainerState | None:
        """Return the state of a container; None when it is gone. Raises RuntimeFailure."""
        container = await self.inspect(container_id)
        return None if container is None else container.state

    async def destroy(self, container_id: str) -> None:
        """Kill and remove it. See `Containers.destroy`."""
        self._promised.pop(container_id, None)
        delays = iter(_REMOVE_RETRIES_S)
        with our_errors("remove the container"):
            while True:
                try:
                    await self._remove(container_id)
                except DockerError as error:
                    delay_s = next(delays, None)
                    if delay_s is None or error.status not in _REMOVE_AGAIN:
                        raise
                    await asyncio.sleep(delay_s)
                else:
                    return

    async def _remove(self, container_id: str) -> None:
        try:
            container = self.handle(container_id)
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                while not await self._is_removed(container):
                    pass
        except DockerError as error:
            if error.status != NOT_FOUND:
                raise

    async def _is_removed(self, container: DockerContainer) -> bool:
        """Remove a container. Return False if a removal that was under way has not removed it soon.

        A removal that another client began may have ended with that client: to wait for it alone would be in vain.
        """
        try:
            # v: an image's VOLUMEs became anonymous volumes, which would stay.
            await container.delete(force=True, v=True, timeout=ANSWER)
        except DockerError as error:
            if "already in progress" not in error.message:
                raise
            try:
                await container.wait(condition="removed", timeout=SOON)
            except TimeoutError:
                return False
        return True

    async def inspect(self, container_id: str) -> Container | None:
        """Return what the engine knows of it. See `Containers.inspect`."""
        with our_errors("inspect the container"):
            try:
                answer = msgspec.convert(await self.handle(container_id).show(), _Inspected)
            except DockerError as error:
                if error.status == NOT_FOUND:
                    return None
                raise
            found = answer.config.labels or {}
            if found.get(labels.INSTANCE) != self._instance:
                return None
            container = _container_of(answer.id, found, answer.state.status)
        if container.state is not ContainerState.EXITED:
            return container
        return replace(container, exit_code=answer.state.exit_code, oom_killed=answer.state.oom_killed)

    async def list(self) -> list[Container]:
        """Return all that carry our labels. See `Containers.list`."""
        with our_errors("list containers"):
            answer = await self._docker.containers.list(
                all=True, filters={"label": [f"{labels.INSTANCE}={self._instance}"]}
            )
            listed = [_container_of(item["Id"], item["Labels"], item["State"]) for item in answer]
        # How one ended, only "inspect" tells; those are few.
        seen = [
            await self.inspect(container.id) if container.state is ContainerState.EXITED else container
            for container in listed
        ]
        return [container for container in seen if container is not None]

    def events(self) -> AsyncGenerator[RuntimeEvent, None]:
        """Yield events from now on. See `Containers.events`."""
        return events.follow(self._docker, self._instance)

    async def disk_usage(self, max_bytes: int, max_files: int) -> tuple[DiskUsage, ...]:
        """Measure our containers. See `Containers.disk_usage`."""
        return await self._meter.measure(max_bytes, max_files)

    async def settle(self) -> None:
        """Return when the removals of abandoned containers are over."""
        if self._undoing:
            await asyncio.wait(self._undoing)

    async def load(self, container_ids: Collection[str]) -> dict[str, Load]:
        """Return what containers use now. See `Containers.load`."""
        return await asyncio.to_thread(load_of, container_ids)

    # -- parts

    def handle(self, container_id: str) -> DockerContainer:
        """Return aiodocker's object for a container. Raises DockerError: that is no container id."""
        if not _CONTAINER_ID.fullmatch(container_id):
            raise DockerError(NOT_FOUND, f"{container_id!r} is no container id")
        return self._docker.containers.container(container_id)

    async def _find_execd(self) -> ExecdVolume:
        name = self._execd_volume if isinstance(self._execd_volume, str) else await asyncio.shield(self._execd_volume)
        # Asked every time (1 ms): the engine makes a new, empty volume of a name that it does not know.
        with our_errors(f"use execd's volume {name}, made by `make images`"):
            volume = await request(self._docker, "GET", f"volumes/{name}")
            return ExecdVolume(name, volume["Mountpoint"])


def _name_of(spec: ContainerSpec, instance: str) -> str:
    """Return a name from which nothing can be learned: the engine's DNS tells it to every sandbox that has a network.

    It is the same for the same sandbox, so that the engine makes no second container for one.
    """
    return "sandbox-" + hashlib.sha256(f"{instance}/{spec.sandbox_id}".encode()).hexdigest()[:16]


def _container_of(container_id: str, found: dict[str, str], state: str) -> Container:
    return Container(
        id=container_id,
        sandbox_id=found[labels.SANDBOX],
        image=found[labels.IMAGE],
        # A state that some newer engine invents: it exists, and is not known to have ended.
        state=_STATES.get(state, ContainerState.RUNNING),
        labels=found,
    )
