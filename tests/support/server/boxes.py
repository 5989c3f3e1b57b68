"""Running containers for tests that attack them from inside. They are the Docker driver's, unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from controlplane.link.link import Link
from controlplane.runtime.driver import Driver
from tests.contract.driver import PATIENCE_S, listening, spec_of
from tests.contract.worlds import DockerWorld, Ran

PYTHON = ("/opt/execd/bin/python3", "-I", "-S", "-c")


class Box:
    """A running container."""

    def __init__(self, world: DockerWorld, container_id: str, link: Link) -> None:
        self.world = world
        self.id = container_id
        self.link = link

    async def sh(self, script: str, *, user: str = "") -> Ran:
        """Run a shell script inside."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.world.run_inside(self.id, "sh", "-c", script, user=user)

    async def python(self, source: str, *arguments: str, user: str = "") -> Ran:
        """Run a program inside, by execd's own interpreter."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.world.run_inside(self.id, *PYTHON, source, *arguments, user=user)

    async def successful(self, attacks: Iterable[str], *, user: str = "") -> list[str]:
        """Run shell scripts one after the other; return those that ended with status 0."""
        return [attack for attack in attacks if (await self.sh(attack, user=user)).exit_code == 0]

    async def address(self) -> str:
        """Its address on the bridge."""
        shown = await self.world.docker.containers.container(self.id).show()
        address: str = shown["NetworkSettings"]["Networks"][self.world.network]["IPAddress"]
        return address


@asynccontextmanager
async def running(world: DockerWorld, driver: Driver | None = None, **changes: object) -> AsyncIterator[Box]:
    """A container whose execd has said hello."""
    driver = driver or world.driver
    async with listening(world.root) as line:
        container_id = await driver.containers.create(spec_of(world, line, **changes))
        await driver.containers.start(container_id)
        link = await line.link()
        try:
            yield Box(world, container_id, link)
        finally:
            await driver.containers.destroy(container_id)
