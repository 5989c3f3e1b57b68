"""Volumes of sandboxes on a Docker engine: named volumes are the engine's, the rest are directories of its host.

A named volume is made for its owner, unless the settings allow the name to mean the engine's volume of the same name.
Only a volume that was made here is removed, and only if the request that made it asked for that.

Other sandboxes may write below a named volume or an allowed directory at any moment. So a sub path is walked one
component at a time, following no symbolic link. The engine does follow symbolic links, so it may have mounted another
directory: when the container runs, and before a client gets it, `check` looks at the mounts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from typing import Any
from weakref import WeakValueDictionary

import aiodocker
import msgspec
from aiodocker import DockerError

from controlplane.errors import StartFailed, VolumeInUse, VolumeRefused
from controlplane.runtime import labels
from controlplane.runtime.docker import hardening
from controlplane.runtime.docker.disk import walk
from controlplane.runtime.docker.engine import CONFLICT, NOT_FOUND, our_errors, request
from controlplane.runtime.driver import ContainerSpec, VolumeInfo
from controlplane.sandbox import Volume

PREFIX = labels.VOLUME_PREFIX
MAX_MEASURED_FILES = 1_000_000  # of one volume: a measurement in a list takes three seconds and no more

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Promise(msgspec.Struct, frozen=True):
    """Which directory must be mounted at a path: its device and inode."""

    path: str
    device: int
    inode: int


class Mount(msgspec.Struct, frozen=True):
    """One volume as the engine is told of it, and what must come of it; None where the engine cannot be misled."""

    config: dict[str, Any]
    promise: Promise | None = None


class _Listed(msgspec.Struct, rename="pascal"):
    """One volume in the engine's list."""

    name: str
    created_at: datetime
    mountpoint: str = ""


class DockerVolumes:
    """See `Volumes` for what each method promises."""

    def __init__(self, docker: aiodocker.Docker, instance: str) -> None:
        self._docker = docker
        self._instance = instance
        # Named volumes that were found or made for containers that do not exist yet, by the engine's name.
        self._mounting: Counter[str] = Counter()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # of each named volume

    @contextlib.asynccontextmanager
    async def mounts(self, spec: ContainerSpec) -> AsyncIterator[list[Mount]]:
        """Make and find a container's volumes. Inside the block, none of them is removed because nobody uses it yet."""
        if not spec.volumes:
            yield []
            return
        made_for = {labels.INSTANCE: self._instance, labels.SANDBOX: spec.sandbox_id}
        names = Counter(engine_name(volume) for volume in spec.volumes if volume.volume_name)
        self._mounting += names
        try:
            async with contextlib.AsyncExitStack() as stack:
                for name in sorted(names):  # always in the same order: nobody waits for each other
                    await stack.enter_async_context(self._lock(name))  # till its removal is over, where one goes on
                mounts = await prepare(self._docker, spec.volumes, made_for)
            yield mounts
        finally:
            self._mounting -= names

    async def list(self, *, measure: bool = False) -> list[VolumeInfo]:
        """Return the named volumes of this installation. See `Volumes.list`."""
        wanted = [f"{labels.INSTANCE}={self._instance}"]
        with our_errors("list the volumes"):
            answer = await self._docker.volumes.list(filters={"label": wanted})  # type: ignore[no-untyped-call]
            found = msgspec.convert([each for each in answer["Volumes"] or () if _is_ours(each)], list[_Listed])
            sizes = await _measured(found) if measure else {}
        return [
            VolumeInfo(
                name=volume.name.removeprefix(PREFIX),
                created_at=volume.created_at,
                size_bytes=sizes.get(volume.mountpoint),
            )
            for volume in found
        ]

    async def remove(self, name: str) -> None:
        """Remove a volume. See `Volumes.remove`."""
        full_name = PREFIX + name
        async with self._lock(full_name):
            if full_name in self._mounting:
                raise VolumeInUse(f"a sandbox that is being made will have the volume {name}")
            with our_errors(f"remove the volume {name}"):
                if all(volume.name != name for volume in await self.list()):
                    return
                if not await remove_unless_used(self._docker, full_name):
                    raise VolumeInUse(f"a container has the volume {name}")

    async def remove_unused(self) -> None:
        """Remove volumes that were made to be removed. See `Volumes.remove_unused`."""
        for name in await find_disposable(self._docker, self._instance):
            async with self._lock(name):
                if name not in self._mounting:
                    await remove_unless_used(self._docker, name)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())


async def prepare(docker: aiodocker.Docker, wanted: Sequence[Volume], made_for: dict[str, str]) -> list[Mount]:
    """Return the mounts of volumes, making named volumes that may be made. The labels *made_for* say for whom.

    Raises:
        VolumeRefused: one is not there, or a symbolic link is in its way.
        RuntimeFailure: the engine failed.
    """
    return [
        await _named(docker, volume, made_for)
        if volume.volume_name
        else _directory(volume, volume.host_root, make=False, code="volume.host_path_not_found")
        for volume in wanted
    ]


