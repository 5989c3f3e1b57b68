"""The Debian base of all images: pulled if a registry answers, else bootstrapped by a script."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import tarfile
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from aiodocker import Docker, DockerError

from controlplane.errors import ImageBuildFailed
from controlplane.images.engine import (
    TAIL_LINES,
    VERSION_LABEL,
    Progress,
    build_from,
    inspect_image,
    version,
)
from controlplane.images.names import OUR_IMAGES

DEBIAN = "debian:trixie-slim"

BOOTSTRAP = "bootstrap"
"""A folder with this script takes the build argument DEBIAN. The script makes a system if none can be pulled."""

NO_ROUTE_S = 20.0
"""After this silence, a pull counts as having no route to a registry."""


async def debian_base(engine: Docker, folder: Path, progress: Progress) -> str:
    """Return the name of the Debian base: the public image, pulled if needed, or one bootstrapped from packages."""
    if await inspect_image(engine, DEBIAN) is not None:
        return DEBIAN
    bootstrap = folder / BOOTSTRAP
    tag = f"{OUR_IMAGES}debian:{hashlib.sha256(bootstrap.read_bytes()).hexdigest()[:12]}"
    if await inspect_image(engine, tag) is not None:
        return tag
    progress(f"{folder.name}: pulling {DEBIAN}")
    try:
        async with asyncio.timeout(NO_ROUTE_S) as silence:
            async for _ in engine.images.pull(DEBIAN, stream=True):
                silence.reschedule(asyncio.get_running_loop().time() + NO_ROUTE_S)
    except (DockerError, TimeoutError) as error:
        progress(f"{folder.name}: cannot pull ({str(error) or 'no answer'}); bootstrapping Debian from its packages")
    else:
        return DEBIAN
    with tempfile.TemporaryDirectory(prefix="sandlot-debian-") as scratch:
        rootfs = Path(scratch, "rootfs.tar")
        await _run_bootstrap(folder.name, bootstrap, rootfs, progress)
        with _rootfs_context(rootfs) as context:
            await build_from(
                engine,
                folder.name,
                context,
                dockerfile="Dockerfile",
                tag=tag,
                labels={VERSION_LABEL: version()},
                arguments={},
                progress=progress,
            )
    for image in await engine.images.list(filters={"reference": [f"{OUR_IMAGES}debian"]}):
        for old in set(image["RepoTags"] or ()) - {tag}:
            with contextlib.suppress(DockerError):  # the base of an image in use
                await engine.images.delete(old)
    return tag


@contextlib.contextmanager
def _rootfs_context(rootfs: Path) -> Iterator[_LargeReads]:
    """Return a build context that makes an image of the tar file of a whole system."""
    dockerfile = b"FROM scratch\nADD rootfs.tar /\n"
    with tempfile.TemporaryFile(dir=rootfs.parent) as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            member = tarfile.TarInfo("Dockerfile")
            member.size = len(dockerfile)
            tar.addfile(member, io.BytesIO(dockerfile))
            tar.add(rootfs, "rootfs.tar")
        file.seek(0)
        yield _LargeReads(file)


class _LargeReads:
    """A reader in large pieces: aiodocker reads 8 KiB at a time, which takes seconds for a whole system."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, _length: int = -1, /) -> bytes:
        return self._file.read(1 << 20)


async def _run_bootstrap(name: str, script: Path, rootfs: Path, progress: Progress) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            script,
            rootfs,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise ImageBuildFailed(name, str(script), [str(error)]) from error
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        async for line in cast("asyncio.StreamReader", process.stdout):
            tail.append(line.decode(errors="replace").rstrip())
            if tail[-1].startswith("I: "):
                progress(f"{name}: {tail[-1].removeprefix('I: ')}")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        status = await process.wait()
    if status != 0:
        raise ImageBuildFailed(name, f"{script} (exit status {status})", list(tail))
