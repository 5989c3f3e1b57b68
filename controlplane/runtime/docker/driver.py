"""The driver for Docker engines, 20.10 and newer, on cgroup v1 and v2."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiodocker

from controlplane.runtime.abilities import Abilities
from controlplane.runtime.docker.containers import DockerContainers
from controlplane.runtime.docker.disk import room_at
from controlplane.runtime.docker.images import DockerImages
from controlplane.runtime.docker.info import NAME, Asker
from controlplane.runtime.docker.network import NETWORK, Bridge
from controlplane.runtime.docker.seccomp import OURS, Profiles, load
from controlplane.runtime.docker.volumes import DockerVolumes
from controlplane.runtime.driver import DiskRoom, EngineInfo


class DockerDriver:
    """Containers on one Docker engine; see `Driver` for what each method promises.

    Args:
        docker: From `engine.connect()`; taken over: `aclose()` closes it.
        instance: Tells the installations of the control plane apart that use the same engine.
        execd_volume: The volume that `images.publish_execd()` made, or is still filling.
        network: Name of the bridge for sandboxes with a network, made when first needed; also the interface's name
            on the host, so at most 15 characters.
        seccomp: The system calls of containers.
        disk_limit_bytes: What a container may write, where the engine's storage has quotas; 0: no limit.
        not_yet: Returns why an image that is missing is not there yet, "" where nobody is about to make it.
    """

    def __init__(
        self,
        docker: aiodocker.Docker,
        *,
        instance: str,
        execd_volume: str | asyncio.Future[str],
        network: str = NETWORK,
        seccomp: Profiles | None = None,
        disk_limit_bytes: int = 0,
        not_yet: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._docker = docker
        self._asker = Asker(docker)
        self.volumes = DockerVolumes(docker, instance)
        self.containers = DockerContainers(
            docker,
            instance=instance,
            asker=self._asker,
            bridge=Bridge(docker, network),
            volumes=self.volumes,
            execd_volume=execd_volume,
            seccomp=seccomp or load(OURS),
            disk_limit_bytes=disk_limit_bytes,
            not_yet=not_yet,
        )
        self.images = DockerImages(docker, self.containers)

    @property
    def abilities(self) -> Abilities:
        """What the engine can do. See `Driver.abilities`."""
        return self._asker.abilities

    async def disk_room(self) -> DiskRoom | None:
        """Return what is left. See `Driver.disk_room`."""
        return await asyncio.to_thread(room_at, (await self._asker.ask_once()).data_root)

    async def describe(self) -> EngineInfo:
        """Return what the engine is. See `Driver.describe`."""
        info = await self._asker.ask()
        security = info.security_options or []
        return EngineInfo(
            name=NAME,
            version=info.server_version,
            api_version=self._docker.api_version.removeprefix("v"),
            cpus=info.cpus,
            memory_bytes=info.memory_bytes,
            cgroup_version=int(info.cgroup_version),
            rootless="name=rootless" in security,
            storage_driver=info.storage_driver,
            seccomp=any(option.startswith("name=seccomp") for option in security),
            default_runtime=info.default_runtime,
        )

    async def aclose(self) -> None:
        """Close the connection, after removals of abandoned containers. Containers stay."""
        await self.containers.settle()
        await self._docker.close()
