"""A container engine in memory, whose containers are execd processes on this host."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from controlplane.errors import RuntimeFailure
from controlplane.runtime import labels
from controlplane.runtime.abilities import LIMITS, Abilities, Ability
from controlplane.runtime.driver import Container, ContainerSpec, ContainerState, Load
from controlplane.runtime.events import EventKind, RuntimeEvent
from controlplane.sandbox import Credentials, Network, VolumeKind

KILLED = 137
MARKER = "SANDLOT_FAKE_CONTAINER"
EVENTS_KEPT = 1000

# All that the fake does; GPUs it could only pretend to have, and a test may let it.
MOST = Abilities(
    engine="fake",
    can=frozenset(Ability) - {Ability.GPUS, Ability.DISK_LIMITS},
    limits=frozenset(LIMITS),
    networks=frozenset(Network),
    volumes=frozenset(VolumeKind),
    runtimes=frozenset({"runsc", "strong"}),
    events=frozenset({EventKind.OOM, EventKind.PAUSED, EventKind.RESUMED}),
)
# No more than containers that start and end.
FEW = Abilities(
    engine="frugal",
    can=frozenset(),
    limits=frozenset(),
    networks=frozenset({Network.NONE}),
    volumes=frozenset(),
    runtimes=frozenset(),
    events=frozenset(),
)


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

    @property
    def load(self) -> Load | None:
        """What its process 1 uses; one that runs nothing uses little. None: it does not run."""
        if self.told.state not in (ContainerState.RUNNING, ContainerState.PAUSED):
            return None
        return Load(0.0, 1 << 20) if self.process is None else _load(self.process.pid)

    def kill(self) -> None:
        """End all its processes, also those that left execd."""
        # execd forbids to read its environment, to who may not trace everybody.
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
        marker = f"{MARKER}={self.told.id}".encode()
        while victims := [pid for pid in _pids() if marker in _environment(pid)]:
            for pid in victims:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # ended by itself


class FakeVolume(NamedTuple):
    """A named volume."""

    instance: str  # whose driver made it
    disposable: bool = False


class FakeEngine:
    """What lives on when a driver is closed. One engine, any number of drivers and installations."""

    def __init__(self, *images: str, abilities: Abilities = MOST) -> None:
        self.images = set(images)
        self.abilities = abilities
        self.registry: dict[str, Credentials | None] = {}  # what can be pulled, and by whom
        self.pulls = 0
        self.volumes: dict[str, FakeVolume] = {}  # by the name that the engine has for it
        self.refused_removals = 0  # of images
        self.unfinished: set[str] = set()  # images that are being built for the first time
        self.containers: dict[str, FakeContainer] = {}
        self._subscribers: set[asyncio.Queue[tuple[str, RuntimeEvent] | None]] = set()

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
        if self.containers.get(container.told.id) is not container:  # it was removed meanwhile
            container.kill()
            await container.process.wait()
            return
        container.told = replace(container.told, state=ContainerState.RUNNING)
        container.watcher = asyncio.create_task(self._watch(container, container.process))

    async def _watch(self, container: FakeContainer, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        container.kill()  # with process 1 goes everything
        exit_code = status if status >= 0 else 128 - status
        container.told = replace(container.told, state=ContainerState.EXITED, exit_code=exit_code)
        self.tell(container, EventKind.DIED, exit_code)

    def tell(self, container: FakeContainer, kind: EventKind, exit_code: int | None = None) -> None:
        """Send an event to all who follow, if the engine tells of such."""
        if kind not in {EventKind.DIED, EventKind.REMOVED, *self.abilities.events}:
            return
        event = RuntimeEvent(kind, container.spec.sandbox_id, container.told.id, exit_code)
        for queue in self._subscribers:
            queue.put_nowait((container.told.labels[labels.INSTANCE], event))

    async def follow(self, instance: str) -> AsyncGenerator[RuntimeEvent, None]:
        """Yield the events of one installation's containers."""
        queue: asyncio.Queue[tuple[str, RuntimeEvent] | None] = asyncio.Queue(EVENTS_KEPT)
        self._subscribers.add(queue)
        try:
            yield RuntimeEvent(EventKind.CONNECTED)
            while True:
                if (told := await queue.get()) is None:
                    raise RuntimeError("the flow of events is cut")
                owner, event = told
                if owner in (instance, ""):  # "": about no container
                    yield event
        finally:
            self._subscribers.discard(queue)

    async def aclose(self) -> None:
        """Remove everything. Every test calls this in the end."""
        for container_id in list(self.containers):
            await self.remove(container_id)


def _load(pid: int) -> Load | None:
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return None
    return Load(sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE"))


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
