"""What the contract needs to drive a driver: a world with an engine, and the control plane's end of a link."""

from __future__ import annotations

import asyncio
import functools
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest
from websockets.asyncio.server import ServerConnection, unix_serve

from controlplane.link.link import Link
from controlplane.runtime.abilities import Ability
from controlplane.runtime.driver import Container, ContainerSpec, Driver
from controlplane.runtime.events import EventKind, RuntimeEvent
from controlplane.sandbox import Limits, Network, VolumeKind, new_sandbox_id
from execd.wire.aio import MAX_CHUNK_BYTES

Case = Callable[..., Coroutine[object, object, None]]

PATIENCE_S = 30.0
LIMITS = Limits(cpus=1.0, memory_bytes=256 << 20, pids=64)
NO_SUCH_ID = "0" * 64


class World(Protocol):
    """An engine with one installation's driver, and what only a test may do to it."""

    driver: Driver
    stranger: Driver  # of another installation, on the same engine
    broken: Driver  # of our installation; its containers do not start
    image: str
    root: Path  # for socket directories

    def another(self) -> Driver:
        """A further driver of our installation, as after a restart. The caller closes it."""

    def new_volume_name(self) -> str:
        """Return a name that no volume has. The volume goes with the world."""

    async def kill(self, container_id: str) -> None:
        """Kill process 1 from outside."""

    async def freeze(self, container_id: str) -> None:
        """Stop process 1: it answers to nothing any more."""

    async def leftovers(self) -> list[str]:
        """Ids of all containers of this world, found without the driver."""


class Line:
    """A sandbox's socket directory with a control plane's end listening in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.links: asyncio.Queue[Link] = asyncio.Queue(8)
        self.over = asyncio.Event()  # the link has ended

    async def serve(self, websocket: ServerConnection) -> None:
        link = Link("contract", websocket)
        self.links.put_nowait(link)
        await link.run()
        self.over.set()

    async def link(self) -> Link:
        """Wait for execd's first frame; return the link it came over."""
        async with asyncio.timeout(PATIENCE_S):
            link = await self.links.get()
            await link.wait_hello()
            return link


@asynccontextmanager
async def listening(root: Path) -> AsyncIterator[Line]:
    """Listen where a container of that directory will dial."""
    line = Line(root / secrets.token_hex(4))
    line.directory.mkdir()
    line.directory.chmod(0o755)
    path = line.directory / "link.sock"
    async with unix_serve(line.serve, str(path), compression=None, max_size=MAX_CHUNK_BYTES):
        path.chmod(0o666)
        try:
            yield line
        finally:
            # A container may be dialling just now. Nobody can from here on; who did is let in, for the server closes
            # only what it knows: accept, transport, protocol and handler take a turn of the loop each.
            path.unlink(missing_ok=True)
            for _ in range(10):
                await asyncio.sleep(0)


def spec_of(world: World, line: Line, **changes: object) -> ContainerSpec:
    """A plain container's spec."""
    fields = {
        "sandbox_id": new_sandbox_id(),
        "image": world.image,
        "socket_dir": str(line.directory),
        "limits": LIMITS,
        "network": Network.NONE,
        **changes,
    }
    return ContainerSpec(**fields)  # type: ignore[arg-type]


async def only(driver: Driver, container_id: str) -> Container:
    """The one container that the driver lists, which is that one."""
    listed = await driver.containers.list()
    assert [container.id for container in listed] == [container_id]
    return listed[0]


async def come_and_go(driver: Driver, spec: ContainerSpec) -> None:
    """Make a container and remove it again."""
    await driver.containers.destroy(await driver.containers.create(spec))


class Events:
    """Follows a driver's events."""

    def __init__(self, events: AsyncGenerator[RuntimeEvent, None]) -> None:
        self._events = events

    async def next(self) -> RuntimeEvent:
        async with asyncio.timeout(PATIENCE_S):
            return await anext(self._events)


@asynccontextmanager
async def following(driver: Driver) -> AsyncIterator[Events]:
    """Follow a driver's events; they flow when this is entered."""
    async with aclosing(driver.containers.events()) as events:
        following = Events(events)
        assert await following.next() == RuntimeEvent(EventKind.CONNECTED)
        yield following


def needs(*abilities: Ability | EventKind | VolumeKind) -> Callable[[Case], Case]:
    """Skip a case on engines without some ability. What such an engine does instead: `abilities.py`."""

    def decorate(case: Case) -> Case:
        @functools.wraps(case)
        async def run(contract: object, world: World, **more: object) -> None:
            await world.driver.describe()
            has = world.driver.abilities
            if missing := [each.name for each in abilities if each not in has.can | has.events | has.volumes]:
                pytest.skip(f"{has.engine} has not {', '.join(missing)}")
            await case(contract, world, **more)

        return run

    return decorate
