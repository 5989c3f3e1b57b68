"""The publication of the agent: a copy of `sandlot/execd`'s tree in the volume that every sandbox mounts."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import tarfile
import time
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import IO, Any, cast

from aiodocker import Docker, DockerError
from aiodocker.containers import DockerContainer

from controlplane.errors import ImageError, ImageMissing
from controlplane.images.engine import Progress, engine_errors, inspect_image
from controlplane.images.names import OUR_IMAGES, REPOSITORY
from controlplane.sandbox import EXECD_DIR

TREE_LABEL = "sandlot.tree"

EXECD_IMAGE = f"{OUR_IMAGES}execd:latest"

PUBLISH_WAIT_S = 15.0
"""The time after which another builder that fills the agent's volume counts as dead."""

OLD_VOLUME_AGE = timedelta(days=1)
"""The age below which a server may be about to use an unused volume of the agent."""


async def publish_execd(engine: Docker, progress: Progress, *, image: str = EXECD_IMAGE) -> str:
    """Copy the agent's tree of `sandlot/execd` into its volume, and return the volume's name.

    This takes 0.1 s if the volume is filled already. The volume's name depends on the image's content, and each call
    checks every file, so the volume is safe to mount at /opt/execd (read-only), whatever crashed before. Volumes of
    older agents that nothing has used for a day are removed.

    Raises:
        ImageMissing: the engine does not have the image.
        ImageError: the volume stays incomplete, or the engine refused.
        EngineUnavailable: the engine does not answer.
    """
    with engine_errors():
        found = await inspect_image(engine, image)
        if found is None:
            raise ImageMissing(f"the engine has no image {image}: run `make images`", image=image)
        volume = f"{REPOSITORY}-execd-{found['Id'].removeprefix('sha256:')[:12]}"
        labels = {TREE_LABEL: image}
        async with _only_publisher(engine, found["Id"], f"{volume}-publisher", labels):
            if not await _fill(engine, found["Id"], volume, labels):
                progress(f"execd: volume {volume} is incomplete, filling it again")
                await _remove_volume(engine, volume)
                if not await _fill(engine, found["Id"], volume, labels):
                    raise ImageError(f"volume {volume} stays incomplete: see the engine's log", volume=volume)
        await _remove_old_volumes(engine, labels, keep=volume)
    return volume


async def _fill(engine: Docker, image: str, volume: str, labels: dict[str, str]) -> bool:
    """Have the engine fill the volume if it is empty. Return whether the volume now has the whole tree.

    Creating a container, which is never started, copies the image's tree into an empty volume.
    """
    name = f"{volume}-filler"
    options = {"Labels": labels}
    mount = {"Type": "volume", "Source": volume, "Target": EXECD_DIR, "VolumeOptions": options}
    config = {**_idle(image, labels), "HostConfig": {"NetworkMode": "none", "Mounts": [mount]}}
    await remove_container(engine, name)  # a container that a crash has left would keep the volume in use
    container = await engine.containers.create(config, name=name)
    try:
        return await asyncio.to_thread(is_complete, await read_folder(engine, container, EXECD_DIR))
    finally:
        await remove_container(engine, name)


@contextlib.asynccontextmanager
async def _only_publisher(engine: Docker, image: str, name: str, labels: dict[str, str]) -> AsyncIterator[None]:
    """Exclude other builders, on any machine, inside of the block: the engine gives a container's name to one only."""
    lock = await _create_alone(engine, name, _idle(image, labels))
    try:
        yield
    finally:
        await remove_container(engine, lock)


def _idle(image: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"Image": image, "Labels": labels, "NetworkDisabled": True, "HostConfig": {"NetworkMode": "none"}}


async def _create_alone(engine: Docker, name: str, config: dict[str, Any]) -> str:
    """Create the container and return its id. If another builder's container has the name, wait for its removal.

    A builder that keeps the name for PUBLISH_WAIT_S has died, and its container is removed. The removal is by id: a
    third builder may have created the next container of that name by then.
    """
    holder, since = "", time.monotonic()
    while True:
        try:
            return (await engine.containers.create(config, name=name)).id
        except DockerError as error:
            is_over = time.monotonic() - since > PUBLISH_WAIT_S
            if error.status != 409 or (is_over and not holder):
                raise
        if (found := await _holder(engine, name)) != holder:
            holder, since = found, time.monotonic()
        elif is_over:
            await remove_container(engine, holder)
        elif holder:
            await _wait_for_removal(engine, holder)
        await asyncio.sleep(0.05)  # the engine is just creating or removing it, and cannot wait for it


async def _holder(engine: Docker, name: str) -> str:
    """Return the id of the container of that name; "" if the engine knows none at the moment."""
    with contextlib.suppress(DockerError):
        return (await engine.containers.get(name)).id
    return ""


async def _wait_for_removal(engine: Docker, container_id: str) -> None:
    """Wait for the removal, at most a second: an old engine misses a wait that begins during the removal."""
    with contextlib.suppress(TimeoutError, DockerError):
        await engine.containers.container(container_id).wait(condition="removed", timeout=1.0)


async def read_folder(engine: Docker, container: DockerContainer, folder: str) -> bytes:
    """Return a tar of a container's folder. Its paths begin with the folder's last name."""
    # `container.get_archive` has the engine compress the tree first, which takes six times as long.
    path = f"containers/{container.id}/archive"
    plain = {"Accept-Encoding": "identity"}
    async with engine._query(path, "GET", params={"path": folder}, headers=plain) as response:
        return await response.read()


def is_complete(tree: bytes) -> bool:
    """Return whether a tar of the agent's directory has exactly the files of its MANIFEST, unaltered."""
    found: dict[str, str] = {}
    manifest = ""
    with tarfile.open(fileobj=io.BytesIO(tree)) as tar:
        for member in filter(tarfile.TarInfo.isfile, tar):
            path = member.name.partition("/")[2]
            data = cast("IO[bytes]", tar.extractfile(member)).read()
            if path == "MANIFEST":
                manifest = data.decode()
            else:
                found[path] = f"{hashlib.sha256(data).hexdigest()} {member.mode & 0o777:o}"
    listed = {path: properties for properties, path in (line.split("  ", 1) for line in manifest.splitlines())}
    return bool(listed) and found == listed


async def _remove_old_volumes(engine: Docker, labels: Mapping[str, str], *, keep: str) -> None:
    volumes: Any = engine.volumes  # aiodocker has no types for it
    listing = await volumes.list(filters={"label": [f"{key}={value}" for key, value in labels.items()]})
    limit = datetime.now(UTC) - OLD_VOLUME_AGE
    for volume in listing["Volumes"] or ():
        if volume["Name"] != keep and datetime.fromisoformat(volume["CreatedAt"]) < limit:
            await _remove_volume(engine, volume["Name"])


async def remove_container(engine: Docker, name_or_id: str) -> None:
    with contextlib.suppress(DockerError):
        await engine.containers.container(name_or_id).delete(force=True)


async def _remove_volume(engine: Docker, name: str) -> None:
    # A volume that is in use or gone is no failure: the next publisher tries again.
    volumes: Any = engine.volumes
    with contextlib.suppress(DockerError):
        await (await volumes.get(name)).delete()
