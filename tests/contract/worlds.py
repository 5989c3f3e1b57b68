"""The engines that the contract is tested on."""

from __future__ import annotations

import asyncio
import functools
import io
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiodocker
import pytest

from controlplane.errors import EngineUnavailable, StartFailed
from controlplane.images import publish
from controlplane.runtime import labels
from controlplane.runtime.abilities import Abilities
from controlplane.runtime.docker import engine
from controlplane.runtime.docker.driver import DockerDriver
from controlplane.runtime.docker.seccomp import Profiles
from controlplane.runtime.driver import Driver
from tests.support.fakes.driver import FakeDriver
from tests.support.fakes.engine import FakeEngine

IMAGE = "sandlot/base"


class FakeWorld:
    """The engine in memory."""

    image = "fake/image"

    def __init__(self, root: Path, abilities: Abilities) -> None:
        self.root = root
        self._engine = FakeEngine(self.image, abilities=abilities)
        self.driver: Driver = FakeDriver(self._engine)
        self.stranger: Driver = FakeDriver(self._engine, instance="stranger")
        broken = FakeDriver(self._engine)
        broken.fail_start = StartFailed("start was made to fail by the test")
        self.broken: Driver = broken

    def another(self) -> Driver:
        return FakeDriver(self._engine)

    def new_volume_name(self) -> str:
        return secrets.token_hex(4)

    async def kill(self, container_id: str) -> None:
        await self._engine.die(container_id)

    async def freeze(self, container_id: str) -> None:
        self._engine.freeze(container_id)

    async def leftovers(self) -> list[str]:
        return list(self._engine.containers)

    async def aclose(self) -> None:
        await self._engine.aclose()


class Ran(NamedTuple):
    """How a program ended that the engine ran in a container."""

    exit_code: int
    output: str


class DockerWorld:
    """The Docker engine of this machine, with an installation of its own."""

    image = IMAGE

    def __init__(self, root: Path, execd_volume: str) -> None:
        self.root = root
        self.instance = f"test-{secrets.token_hex(4)}"
        self.network = f"slt-{secrets.token_hex(4)}"
        self.execd_volume = execd_volume
        self.docker = engine.connect()
        self.driver: Driver = self.another()
        self.stranger: Driver = self._driver(instance=f"{self.instance}-stranger")
        self.broken: Driver = self._driver(execd_volume=f"{self.network}-broken")
        self._drivers = [self.driver, self.stranger, self.broken]

    def another(self) -> DockerDriver:
        return self._driver()

    def new_volume_name(self) -> str:
        return f"{self.network}-{secrets.token_hex(4)}"

    async def with_own_execd(self) -> DockerDriver:
        """A driver with a copy of execd's volume, for attacks that must not reach anybody else should they succeed."""
        return self._driver(execd_volume=await self.execd_copy())

    async def execd_copy(self) -> str:
        """Make a copy of execd's volume; return its name."""
        copy = f"{self.network}-copy"
        source, target = await self._path_of(self.execd_volume), await self._new_volume(copy)
        await asyncio.to_thread(lambda: shutil.copytree(source, target, dirs_exist_ok=True))
        return copy

    def with_seccomp(self, profiles: Profiles) -> DockerDriver:
        """A driver whose containers have other system calls. The caller closes it."""
        return self._driver(seccomp=profiles)

    def with_quota(self, size_bytes: int) -> DockerDriver:
        """A driver whose containers may write so much, where the engine can hold them to it. The caller closes it."""
        return self._driver(disk_limit_bytes=size_bytes)

    def _driver(self, **changes: Any) -> DockerDriver:
        arguments: dict[str, Any] = {
            "instance": self.instance,
            "execd_volume": self.execd_volume,
            "network": self.network,
            **changes,
        }
        return DockerDriver(engine.connect(), **arguments)

    async def prepare(self) -> None:
        """Make the volume of the broken driver: with a hosts file, but no execd to run."""
        directory = await self._new_volume(f"{self.network}-broken")
        await asyncio.to_thread(_write_hosts, directory / "etc" / "hosts")

    async def _new_volume(self, name: str) -> Path:
        await self.docker.volumes.create({"Name": name, "Driver": "local"})
        return await self._path_of(name)

    async def _path_of(self, volume: str) -> Path:
        return Path((await engine.request(self.docker, "GET", f"volumes/{volume}"))["Mountpoint"])

    async def kill(self, container_id: str) -> None:
        await self.docker.containers.container(container_id).kill(signal="KILL")

    async def freeze(self, container_id: str) -> None:
        await self.docker.containers.container(container_id).kill(signal="STOP")

    async def leftovers(self) -> list[str]:
        answer = await self.docker.containers.list(all=True, filters={"label": [labels.INSTANCE]})
        return [item["Id"] for item in answer if item["Labels"][labels.INSTANCE].startswith(self.instance)]

    async def run_inside(self, container_id: str, *command: str, user: str = "") -> Ran:
        """Run a program in a container, by the engine's "exec"; return when it has ended."""
        execution = await self.docker.containers.container(container_id).exec(list(command), user=user)
        output = bytearray()
        async with execution.start(detach=False) as stream:
            while (message := await stream.read_out()) is not None:
                output += message.data
        return Ran((await execution.inspect())["ExitCode"], output.decode(errors="replace").strip())

    async def start_inside(self, container_id: str, *command: str) -> None:
        """Start a program in a container; it stays behind."""
        await (await self.docker.containers.container(container_id).exec(list(command))).start(detach=True)

    async def aclose(self) -> None:
        for container_id in await self.leftovers():
            await self.docker.containers.container(container_id).delete(force=True, v=True)
        for network in await self.docker.networks.list(filters={"name": self.network}):
            await (await self.docker.networks.get(network["Id"])).delete()
        for volume in (await self.docker.volumes.list(filters={"name": [self.network]}))["Volumes"] or ():
            await (await self.docker.volumes.get(volume["Name"])).delete()
        for driver in self._drivers:
            await driver.aclose()
        await self.docker.close()


