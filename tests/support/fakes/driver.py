"""The driver of the engine in memory.

`tests/contract` vouches for it: it keeps every promise of `Driver` but the isolation. Faults are injected by name.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Collection
from datetime import UTC, datetime
from hashlib import sha256

from controlplane.errors import (
    ImageInUse,
    ImageMissing,
    ImageUnfinished,
    RuntimeFailure,
    StartFailed,
    VolumeInUse,
    VolumeRefused,
)
from controlplane.runtime import labels
from controlplane.runtime.abilities import Ability
from controlplane.runtime.docker.disk import room_at
from controlplane.runtime.docker.disk_walk import measure
from controlplane.runtime.docker.volumes import PREFIX, engine_name
from controlplane.runtime.driver import (
    Container,
    ContainerSpec,
    ContainerState,
    DiskRoom,
    DiskUsage,
    EngineInfo,
    ImageInfo,
    Load,
    VolumeInfo,
)
from controlplane.runtime.events import RuntimeEvent
from controlplane.sandbox import Credentials, Limits
from tests.support.fakes.engine import FakeContainer, FakeEngine, FakeVolume

BEGIN = datetime(2026, 11, 29, tzinfo=UTC)  # when everything of the engine was made


def _full(image: str) -> str:
    """Return the name of an image with its tag."""
    return image if ":" in image.rpartition("/")[2] else f"{image}:latest"


class FakeContainers:
    """See `Containers`."""

    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver

    async def create(self, spec: ContainerSpec) -> str:
        """Make a container. See `Containers.create`."""
        if self._driver.fail_create is not None:
            raise self._driver.fail_create
        self._driver.engine.abilities.check(spec)
        if spec.image in self._driver.engine.unfinished:
            raise ImageUnfinished(f"{spec.image} is being built")
        if spec.image not in self._driver.engine.images:
            raise ImageMissing(f"the engine has no image {spec.image}")
        if not os.path.isdir(spec.socket_dir):  # noqa: ASYNC240  # one look
            raise RuntimeFailure(f"no such directory: {spec.socket_dir}")
        if any(container.spec.sandbox_id == spec.sandbox_id for container in self._driver.engine.containers.values()):
            raise RuntimeFailure(f"a container for {spec.sandbox_id} exists already")
        for volume in spec.volumes:
            if not volume.volume_name:
                continue
            name = engine_name(volume)
            if name not in self._driver.engine.volumes and not volume.create:
                raise VolumeRefused(f"there is no volume {volume.volume_name}")
            self._driver.engine.volumes.setdefault(name, FakeVolume(self._driver.instance, volume.delete))
        container = FakeContainer(spec, self._driver.instance)
        self._driver.engine.containers[container.told.id] = container
        return container.told.id

    async def start(self, container_id: str) -> None:
        """Run execd. See `Containers.start`."""
        if self._driver.slow_start is not None:
            await self._driver.slow_start.wait()
        if self._driver.fail_start is not None:
            raise self._driver.fail_start
        container = self._driver.engine.containers.get(container_id)
        if container is None:
            raise StartFailed(f"no such container: {container_id}")
        if container.told.state is ContainerState.RUNNING:
            return
        socket_path = f"{container.spec.socket_dir}/link.sock"
        execd = [sys.executable, "-m", "execd", socket_path, self._driver.kernels_dir]
        await self._driver.engine.run(container, execd if self._driver.run_execd else ["sleep", "infinity"])

    async def resize(self, container_id: str, limits: Limits) -> None:
        """Note the limits. See `Containers.resize`."""
        self._driver.engine.abilities.require(Ability.LIVE_LIMITS)
        self._driver.engine.find(container_id).limits = limits

    async def pause(self, container_id: str) -> None:
        """Stop its process. See `Containers.pause`."""
        self._driver.engine.abilities.require(Ability.PAUSE)
        self._driver.engine.pause(container_id)

    async def resume(self, container_id: str) -> None:
        """Let it go on. See `Containers.resume`."""
        self._driver.engine.abilities.require(Ability.PAUSE)
        self._driver.engine.pause(container_id, resume=True)

    async def destroy(self, container_id: str) -> None:
        """Kill and forget it. See `Containers.destroy`."""
        if container_id in self._driver.engine.containers:
            await self._driver.engine.remove(container_id)

    async def inspect(self, container_id: str) -> Container | None:
        """Return what is known of it. See `Containers.inspect`."""
        return next((container for container in await self.list() if container.id == container_id), None)

    async def list(self) -> list[Container]:
        """Return our containers. See `Containers.list`."""
        told = [container.told for container in self._driver.engine.containers.values()]
        return [container for container in told if container.labels[labels.INSTANCE] == self._driver.instance]

    def events(self) -> AsyncGenerator[RuntimeEvent, None]:
        """Yield events. See `Containers.events`."""
        return self._driver.engine.follow(self._driver.instance)

    async def disk_usage(self, max_bytes: int, max_files: int) -> tuple[DiskUsage, ...]:
        """Measure what is in their homes. See `Containers.disk_usage`."""
        self._driver.engine.abilities.require(Ability.DISK_USAGE)
        listed = await self.list()
        return tuple(
            DiskUsage(
                container.sandbox_id,
                *(measure(self._driver.engine.containers[container.id].home, max_bytes, max_files) or (0, 0)),
                0,
                0,
            )
            for container in listed
        )

    async def load(self, container_ids: Collection[str]) -> dict[str, Load]:
        """Tell what they use. See `Containers.load`."""
        containers = self._driver.engine.containers
        loads = {one: containers[one].load for one in container_ids if one in containers}
        return {one: load for one, load in loads.items() if load is not None}


class FakeImages:
    """See `Images`."""

    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver

    async def commit(self, container_id: str, image: str) -> None:
        """Note the image. See `Images.commit`."""
        self._driver.engine.abilities.require(Ability.SNAPSHOTS)
        self._driver.engine.find(container_id)
        self._driver.commits_under_way += 1
        self._driver.most_commits_under_way = max(self._driver.commits_under_way, self._driver.most_commits_under_way)
        try:
            if self._driver.slow_commit is not None:
                await self._driver.slow_commit.wait()
        finally:
            self._driver.commits_under_way -= 1
        if self._driver.fail_commit is not None:
            raise self._driver.fail_commit
        self._driver.engine.images.add(image)

    async def pull(self, image: str, credentials: Credentials | None) -> None:
        """Fetch it from `engine.registry`. See `Images.pull`."""
        self._driver.engine.abilities.require(Ability.PULL)
        if self._driver.slow_pull is not None:
            await self._driver.slow_pull.wait()
        self._driver.engine.pulls += 1
        if image not in self._driver.engine.registry or self._driver.engine.registry[image] != credentials:
            raise ImageMissing(f"the registry has no image {image}")
        self._driver.engine.images.add(image)

    async def list(self) -> list[ImageInfo]:
        """Return those in the set. See `Images.list`."""
        return [
            ImageInfo(
                id=f"sha256:{sha256(name.encode()).hexdigest()}", names=(_full(name),), size_bytes=1, created_at=BEGIN
            )
            for name in self._driver.engine.images
        ]

    async def remove(self, image: str) -> None:
        """Forget it. See `Images.remove`."""
        self._driver.engine.abilities.require(Ability.SNAPSHOTS)
        if any(_full(container.spec.image) == _full(image) for container in self._driver.engine.containers.values()):
            self._driver.engine.refused_removals += 1
            raise ImageInUse(f"containers are made from {image}")
        self._driver.engine.images -= {name for name in self._driver.engine.images if _full(name) == _full(image)}


class FakeVolumes:
    """See `Volumes`."""

    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver

    async def list(self, *, measure: bool = False) -> list[VolumeInfo]:
        """Return those of this driver's installation. See `Volumes.list`."""
        return [
            VolumeInfo(name=name.removeprefix(PREFIX), created_at=BEGIN, size_bytes=0 if measure else None)
            for name, volume in self._driver.engine.volumes.items()
            if volume.instance == self._driver.instance and name.startswith(PREFIX)
        ]

    async def remove(self, name: str) -> None:
        """Forget it. See `Volumes.remove`."""
        if PREFIX + name in self._used():
            raise VolumeInUse(f"a container has the volume {name}")
        volume = self._driver.engine.volumes.get(PREFIX + name)
        if volume is not None and volume.instance == self._driver.instance:
            del self._driver.engine.volumes[PREFIX + name]

    def _used(self) -> set[str]:
        specs = [container.spec for container in self._driver.engine.containers.values()]
        return {engine_name(volume) for spec in specs for volume in spec.volumes if volume.volume_name}

    async def remove_unused(self) -> None:
        """Forget them. See `Volumes.remove_unused`."""
        used = self._used()
        for name, volume in list(self._driver.engine.volumes.items()):
            if volume == FakeVolume(self._driver.instance, disposable=True) and name not in used:
                del self._driver.engine.volumes[name]


