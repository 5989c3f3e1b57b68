"""A container engine in memory, whose containers are execd processes on this host.

`tests/contract` vouches for it: it keeps every promise of `Driver` but the isolation. Faults are injected by name.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from controlplane.errors import ImageMissing, RuntimeFailure, StartFailed, VolumeRefused
from controlplane.runtime import labels
from controlplane.runtime.driver import (
    Container,
    ContainerSpec,
    ContainerState,
    EngineInfo,
    EventKind,
    RuntimeEvent,
)
from controlplane.sandbox import Credentials, Limits

KILLED = 137
MARKER = "SANDLOT_FAKE_CONTAINER"
EVENTS_KEPT = 1000


class FakeContainer:
    """One container: what the engine tells of it, and the process in it."""

    def __init__(self, spec: ContainerSpec, instance: str) -> None:
        self.spec = spec
        self.limits = spec.limits
        self.home = tempfile.mkdtemp(prefix="sandlot-fake-")
        self.process: asyncio.subprocess.Process | None = None
        self.watcher: asyncio.Task[None] | None = None
        self.told = Container(
            id=secrets.token_hex(32),
            sandbox_id=spec.sandbox_id,
            image=spec.image,
            state=ContainerState.CREATED,
            labels=labels.labels_of(spec, instance),
        )

    def kill(self) -> None:
        """End all its processes, also those that left execd."""
        marker = f"{MARKER}={self.told.id}".encode()
        while victims := [pid for pid in _pids() if marker in _environment(pid)]:
            for pid in victims:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # ended by itself


class FakeVolume(NamedTuple):
    """The volume of a claim."""

    instance: str  # whose driver made it
    disposable: bool = False


class FakeEngine:
    """What lives on when a driver is closed. One engine, any number of drivers and installations."""

    def __init__(self, *images: str) -> None:
        self.images = set(images)
        self.registry: dict[str, Credentials | None] = {}  # what can be pulled, and by whom
        self.pulls = 0
        self.volumes: dict[str, FakeVolume] = {}  # by claim
        self.has_gpus = False
        self.containers: dict[str, FakeContainer] = {}
        self._subscribers: set[asyncio.Queue[tuple[str, RuntimeEvent]]] = set()

    def find(self, container_id: str) -> FakeContainer:
        """Return a container. Raises RuntimeFailure."""
        try:
            return self.containers[container_id]
        except KeyError:
            raise RuntimeFailure(f"no such container: {container_id}") from None

    async def die(self, container_id: str) -> None:
        """Let a container's process 1 be killed from outside; returns when the engine has noticed."""
        container = self.find(container_id)
        container.kill()
        if container.watcher is not None:
            await container.watcher

    def freeze(self, container_id: str) -> None:
        """Stop a container's execd, as if it hung."""
        process = self.find(container_id).process
        assert process is not None
        process.send_signal(signal.SIGSTOP)

    def pause(self, container_id: str, *, resume: bool = False) -> None:
        """Stop a container's processes, or let them go on."""
        container = self.find(container_id)
        before, after = (ContainerState.PAUSED, ContainerState.RUNNING)[:: 1 if resume else -1]
        if container.told.state is after:
            return
        if container.told.state is not before:
            raise RuntimeFailure(f"container {container_id} is {container.told.state.value}")
        if container.process is not None:
            container.process.send_signal(signal.SIGCONT if resume else signal.SIGSTOP)
        container.told = replace(container.told, state=after)
        self.tell(container, EventKind.RESUMED if resume else EventKind.PAUSED)

    async def remove(self, container_id: str) -> None:
        """Kill and forget a container."""
        await self.die(container_id)
        if (container := self.containers.pop(container_id, None)) is not None:
            await asyncio.to_thread(shutil.rmtree, container.home, ignore_errors=True)
            self.tell(container, EventKind.REMOVED)

    async def run(self, container: FakeContainer, command: list[str]) -> None:
        """Run the container's process 1."""
        container.process = await asyncio.create_subprocess_exec(
            *command, cwd=container.home, env={**os.environ, MARKER: container.told.id, "HOME": container.home}
        )
        container.told = replace(container.told, state=ContainerState.RUNNING)
        container.watcher = asyncio.create_task(self._watch(container, container.process))

    async def _watch(self, container: FakeContainer, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        container.kill()  # with process 1 goes everything
        exit_code = status if status >= 0 else 128 - status
        container.told = replace(container.told, state=ContainerState.EXITED, exit_code=exit_code)
        self.tell(container, EventKind.DIED, exit_code)

    def tell(self, container: FakeContainer, kind: EventKind, exit_code: int | None = None) -> None:
        """Send an event to all who follow."""
        event = RuntimeEvent(kind, container.spec.sandbox_id, container.told.id, exit_code)
        for queue in self._subscribers:
            queue.put_nowait((container.told.labels[labels.INSTANCE], event))

    async def follow(self, instance: str) -> AsyncGenerator[RuntimeEvent, None]:
        """Yield the events of one installation's containers."""
        queue: asyncio.Queue[tuple[str, RuntimeEvent]] = asyncio.Queue(EVENTS_KEPT)
        self._subscribers.add(queue)
        try:
            yield RuntimeEvent(EventKind.CONNECTED)
            while True:
                owner, event = await queue.get()
                if owner == instance:
                    yield event
        finally:
            self._subscribers.discard(queue)

    async def aclose(self) -> None:
        """Remove everything. Every test calls this in the end."""
        for container_id in list(self.containers):
            await self.remove(container_id)


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
        self.slow_pull: asyncio.Event | None = None
        self._instance = instance
        self._kernels_dir = kernels_dir
        self._run_execd = run_execd

    async def create(self, spec: ContainerSpec) -> str:
        """Make a container. See `Driver.create`."""
        if self.fail_create is not None:
            raise self.fail_create
        if spec.image not in self.engine.images:
            raise ImageMissing(f"the engine has no image {spec.image}")
        if not os.path.isdir(spec.socket_dir):  # noqa: ASYNC240  # one look
            raise RuntimeFailure(f"no such directory: {spec.socket_dir}")
        if any(container.spec.sandbox_id == spec.sandbox_id for container in self.engine.containers.values()):
            raise RuntimeFailure(f"a container for {spec.sandbox_id} exists already")
        for volume in spec.volumes:
            if volume.claim not in self.engine.volumes and not volume.create:
                raise VolumeRefused(f"there is no claim {volume.claim}")
            if volume.claim:
                self.engine.volumes.setdefault(volume.claim, FakeVolume(self._instance, volume.delete))
        container = FakeContainer(spec, self._instance)
        self.engine.containers[container.told.id] = container
        return container.told.id

    async def start(self, container_id: str) -> None:
        """Run execd. See `Driver.start`."""
        if self.slow_start is not None:
            await self.slow_start.wait()
        if self.fail_start is not None:
            raise self.fail_start
        container = self.engine.containers.get(container_id)
        if container is None:
            raise StartFailed(f"no such container: {container_id}")
        if container.told.state is ContainerState.RUNNING:
            return
        socket_path = f"{container.spec.socket_dir}/link.sock"
        execd = [sys.executable, "-m", "execd", socket_path, self._kernels_dir]
        await self.engine.run(container, execd if self._run_execd else ["sleep", "infinity"])

    async def resize(self, container_id: str, limits: Limits) -> None:
        """Note the limits. See `Driver.resize`."""
        self.engine.find(container_id).limits = limits

    async def pause(self, container_id: str) -> None:
        """Stop its process. See `Driver.pause`."""
        self.engine.pause(container_id)

    async def resume(self, container_id: str) -> None:
        """Let it go on. See `Driver.resume`."""
        self.engine.pause(container_id, resume=True)

    async def commit(self, container_id: str, image: str) -> None:
        """Note the image. See `Driver.commit`."""
        self.engine.find(container_id)
        if self.slow_commit is not None:
            await self.slow_commit.wait()
        if self.fail_commit is not None:
            raise self.fail_commit
        self.engine.images.add(image)

    async def remove_image(self, image: str) -> None:
        """Forget it. See `Driver.remove_image`."""
        if any(container.spec.image == image for container in self.engine.containers.values()):
            raise RuntimeFailure(f"a container uses {image}", status=409)
        self.engine.images.discard(image)

    async def pull(self, image: str, credentials: Credentials | None) -> None:
        """Fetch it from `engine.registry`. See `Driver.pull`."""
        if self.slow_pull is not None:
            await self.slow_pull.wait()
        self.engine.pulls += 1
        if image not in self.engine.registry or self.engine.registry[image] != credentials:
            raise ImageMissing(f"the registry has no image {image}")
        self.engine.images.add(image)

    async def remove_unused_volumes(self) -> None:
        """Forget them. See `Driver.remove_unused_volumes`."""
        specs = [container.spec for container in self.engine.containers.values()]
        used = {volume.claim for spec in specs for volume in spec.volumes}
        for claim, volume in list(self.engine.volumes.items()):
            if volume == FakeVolume(self._instance, disposable=True) and claim not in used:
                del self.engine.volumes[claim]

    async def destroy(self, container_id: str) -> None:
        """Kill and forget it. See `Driver.destroy`."""
        if container_id in self.engine.containers:
            await self.engine.remove(container_id)

    async def inspect(self, container_id: str) -> Container | None:
        """Return what is known of it. See `Driver.inspect`."""
        return next((container for container in await self.list() if container.id == container_id), None)

    async def list(self) -> list[Container]:
        """Return our containers. See `Driver.list`."""
        told = [container.told for container in self.engine.containers.values()]
        return [container for container in told if container.labels[labels.INSTANCE] == self._instance]

    def events(self) -> AsyncGenerator[RuntimeEvent, None]:
        """Yield events. See `Driver.events`."""
        return self.engine.follow(self._instance)

    async def describe(self) -> EngineInfo:
        """Return what the engine is: this host."""
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return EngineInfo(
            name="fake",
            version="0",
            api_version="0",
            cpus=os.cpu_count() or 1,
            memory_bytes=pages,
            cgroup_version=0,
            rootless=True,
            storage_driver="none",
            seccomp=False,
            runtimes=(),
            default_runtime="",
            gpus=self.engine.has_gpus,
        )

    async def aclose(self) -> None:
        """Nothing to close. Containers stay, in the engine."""


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
