"""Images of a Docker engine: committed, pulled, removed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import datetime

import aiodocker
import msgspec
import structlog
from aiodocker import DockerError

from controlplane.errors import ImageInUse, ImageMissing, RuntimeFailure
from controlplane.runtime.docker.containers import DockerContainers
from controlplane.runtime.docker.engine import CONFLICT, ENDLESS, NO_CONNECTION, NOT_FOUND, endpoint, our_errors
from controlplane.runtime.driver import ContainerState, ImageInfo
from controlplane.sandbox import Credentials

log = structlog.get_logger()

# A pull that tells of nothing for so long has no way out to the registry.
PULL_SILENCE_S = 30.0

_NAMELESS = "<none>:<none>"
_NOT_THERE = re.compile(r"not found|manifest unknown|denied|unauthorized|authentication|no basic auth", re.IGNORECASE)


class DockerImages:
    """See `Images` for what each method promises."""

    def __init__(self, docker: aiodocker.Docker, containers: DockerContainers) -> None:
        self._docker = docker
        self._containers = containers

    async def commit(self, container_id: str, image: str) -> None:
        """Keep it as an image. See `Images.commit`."""
        repository, _, tag = image.rpartition(":")
        # Not by the engine's own `pause`: if it cannot freeze the container, it still makes the image.
        async with self._standing_still(container_id):
            with our_errors("make an image of the container"):
                await self._containers.handle(container_id).commit(
                    repository=repository, tag=tag, pause=False, timeout=ENDLESS
                )

    @contextlib.asynccontextmanager
    async def _standing_still(self, container_id: str) -> AsyncIterator[None]:
        """Freeze the processes of a container inside of the block, and thaw them afterwards if they ran before."""
        if await self._containers.state(container_id) is not ContainerState.RUNNING:
            yield
            return
        await self._containers.pause(container_id)
        try:
            yield
        finally:
            try:
                await self._containers.resume(container_id)
            except RuntimeFailure as error:  # its record will say that it is paused
                log.warning("container.resume_failed", container=container_id, error=error.message)

    async def list(self) -> list[ImageInfo]:
        """Return all images with a name. See `Images.list`."""
        with our_errors("list the images"):
            found = msgspec.convert(await self._docker.images.list(), list[_Listed], strict=False)
        return [
            ImageInfo(id=image.id, names=names, size_bytes=image.size, created_at=image.created)
            for image in found
            if (names := tuple(name for name in image.repo_tags or () if name != _NAMELESS))
        ]

    async def remove(self, image: str) -> None:
        """Remove an image. See `Images.remove`."""
        with our_errors(f"remove the image {image}"):
            try:
                await self._docker.images.delete(image)
            except DockerError as error:
                if error.status == CONFLICT:
                    text = (
                        f"the image {image} is in use: containers are made from it, or other images are built upon it"
                    )
                    raise ImageInUse(text) from error
                if error.status != NOT_FOUND:
                    raise

    async def pull(self, image: str, credentials: Credentials | None) -> None:
        """Fetch an image. See `Images.pull`."""
        await pull(self._docker, image, credentials)


class _Listed(msgspec.Struct, rename="pascal"):
    """One image in the engine's list."""

    id: str
    size: int
    created: datetime
    repo_tags: list[str] | None = None


class _Progress(msgspec.Struct):
    """One line of what the engine tells during a pull."""

    error: str = ""


async def pull(docker: aiodocker.Docker, image: str, credentials: Credentials | None) -> None:
    """Have the engine fetch an image; a name without a tag means `latest`.

    Raises:
        ImageMissing: the registry does not have it, or not for these credentials.
        RuntimeFailure: the registry cannot be reached, or says nothing for too long.
    """
    has_tag = "@" in image or ":" in image.rpartition("/")[2]
    params = {"fromImage": image} if has_tag else {"fromImage": image, "tag": "latest"}
    headers = {}
    if credentials is not None:
        told = {"username": credentials.username, "password": credentials.password}
        headers["X-Registry-Auth"] = base64.urlsafe_b64encode(msgspec.json.encode(told)).decode()
    with our_errors(f"pull {image}"):
        try:
            await _follow(docker, params, headers)
        except TimeoutError:
            raise RuntimeFailure(
                f"cannot pull {image}: the registry says nothing for {PULL_SILENCE_S:g} s", code="image.pull_failed"
            ) from None
        except DockerError as error:
            if error.status != NO_CONNECTION and _NOT_THERE.search(error.message):
                raise ImageMissing(f"cannot pull {image}: {error.message.strip()}", image=image) from error
            raise


async def _follow(docker: aiodocker.Docker, params: dict[str, str], headers: dict[str, str]) -> None:
    """Follow a pull to its end. Raises TimeoutError when nothing is told for too long."""
    url, loop = await endpoint(docker, "images/create"), asyncio.get_running_loop()
    async with asyncio.timeout(PULL_SILENCE_S) as silence:
        async with docker.session.post(url, params=params, headers=headers, timeout=ENDLESS) as response:
            if not response.ok:
                raise DockerError(response.status, (await response.json())["message"])
            async for line in response.content:
                silence.reschedule(loop.time() + PULL_SILENCE_S)
                if line.strip() and (text := msgspec.json.decode(line, type=_Progress).error):
                    raise DockerError(500, text)
