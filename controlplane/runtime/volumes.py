"""Volumes of sandboxes on a Docker engine: claims are volumes of the engine, the rest are directories of its host.

What is below a claim's volume or an allowed directory may be written by other sandboxes, at any moment. So a sub path
is walked one component at a time, following no symbolic link, and the engine, which does follow them, is not trusted to
have mounted what we walked to: when the container runs, and before anybody gets it, `check` looks at what is there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import aiodocker
import msgspec
from aiodocker import DockerError

from controlplane.errors import StartFailed, VolumeRefused
from controlplane.runtime import hardening, labels
from controlplane.runtime.engine import our_errors, request
from controlplane.sandbox import Volume

# Before the claim's name. Without it, a caller could have any volume of the engine, the agent's own among them.
PREFIX = "sandlot-claim-"

_NOT_FOUND, _CONFLICT = 404, 409
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


async def prepare(docker: aiodocker.Docker, wanted: Sequence[Volume], made_for: dict[str, str]) -> list[Mount]:
    """Return the mounts of volumes, making claims that may be made. The labels *made_for* say for whom that was.

    Raises:
        VolumeRefused: one is not there, or a symbolic link is in its way.
        RuntimeFailure: the engine failed.
    """
    return [
        await _claim(docker, volume, made_for)
        if volume.claim
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


async def find_disposable(docker: aiodocker.Docker, instance: str) -> list[str]:
    """Return the claims whose volumes an installation made to be removed, and that the engine sees nobody use."""
    wanted = [f"{labels.INSTANCE}={instance}", f"{labels.DISPOSABLE}={labels.TRUE}"]
    with our_errors("list volumes that nobody uses"):
        found = await docker.volumes.list(filters={"label": wanted, "dangling": ["true"]})  # type: ignore[no-untyped-call]
    names: list[str] = [volume["Name"] for volume in found["Volumes"] or ()]
    return [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]


async def remove_unless_used(docker: aiodocker.Docker, claim: str) -> None:
    """Remove the volume of a claim, if no container has it mounted, whole or a directory in it.

    Of the latter the engine does not know that they are the volume's; the containers' labels tell.
    """
    with our_errors(f"remove the volume of {claim}"):
        if await docker.containers.list(all=True, filters={"label": [labels.CLAIM + claim]}):
            return
        try:
            await request(docker, "DELETE", f"volumes/{PREFIX}{claim}")
        except DockerError as error:
            # Gone, or used since: by a container that somebody made without us.
            if error.status not in (_NOT_FOUND, _CONFLICT):
                raise


async def _claim(docker: aiodocker.Docker, volume: Volume, made_for: dict[str, str]) -> Mount:
    name = PREFIX + volume.claim
    with our_errors(f"use the volume of {volume.claim}"):
        try:
            found = await request(docker, "GET", f"volumes/{name}")
        except DockerError as error:
            if error.status != _NOT_FOUND:
                raise
            if not volume.create:
                raise VolumeRefused(
                    f"volume {volume.name}: there is no claim {volume.claim}, and createIfNotExists is false"
                ) from error
            labelled = made_for | ({labels.DISPOSABLE: labels.TRUE} if volume.delete else {})
            found = await request(docker, "POST", "volumes/create", {"Name": name, "Labels": labelled})
    if not volume.sub_path:
        return Mount({"Type": "volume", "Source": name, "Target": volume.mount_path, "ReadOnly": volume.read_only})
    if found["Driver"] != "local":
        raise VolumeRefused(
            f"volume {volume.name}: subPath needs a volume of the engine's local driver, not {found['Driver']}",
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
