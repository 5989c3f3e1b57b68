"""The driver for Docker engines, 20.10 and newer, on cgroup v1 and v2."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any
from weakref import WeakValueDictionary

import aiodocker
import msgspec
import structlog
from aiodocker import DockerError
from aiodocker.containers import DockerContainer
from msgspec.structs import replace

from controlplane.errors import RuntimeFailure, StartFailed
from controlplane.runtime import events, hardening, labels, volumes
from controlplane.runtime.driver import Container, ContainerSpec, ContainerState, EngineInfo, RuntimeEvent
from controlplane.runtime.engine import ANSWER, ENDLESS, our_errors, pull, request
from controlplane.runtime.hardening import ExecdVolume
from controlplane.sandbox import Credentials, Limits

log = structlog.get_logger()

NETWORK = "sandlot"

# The kernel may still hold the container's root for a moment, or its end has not come through.
_REMOVE_RETRIES_S = (0.1, 0.5, 2.0)

_NOT_FOUND = 404
_REMOVE_AGAIN = (409, 500)
_NETWORK_EXISTS = (403, 409)  # its bridge, its name

_STATES = {
    "created": ContainerState.CREATED,
    "running": ContainerState.RUNNING,
    "restarting": ContainerState.RUNNING,
    "paused": ContainerState.PAUSED,
    "removing": ContainerState.EXITED,
    "exited": ContainerState.EXITED,
    "dead": ContainerState.EXITED,
}

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


class _Info(msgspec.Struct, rename="pascal"):
    server_version: str
    cpus: int = msgspec.field(name="NCPU")
    memory_bytes: int = msgspec.field(name="MemTotal")
    storage_driver: str = msgspec.field(name="Driver")
    cgroup_version: str = "1"  # engines that do not tell know nothing else
    security_options: list[str] | None = None
    runtimes: dict[str, Any] = {}
    default_runtime: str = ""
    memory_limit: bool = True
    swap_limit: bool = True
    cpu_limit: bool = msgspec.field(name="CpuCfsQuota", default=True)
    pids_limit: bool = True


class DockerDriver:
    """Containers on one Docker engine; see `Driver` for what each method promises.

    Args:
        docker: From `engine.connect()`; taken over: `aclose()` closes it.
        instance: Tells the installations of the control plane apart that use the same engine.
        execd_volume: The volume that `images.publish_execd()` made, or is still filling.
        network: Name of the bridge for sandboxes with a network, made when first needed; also the interface's name
            on the host, so at most 15 characters.
    """

    def __init__(
        self,
        docker: aiodocker.Docker,
        *,
        instance: str,
        execd_volume: str | asyncio.Future[str],
        network: str = NETWORK,
    ) -> None:
        self._docker = docker
        self._instance = instance
        self._execd_volume = execd_volume
        self._network = network
        self._undoing: set[asyncio.Task[None]] = set()
        # Of containers that are not started yet: what must turn out to be mounted in them.
        self._promised: dict[str, tuple[volumes.Promise, ...]] = {}
        # Claims whose volumes were found or made, for containers that are not there yet.
        self._mounting: Counter[str] = Counter()
        self._claims: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # one at a time looks at each

    # -- containers

    async def create(self, spec: ContainerSpec) -> str:
        """Make a container. See `Driver.create`."""
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
        execd = await self._find_execd()
        if spec.network:
            await self._ensure_network()
        async with self._mounts(spec) as mounts:
            config = hardening.container_config(
                spec,
                labels=labels.labels_of(spec, self._instance),
                execd=execd,
                network=self._network,
                mounts=[mount.config for mount in mounts],
            )
            with our_errors(f"create a container for sandbox {spec.sandbox_id}", image=spec.image):
                container = await self._docker.containers.create(config, name=f"sandlot-{spec.sandbox_id}")
        if promised := tuple(mount.promise for mount in mounts if mount.promise is not None):
            self._promised[container.id] = promised
        return container.id

    @contextlib.asynccontextmanager
    async def _mounts(self, spec: ContainerSpec) -> AsyncIterator[list[volumes.Mount]]:
        """Make and find a container's volumes. Inside the block, none of them is removed because nobody uses it yet."""
        if not spec.volumes:
            yield []
            return
        made_for = {labels.INSTANCE: self._instance, labels.SANDBOX: spec.sandbox_id}
        claims = Counter(volume.claim for volume in spec.volumes if volume.claim)
        self._mounting += claims
        try:
            async with contextlib.AsyncExitStack() as stack:
                for claim in sorted(claims):  # always in the same order: nobody waits for each other
                    await stack.enter_async_context(self._claim(claim))  # till its removal is over, where one goes on
                mounts = await volumes.prepare(self._docker, spec.volumes, made_for)
            yield mounts
        finally:
            self._mounting -= claims

    def _claim(self, claim: str) -> asyncio.Lock:
        return self._claims.setdefault(claim, asyncio.Lock())

    async def _undo(self, creation: asyncio.Future[str]) -> None:
        try:
            await self.destroy(await creation)
        except RuntimeFailure as error:
            log.warning("container.create_abandoned", error=error.message)  # nothing was made, or list() shows it

    async def start(self, container_id: str) -> None:
        """Start it. See `Driver.start`."""
        with our_errors("start the container", refused=StartFailed):
            await self._container(container_id).start()
            if promised := self._promised.pop(container_id, None):
                shown = await self._container(container_id).show()
                volumes.check(shown["State"]["Pid"], promised)

    async def resize(self, container_id: str, limits: Limits) -> None:
        """Change its limits. See `Driver.resize`."""
        with our_errors("change the limits of the container"):
            path = f"containers/{self._container(container_id).id}/update"
            await request(self._docker, "POST", path, hardening.resources(limits))

    async def pause(self, container_id: str) -> None:
        """Freeze it. See `Driver.pause`."""
        with our_errors("pause the container"):
            try:
                await self._container(container_id).pause()
            except DockerError:
                if not await self._is(container_id, ContainerState.PAUSED):
                    raise

    async def resume(self, container_id: str) -> None:
        """Thaw it. See `Driver.resume`."""
        with our_errors("resume the container"):
            try:
                await self._container(container_id).unpause()
            except DockerError:
                if not await self._is(container_id, ContainerState.RUNNING):
                    raise

    async def _is(self, container_id: str, state: ContainerState) -> bool:
        container = await self.inspect(container_id)
        return container is not None and container.state is state

    async def destroy(self, container_id: str) -> None:
        """Kill and remove it. See `Driver.destroy`."""
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
            container = self._container(container_id)
            try:
                # v: an image's VOLUMEs became anonymous volumes, which would stay.
                await container.delete(force=True, v=True, timeout=ANSWER)
            except DockerError as error:
                if "already in progress" not in error.message:
                    raise
                await container.wait(condition="removed", timeout=ANSWER)
        except DockerError as error:
            if error.status != _NOT_FOUND:
                raise

    # -- images and volumes

    async def commit(self, container_id: str, image: str) -> None:
        """Keep it as an image. See `Driver.commit`."""
        repository, _, tag = image.rpartition(":")
        with our_errors("make an image of the container"):
            await self._container(container_id).commit(repository=repository, tag=tag, pause=True, timeout=ENDLESS)

    async def remove_image(self, image: str) -> None:
        """Remove an image. See `Driver.remove_image`."""
        with our_errors(f"remove the image {image}"):
            try:
                await self._docker.images.delete(image)
            except DockerError as error:
                if error.status != _NOT_FOUND:
                    raise

    async def pull(self, image: str, credentials: Credentials | None) -> None:
        """Fetch an image. See `Driver.pull`."""
        await pull(self._docker, image, credentials)

    async def remove_unused_volumes(self) -> None:
        """Remove volumes that were made to be removed. See `Driver.remove_unused_volumes`."""
        for claim in await volumes.find_disposable(self._docker, self._instance):
            async with self._claim(claim):
                if claim not in self._mounting:
                    await volumes.remove_unless_used(self._docker, claim)

    # -- questions

    async def inspect(self, container_id: str) -> Container | None:
        """Return what the engine knows of it. See `Driver.inspect`."""
        with our_errors("inspect the container"):
            try:
                answer = msgspec.convert(await self._container(container_id).show(), _Inspected)
            except DockerError as error:
                if error.status == _NOT_FOUND:
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
        """Return all that carry our labels. See `Driver.list`."""
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
        """Yield events from now on. See `Driver.events`."""
        return events.follow(self._docker, self._instance)

    async def describe(self) -> EngineInfo:
        """Return what the engine is. See `Driver.describe`."""
        with our_errors("ask the container engine about itself"):
            info = msgspec.convert(await self._docker.system.info(), _Info)
        security = info.security_options or []
        return EngineInfo(
            name="docker",
            version=info.server_version,
            api_version=self._docker.api_version.removeprefix("v"),
            cpus=info.cpus,
            memory_bytes=info.memory_bytes,
            cgroup_version=int(info.cgroup_version),
            rootless="name=rootless" in security,
            storage_driver=info.storage_driver,
            seccomp=any(option.startswith("name=seccomp") for option in security),
            runtimes=tuple(sorted(info.runtimes)),
            default_runtime=info.default_runtime,
            gpus="nvidia" in info.runtimes,
            unenforced=tuple(name for name in ("memory", "swap", "cpu", "pids") if not getattr(info, f"{name}_limit")),
        )

    async def aclose(self) -> None:
        """Close the connection, after removals of abandoned containers. Containers stay."""
        if self._undoing:
            await asyncio.wait(self._undoing)
        await self._docker.close()

    # -- parts

    def _container(self, container_id: str) -> DockerContainer:
        if not _CONTAINER_ID.fullmatch(container_id):
            raise DockerError(_NOT_FOUND, f"{container_id!r} is no container id")
        return self._docker.containers.container(container_id)

    async def _find_execd(self) -> ExecdVolume:
        name = self._execd_volume if isinstance(self._execd_volume, str) else await asyncio.shield(self._execd_volume)
        # Asked every time (1 ms): the engine makes a new, empty volume of a name that it does not know.
        with our_errors(f"use execd's volume {name}, made by `make images`"):
            volume = await request(self._docker, "GET", f"volumes/{name}")
            return ExecdVolume(name, volume["Mountpoint"])

    async def _ensure_network(self) -> None:
        """Have the bridge of all sandboxes that have a network; safe against others who do the same now."""
        with our_errors(f"make the network {self._network}"):
            network = await self._find_network()
            if network is None:
                try:
                    await self._docker.networks.create(hardening.network_config(self._network))
                except DockerError as error:
                    if error.status not in _NETWORK_EXISTS:
                        raise
                if (network := await self._find_network()) is None:
                    raise RuntimeFailure(f"the network {self._network} vanished while it was made")
        if not hardening.is_confined(network):
            raise RuntimeFailure(
                f"the engine's network {self._network} is not ours: it lets containers talk to each other. "
                f"Remove it (`docker network rm {self._network}`); the next sandbox makes it anew"
            )

    async def _find_network(self) -> dict[str, Any] | None:
        found = await self._docker.networks.list(filters={"name": self._network})
        return next((network for network in found if network["Name"] == self._network), None)


def _container_of(container_id: str, found: dict[str, str], state: str) -> Container:
    return Container(
        id=container_id,
        sandbox_id=found[labels.SANDBOX],
        image=found[labels.IMAGE],
        # A state that some newer engine invents: it exists, and is not known to have ended.
        state=_STATES.get(state, ContainerState.RUNNING),
        labels=found,
    )
