"""What the containers of a Docker engine take on its disk, and how much room there is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiodocker
import msgspec
from aiodocker import DockerError

from controlplane.runtime import labels
from controlplane.runtime.docker import disk_walk
from controlplane.runtime.docker.engine import NOT_FOUND, our_errors, request
from controlplane.runtime.driver import DiskRoom, DiskUsage

# A walk of millions of files on a busy machine. The remaining sandboxes are not measured then.
WALK_TIMEOUT_S = 120.0
_UNKNOWN_FILES = -1
_MADE_UP = re.compile("[0-9a-f]{64}")


class _GraphDriver(msgspec.Struct, rename="pascal"):
    data: dict[str, Any] | None = None


class _Mount(msgspec.Struct, rename="pascal"):
    type: str
    name: str = ""
    source: str = ""
    writable: bool = msgspec.field(name="RW", default=False)


class _Shown(msgspec.Struct, rename="pascal"):
    graph_driver: _GraphDriver
    mounts: list[_Mount] | None = None


class Places(msgspec.Struct, frozen=True):
    """Directories of the engine's host in which a container's files are."""

    own: tuple[str, ...]  # what it wrote itself, and volumes that nobody else can have
    named: tuple[str, ...]  # volumes


def room_at(directory: str) -> DiskRoom | None:
    """Return the room on a directory's disk; None when it cannot be seen from here."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return None
    # Not what is kept for root: containers may take that as well, but the rest of the machine has no room by then.
    # Some file systems make files as they need them, and count none.
    return DiskRoom(disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None)


class Meter:
    """Measures the containers of one installation.

    By the directories of the engine, where this process may read them, which is where it runs as root on the same
    machine. Otherwise it asks the engine, which tells bytes only.
    """

    def __init__(self, docker: aiodocker.Docker, instance: str) -> None:
        self._docker = docker
        self._instance = instance
        self._places: dict[str, Places] = {}  # of a container they never change

    async def measure(self, max_bytes: int, max_files: int) -> tuple[DiskUsage, ...]:
        """Return what each container takes; a bound that is passed ends its measurement. Raises RuntimeFailure."""
        with our_errors("measure the containers"):
            listed = await self._list(with_sizes=False)
            found = {item["Id"]: await self._places_of(item["Id"]) for item in listed}
            self._places = {container_id: places for container_id, places in found.items() if places is not None}
            if any(places is not None and not places.own for places in found.values()):
                return tuple([_told(item) for item in await self._list(with_sizes=True)])
            walked = await walk(
                {path for places in self._places.values() for path in (*places.own, *places.named)},
                max_bytes,
                max_files,
            )
            return tuple([usage for item in listed if (usage := self._usage(item, walked)) is not None])

    def _usage(self, item: dict[str, Any], walked: dict[str, tuple[int, int]]) -> DiskUsage | None:
        if (places := self._places.get(item["Id"])) is None:
            return None
        own, named = _sum(walked, places.own), _sum(walked, places.named)
        return DiskUsage(item["Labels"][labels.SANDBOX], *own, *named)

    async def _list(self, *, with_sizes: bool) -> list[dict[str, Any]]:
        only_ours = msgspec.json.encode({"label": [f"{labels.INSTANCE}={self._instance}"]}).decode()
        size = "&size=1" if with_sizes else ""
        found: list[dict[str, Any]] = await request(
            self._docker, "GET", f"containers/json?all=1{size}&filters={only_ours}"
        )
        return found

    async def _places_of(self, container_id: str) -> Places | None:
        """Return where its files are, nowhere if they cannot be read; None when it is gone."""
        if (known := self._places.get(container_id)) is not None:
            return known
        try:
            shown = msgspec.convert(await request(self._docker, "GET", f"containers/{container_id}/json"), _Shown)
        except DockerError as error:
            if error.status == NOT_FOUND:
                return None
            raise
        upper = (shown.graph_driver.data or {}).get("UpperDir", "")
        if not upper or not os.access(upper, os.R_OK | os.X_OK):
            return Places((), ())
        mounts = [mount for mount in shown.mounts or () if mount.writable]
        own = [mount.source for mount in mounts if _is_anonymous(mount)]
        named = [mount.source for mount in mounts if _is_named(mount)]
        return Places(own=(upper, *own), named=tuple(named))


def _is_anonymous(mount: _Mount) -> bool:
    """Return whether the engine has created a volume by itself, for a VOLUME of an image."""
    return mount.type == "volume" and _MADE_UP.fullmatch(mount.name) is not None


def _is_named(mount: _Mount) -> bool:
    """Return whether a mount is a named volume, or a part of one. Directories of the host are not walked."""
    is_part = mount.type == "bind" and f"/volumes/{labels.VOLUME_PREFIX}" in mount.source
    return is_part or (mount.type == "volume" and not _is_anonymous(mount))


def _told(item: dict[str, Any]) -> DiskUsage:
    return DiskUsage(item["Labels"][labels.SANDBOX], item.get("SizeRw") or 0, _UNKNOWN_FILES, 0, _UNKNOWN_FILES)


def _sum(walked: dict[str, tuple[int, int]], paths: Iterable[str]) -> tuple[int, int]:
    found = [walked.get(path, (0, 0)) for path in paths]
    return sum(size for size, _ in found), sum(files for _, files in found)


async def walk(directories: Iterable[str], max_bytes: int, max_files: int) -> dict[str, tuple[int, int]]:
    """Return bytes and files of directories, without those that cannot be read. Raises OSError, TimeoutError."""
    paths = sorted(directories)
    if not paths:
        return {}
    program = [sys.executable, "-I", "-S", str(Path(disk_walk.__file__))]
    process = await asyncio.create_subprocess_exec(
        *program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    order = msgspec.json.encode({"directories": paths, "max_bytes": max_bytes, "max_files": max_files})
    try:
        async with asyncio.timeout(WALK_TIMEOUT_S):
            output, _ = await process.communicate(order)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    found = msgspec.json.decode(output, type=list[tuple[int, int] | None])
    return {path: taken for path, taken in zip(paths, found, strict=True) if taken is not None}