class FakeDriver:
    """A driver for a FakeEngine.

    Faults: `fail_create`, `fail_start` and `fail_commit` are raised when set; a start waits for `slow_start` …;
    `engine.die()` and `engine.freeze()`. With `run_execd=False`, process 1 only sleeps and never dials.
    """

    def __init__(
        self,
        engine: FakeEngine,
        *,
        instance: str = "test",
        kernels_dir: str = "/etc/sandlot/kernels",
        run_execd: bool = True,
    ) -> None:
        self.engine = engine
        self.fail_create: RuntimeFailure | None = None
        self.fail_start: StartFailed | None = None
        self.slow_start: asyncio.Event | None = None
        self.fail_commit: RuntimeFailure | None = None
        self.slow_commit: asyncio.Event | None = None
        self.commits_under_way = self.most_commits_under_way = 0
        self.slow_pull: asyncio.Event | None = None
        self.instance = instance
        self.kernels_dir = kernels_dir
        self.run_execd = run_execd
        self.abilities = engine.abilities
        self.containers = FakeContainers(self)
        self.images = FakeImages(self)
        self.volumes = FakeVolumes(self)

    async def disk_room(self) -> DiskRoom | None:
        """Return what is left here. See `Driver.disk_room`."""
        return room_at(tempfile.gettempdir())

    async def describe(self) -> EngineInfo:
        """Return what the engine is: this host."""
        self.abilities = self.engine.abilities
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return EngineInfo(
            name=self.abilities.engine,
            version="0",
            api_version="0",
            cpus=os.cpu_count() or 1,
            memory_bytes=pages,
            cgroup_version=0,
            rootless=True,
            storage_driver="none",
            seccomp=False,
            default_runtime="",
        )

    async def aclose(self) -> None:
        """Nothing to close. Containers stay, in the engine."""