def check(pid: int, promises: Sequence[Promise]) -> None:
    """Look at what is mounted in a container, by its process 1. Raises StartFailed when it is not what was promised."""
    for promise in promises:
        try:
            with _opened(f"/proc/{pid}/root", promise.path.strip("/")) as found:
                status = os.fstat(found)
        except OSError as error:
            raise StartFailed(f"the volume at {promise.path} cannot be checked: {error.strerror}") from error
        if (status.st_dev, status.st_ino) != (promise.device, promise.inode):
            raise StartFailed(f"the directory of the volume at {promise.path} was exchanged while it was mounted")


def engine_name(volume: Volume) -> str:
    """Return the engine's name for a named volume."""
    return volume.volume_name if volume.as_it_is else PREFIX + volume.owned_name


async def find_disposable(docker: aiodocker.Docker, instance: str) -> list[str]:
    """Return the names of volumes that an installation made to be removed, and that the engine sees nobody use."""
    wanted = [f"{labels.INSTANCE}={instance}", f"{labels.DISPOSABLE}={labels.TRUE}"]
    with our_errors("list volumes that nobody uses"):
        found = await docker.volumes.list(filters={"label": wanted, "dangling": ["true"]})  # type: ignore[no-untyped-call]
    return [volume["Name"] for volume in found["Volumes"] or ()]


def _is_ours(volume: dict[str, Any]) -> bool:
    """Return whether an engine's volume is a named one, and not the engine's own that was made as it is."""
    name: str = volume["Name"]
    return name.startswith(PREFIX)


async def _measured(volumes: Sequence[_Listed]) -> dict[str, int]:
    """Return the bytes of volumes by their directories, of those that can be read and have not too many files."""
    places = {volume.mountpoint for volume in volumes if os.access(volume.mountpoint, os.R_OK | os.X_OK)}
    walked = await walk(places, 1 << 62, MAX_MEASURED_FILES)
    return {place: size for place, (size, files) in walked.items() if files <= MAX_MEASURED_FILES}


async def remove_unless_used(docker: aiodocker.Docker, name: str) -> bool:
    """Remove a named volume, if no container has it mounted, whole or a directory in it; return whether none has.

    Of the latter the engine does not know that they are the volume's; the containers' labels tell.
    """
    owned_name = name.removeprefix(PREFIX)
    with our_errors(f"remove the volume {owned_name}"):
        if await docker.containers.list(all=True, filters={"label": [labels.NAMED_VOLUME + owned_name]}):
            return False
        try:
            await request(docker, "DELETE", f"volumes/{name}")
        except DockerError as error:
            # Gone, or used since by a container that this server has not made.
            if error.status not in (NOT_FOUND, CONFLICT):
                raise
            return error.status == NOT_FOUND
    return True


async def _named(docker: aiodocker.Docker, volume: Volume, made_for: dict[str, str]) -> Mount:
    name = engine_name(volume)
    with our_errors(f"use the volume {volume.volume_name}"):
        try:
            found = await request(docker, "GET", f"volumes/{name}")
        except DockerError as error:
            if error.status != NOT_FOUND:
                raise
            if not volume.create:
                raise VolumeRefused(
                    f"volume {volume.name}: there is no volume {volume.volume_name}, "
                    "and the request forbids creating it"
                ) from error
            labelled = made_for | ({labels.DISPOSABLE: labels.TRUE} if volume.delete else {})
            found = await request(docker, "POST", "volumes/create", {"Name": name, "Labels": labelled})
    if not volume.sub_path:
        return Mount({"Type": "volume", "Source": name, "Target": volume.mount_path, "ReadOnly": volume.read_only})
    if found["Driver"] != "local":
        raise VolumeRefused(
            f"volume {volume.name}: a sub path needs a volume of the engine's local driver, not {found['Driver']}",
            code="volume.sub_path",
        )
    return _directory(volume, found["Mountpoint"], make=True, code="volume.sub_path")


def _directory(volume: Volume, root: str, *, make: bool, code: str) -> Mount:
    try:
        with _opened(root, volume.sub_path, make=make) as found:
            status = os.fstat(found)
    except OSError as error:
        # A link on the way shows as "Not a directory" or "Too many levels of symbolic links".
        raise VolumeRefused(
            f"volume {volume.name}: {volume.sub_path or root}: {error.strerror}; "
            "it must be a directory, and no symbolic link may lead there",
            code=code,
        ) from error
    source = os.path.join(root, volume.sub_path) if volume.sub_path else root
    config = hardening.bind(source, volume.mount_path, read_only=volume.read_only)
    return Mount(config, Promise(volume.mount_path, status.st_dev, status.st_ino))


@contextlib.contextmanager
def _opened(root: str, path: str, *, make: bool = False) -> Iterator[int]:
    """Open a directory below *root* without following a symbolic link on the way. Raises OSError."""
    directory = os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        for name in filter(None, path.split("/")):
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=directory)
            inner = os.open(name, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = inner
        yield directory
    finally:
        os.close(directory)