def _write_hosts(path: Path) -> None:
    path.parent.mkdir()
    path.touch()


@asynccontextmanager
async def fake_world(abilities: Abilities) -> AsyncIterator[FakeWorld]:
    """An engine in memory; everything in it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="slt-") as root:
        world = FakeWorld(Path(root), abilities)
        try:
            yield world
        finally:
            await world.aclose()


@asynccontextmanager
async def docker_world() -> AsyncIterator[DockerWorld]:
    """The real engine; everything made there is removed with the block. Skips the test when there is none."""
    volume = await asyncio.to_thread(execd_volume)
    with tempfile.TemporaryDirectory(prefix="slt-") as root:
        world = DockerWorld(Path(root), volume)
        try:
            await world.prepare()
            yield world
        finally:
            await world.aclose()


@asynccontextmanager
async def image_of(world: DockerWorld, *lines: str) -> AsyncIterator[str]:
    """An image made for one test."""
    dockerfile = "\n".join([f"FROM {IMAGE}", *lines]).encode()
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(dockerfile)
        tar.addfile(member, io.BytesIO(dockerfile))
    context.seek(0)
    tag = f"{world.network}:test"
    await world.docker.images.build(fileobj=context, encoding="identity", tag=tag)
    try:
        yield tag
    finally:
        await world.docker.images.delete(tag, force=True)


@functools.cache
def execd_volume() -> str:
    """Publish execd once a run."""
    return asyncio.run(_publish())


async def _publish() -> str:
    try:
        docker = engine.connect()
    except EngineUnavailable as error:
        pytest.skip(error.message)
    try:
        for image in (IMAGE, publish.EXECD_IMAGE):
            try:
                await docker.images.inspect(image)
            except aiodocker.DockerError as error:
                pytest.skip(f"{image}: {error.message}; `make engine images` cures it")
        return await publish.publish_execd(docker, print)
    finally:
        await docker.close()
