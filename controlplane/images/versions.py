"""The versions in the files of an image: docs/extending-images.md, "Several versions of a language".

execd reads the same files at the start of a sandbox, and checks them. This module only shows them.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp
from aiodocker import Docker, DockerError

from controlplane.errors import EngineUnavailable
from controlplane.runtime.docker.engine import NO_CONNECTION

DIRECTORY = "/etc/sandlot/versions"
MAX_FILE_BYTES = 64 * 1024


async def declared_versions(engine: Docker, image: str) -> dict[str, tuple[str, ...]]:
    """Return each variable with the versions that it selects from, the default first; empty for an image without any.

    A container is created and removed, which takes 50 ms, but not started.

    Raises:
        EngineUnavailable: the engine does not answer.
    """
    config: dict[str, Any] = {
        "Image": image,
        "Cmd": ["none"],
        "NetworkDisabled": True,
        "HostConfig": {"NetworkMode": "none"},
    }
    try:
        container = await engine.containers.create(config)
        try:
            with await container.get_archive(DIRECTORY) as archive:
                return dict(_declarations(archive))
        except DockerError:
            return {}  # the image has no such directory
        finally:
            with contextlib.suppress(DockerError):
                await container.delete(force=True)
    except aiohttp.ClientError as error:
        raise EngineUnavailable(f"the container engine does not answer: {error}") from error
    except DockerError as error:
        if error.status == NO_CONNECTION:
            raise EngineUnavailable(f"the container engine does not answer: {error.message}") from error
        return {}  # the image is gone by now


def _declarations(archive: tarfile.TarFile) -> Iterator[tuple[str, tuple[str, ...]]]:
    for member in sorted(archive.getmembers(), key=lambda member: member.name):
        if member.isfile() and member.name.endswith(".toml") and member.size <= MAX_FILE_BYTES:
            file = archive.extractfile(member) or io.BytesIO()
            with contextlib.suppress(UnicodeDecodeError, tomllib.TOMLDecodeError):
                if found := _summary(tomllib.loads(file.read().decode())):
                    yield found


def _summary(content: Mapping[str, Any]) -> tuple[str, tuple[str, ...]] | None:
    match content:
        case {"variable": str(variable), "default": str(default), "versions": dict(versions)} if default in versions:
            return variable, (default, *(name for name in versions if name != default))
    return None
