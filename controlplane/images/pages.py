"""The publication of the console's pages: a copy of `sandlot/console`'s files in the folder that the server sends."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, cast

from aiodocker import Docker

from controlplane.console.files import DIST, INDEX
from controlplane.errors import ImageError, ImageMissing
from controlplane.images.engine import Progress, engine_errors, inspect_image
from controlplane.images.names import OUR_IMAGES
from controlplane.images.publish import read_folder, remove_container

CONSOLE_IMAGE = f"{OUR_IMAGES}console:latest"

PAGES_DIR = "/dist"
"""The folder of the image that has the pages."""

MARK = ".image"
"""A file beside the pages: the id of the image that they come from."""


async def publish_pages(engine: Docker, progress: Progress, *, dist: Path = DIST, image: str = CONSOLE_IMAGE) -> bool:
    """Copy the pages of `sandlot/console` to *dist* unless they are there. Return whether anything was copied.

    The first page is replaced last, and old files are removed after that, so a server may send the pages meanwhile.

    Raises:
        ImageMissing: the engine does not have the image.
        ImageError: the folder cannot be written, or the engine refused.
        EngineUnavailable: the engine does not answer.
    """
    with engine_errors():
        found = await inspect_image(engine, image)
        if found is None:
            raise ImageMissing(f"the engine has no image {image}: run `sandlot images build console`", image=image)
        if await asyncio.to_thread(_mark_of, dist) == found["Id"]:
            return False
        container = await engine.containers.create({"Image": found["Id"], "Cmd": ["/none"], "NetworkDisabled": True})
        try:
            files = await asyncio.to_thread(files_of, await read_folder(engine, container, PAGES_DIR))
        finally:
            await remove_container(engine, container.id)
    try:
        await asyncio.to_thread(_replace, dist, files, found["Id"])
    except OSError as error:
        raise ImageError(
            f"the console's pages cannot be written to {dist}: {error.strerror}", path=str(dist)
        ) from error
    progress(f"console: {len(files)} files are in {dist}")
    return True


def files_of(tree: bytes) -> dict[str, bytes]:
    """Return the files of a tar of the pages' folder, by their paths below it."""
    with tarfile.open(fileobj=io.BytesIO(tree)) as tar:
        members = [(PurePosixPath(member.name), member) for member in tar if member.isfile()]
        files = {
            PurePosixPath(*path.parts[1:]).as_posix(): cast("IO[bytes]", tar.extractfile(member)).read()
            for path, member in members
            if ".." not in path.parts
        }
    if INDEX not in files:
        raise ImageError(f"the image of the console has no {INDEX}: run `sandlot images build console`")
    return files


def _mark_of(dist: Path) -> str:
    """Return the id of the image that the pages come from; "" if there are none."""
    with contextlib.suppress(OSError):
        return (dist / MARK).read_text() if (dist / INDEX).is_file() else ""
    return ""


def _replace(dist: Path, files: dict[str, bytes], image_id: str) -> None:
    dist.mkdir(parents=True, exist_ok=True)
    _write(dist / MARK, b"")  # until everything is there
    for name in sorted(files, key=lambda name: name.startswith(INDEX)):
        _write(dist / name, files[name])
    for path in [path for path in dist.rglob("*") if path.is_file()]:
        if path.relative_to(dist).as_posix() not in {*files, MARK}:
            path.unlink(missing_ok=True)
    _write(dist / MARK, image_id.encode())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_bytes(data)
    new.replace(path)
