"""The images that sandboxes start from: what goes into each, whether it is current, how it is built.

One folder an image: `images/<name>/Dockerfile` makes `sandlot/<name>:latest`. The Dockerfile is the only declaration:
`FROM sandlot/…` names the parents, `COPY` the inputs, with paths from the folder above `images/`. An image carries the
hash of everything it was made from as a label, and is rebuilt only when that changes.

`sandlot/execd` is never run. It holds the agent's tree, which `publish_execd` copies into the read-only volume that
every sandbox mounts at /opt/execd.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import re
import tarfile
import tempfile
import textwrap
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, Protocol, cast

import aiohttp
from aiodocker import Docker, DockerError
from aiodocker.containers import DockerContainer

from controlplane.errors import EngineUnavailable, ImageMissing, RuntimeFailure

REPOSITORY = "sandlot"
INPUTS_LABEL = "sandlot.inputs"
VERSION_LABEL = "sandlot.version"
TREE_LABEL = "sandlot.tree"

EXECD_IMAGE = f"{REPOSITORY}/execd:latest"
EXECD_ROOT = "/opt/execd"

DEBIAN = "debian:bookworm-slim"
BOOTSTRAP = "bootstrap"
"""A folder with this script takes the build argument DEBIAN; the script makes a system where none can be pulled."""

PULL_SILENCE_S = 20.0
"""A pull that reports nothing for so long has no way out to a registry."""

PUBLISH_WAIT_S = 15.0
"""How long another builder may take to fill the agent's volume before it counts as dead."""

OLD_VOLUME_AGE = timedelta(days=1)
"""An unused agent volume younger than this may be the one a server is about to start containers with."""

HOST_CA = "host-ca"
"""A `COPY host-ca/ …` takes the certificate authorities that the host's administrator added."""
_HOST_CA_DIRS = (Path("/usr/local/share/ca-certificates"), Path("/etc/pki/ca-trust/source/anchors"))

# Settings of the host that a build needs as well, passed on only when set. They are no inputs: an image made through
# another mirror is the same image.
_FORWARDED = (
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "NPM_CONFIG_REGISTRY"),
)
_TAIL_LINES = 25
_STEP = re.compile(r"Step (\d+/\d+ : .*)")

Progress = Callable[[str], None]
"""Takes one line of text for a person."""


class ImageError(RuntimeFailure):
    """An image could not be made or published."""

    code = "image.failed"


class BadImageFolder(ImageError):
    """A folder under `images/` is missing or declares something that cannot be; the message names it."""

    code = "image.bad_folder"


class ImageBuildFailed(ImageError):
    """A build step failed: the message names the image and the step and ends with the tail of the output."""

    code = "image.build_failed"

    def __init__(self, image: str, step: str, tail: Sequence[str]) -> None:
        output = "".join(f"\n  | {line}" for line in tail)
        super().__init__(f"image {image}: failed at {step}{output}", image=image, step=step, tail=list(tail))
        self.image = image
        self.step = step
        self.tail = tuple(tail)


@dataclass(frozen=True, slots=True)
class Input:
    """One file of a build context."""

    path: str
    data: bytes
    executable: bool


@dataclass(frozen=True, slots=True)
class Recipe:
    """An image folder, read: its parents among our images, the files it is made from, and the hash over both."""

    name: str
    parents: tuple[str, ...]
    inputs: tuple[Input, ...]
    digest: str

    @property
    def tag(self) -> str:
        return f"{REPOSITORY}/{self.name}:latest"


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What became of one image. `seconds` is the time its build took, 0 if it was current; `size` is in bytes."""

    name: str
    tag: str
    image_id: str
    rebuilt: bool
    seconds: float
    size: int


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """One image, as `sandlot doctor` shows it. `version` and `size` (bytes) are None while it is missing."""

    name: str
    tag: str
    state: Literal["current", "outdated", "missing"]
    version: str | None
    size: int | None


# What an image is made from


def read_recipes(images_dir: Path, names: Sequence[str] | None = None) -> list[Recipe]:
    """Read the folders `names` (all, if None) and everything they build upon; parents come before their children.

    Raises BadImageFolder: no such folder, no Dockerfile in it, a parent or a copied path that does not exist, a cycle.
    """
    if not images_dir.is_dir():
        raise BadImageFolder(f"no image folders at {images_dir}", path=str(images_dir))
    if names is None:
        names = sorted(path.parent.name for path in images_dir.glob("*/Dockerfile"))
    done: dict[str, Recipe] = {}

    def visit(name: str, children: tuple[str, ...]) -> Recipe:
        if name in children:
            cycle = " → ".join((*children[children.index(name) :], name))
            raise BadImageFolder(f"image {name}: builds upon itself: {cycle}", image=name)
        if name not in done:
            parents, sources = _read_dockerfile(images_dir, name, children)
            digests = [visit(parent, (*children, name)).digest for parent in parents]
            inputs = tuple(_collect(images_dir, name, sources))
            done[name] = Recipe(name, parents, inputs, _digest(inputs, digests))
        return done[name]

    for name in names:
        visit(name, ())
    return list(done.values())


def _read_dockerfile(images_dir: Path, name: str, children: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parents among our images and the copied paths, each in the order of their first mention."""
    dockerfile = images_dir / name / "Dockerfile"
    if not dockerfile.is_file():
        needed = f", which image {children[-1]} builds upon" if children else ""
        raise BadImageFolder(f"image {name}: there is no {dockerfile}{needed}", image=name)
    parents: dict[str, None] = {}
    sources: dict[str, None] = {}
    for line in dockerfile.read_text().replace("\\\n", " ").splitlines():
        instruction, *arguments = line.split() or [""]
        flags = [argument for argument in arguments if argument.startswith("--")]
        words = arguments[len(flags) :]
        local = not any(flag.startswith("--from=") for flag in flags)
        if instruction.upper() == "FROM" and words[0].startswith(f"{REPOSITORY}/"):
            parents[words[0].removeprefix(f"{REPOSITORY}/").removesuffix(":latest")] = None
        elif instruction.upper() == "COPY" and local:
            sources.update(dict.fromkeys(words[:-1]))
        elif any(flag.startswith(f"--from={REPOSITORY}/") for flag in flags):
            image = next(flag for flag in flags if flag.startswith("--from=")).removeprefix(f"--from={REPOSITORY}/")
            parents[image.removesuffix(":latest")] = None
    return tuple(parents), tuple(sources)


def _collect(images_dir: Path, name: str, sources: Sequence[str]) -> list[Input]:
    """Every file of the build context, sorted by path: the image's own folder and what the Dockerfile copies."""
    root = images_dir.parent
    inputs: dict[str, Input] = {}
    for source in (f"{images_dir.name}/{name}", *sources):
        if PurePosixPath(source).parts[:1] == (HOST_CA,):
            found = _host_authorities()
        else:
            found = [_read_input(root, path) for path in _walk(root / source)]
        if not found:
            raise BadImageFolder(f"image {name}: its Dockerfile copies {source}, which does not exist", image=name)
        inputs.update((item.path, item) for item in found)
    return [inputs[path] for path in sorted(inputs)]


def _walk(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [
        file
        for file in path.rglob("*")
        if file.is_file()
        and file.suffix != ".pyc"
        and file.name != "README.md"
        and not any(part == "__pycache__" or part.startswith(".") for part in file.relative_to(path).parts)
    ]


def _read_input(root: Path, path: Path) -> Input:
    return Input(path.relative_to(root).as_posix(), path.read_bytes(), os.access(path, os.X_OK))


def _host_authorities() -> list[Input]:
    # The placeholder is there because a COPY needs at least one file.
    placeholder = Input(
        f"{HOST_CA}/README", b"Certificate authorities of the host that built this image.\n", executable=False
    )
    files = [file for folder in _HOST_CA_DIRS if folder.is_dir() for file in sorted(folder.glob("*.crt"))]
    return [placeholder, *(Input(f"{HOST_CA}/{file.name}", file.read_bytes(), executable=False) for file in files)]


def _digest(inputs: Sequence[Input], parents: Sequence[str]) -> str:
    total = hashlib.sha256()
    for item in inputs:
        content = hashlib.sha256(item.data).hexdigest()
        total.update(f"{item.path}\0{item.executable:d}\0{content}\n".encode())
    for parent in parents:
        total.update(f"parent\0{parent}\n".encode())
    return total.hexdigest()


def _context(inputs: Sequence[Input]) -> io.BytesIO:
    """The tar file that the engine builds from; no times in it, so that unchanged inputs hit the engine's cache."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for item in inputs:
            member = tarfile.TarInfo(item.path)
            member.size = len(item.data)
            member.mode = 0o755 if item.executable else 0o644
            tar.addfile(member, io.BytesIO(item.data))
    buffer.seek(0)
    return buffer


# Building


async def image_status(engine: Docker, images_dir: Path, names: Sequence[str] | None = None) -> list[ImageStatus]:
    """Which of the images exist and whether they were made from today's inputs. Changes nothing.

    Raises BadImageFolder, EngineUnavailable.
    """
    recipes = read_recipes(images_dir, names)
    with _engine_errors():
        return [_status(recipe, await _inspect(engine, recipe.tag)) for recipe in recipes]


def _status(recipe: Recipe, image: Mapping[str, Any] | None) -> ImageStatus:
    if image is None:
        return ImageStatus(recipe.name, recipe.tag, "missing", None, None)
    state: Literal["current", "outdated"] = (
        "current" if _labels(image).get(INPUTS_LABEL) == recipe.digest else "outdated"
    )
    return ImageStatus(recipe.name, recipe.tag, state, _labels(image).get(VERSION_LABEL), image["Size"])


async def build_images(
    engine: Docker, images_dir: Path, names: Sequence[str] | None, progress: Progress
) -> list[BuildResult]:
    """Bring the images `names` (all, if None) and their parents up to date, independent ones at the same time.

    Current images are left alone. `progress` gets a line a build step. Results come in dependency order.
    Raises BadImageFolder, ImageBuildFailed, EngineUnavailable.
    """
    recipes = read_recipes(images_dir, names)
    tasks: dict[str, asyncio.Task[BuildResult]] = {}

    async def build(recipe: Recipe) -> BuildResult:
        for parent in recipe.parents:
            await tasks[parent]
        return await _bring_up_to_date(engine, images_dir, recipe, progress)

    try:
        async with asyncio.TaskGroup() as group:
            for recipe in recipes:
                tasks[recipe.name] = group.create_task(build(recipe))
    except ExceptionGroup as failures:
        # An image fails with its parent's error, so the first one tells all. (`except*` would raise it in a group.)
        first = failures.exceptions[0]
        if isinstance(first, RuntimeFailure):
            raise first from None
        raise
    return [task.result() for task in tasks.values()]


async def _bring_up_to_date(engine: Docker, images_dir: Path, recipe: Recipe, progress: Progress) -> BuildResult:
    with _engine_errors():
        image = await _inspect(engine, recipe.tag)
        if image is not None and _labels(image).get(INPUTS_LABEL) == recipe.digest:
            return BuildResult(recipe.name, recipe.tag, image["Id"], rebuilt=False, seconds=0.0, size=image["Size"])
        began = time.monotonic()
        progress(f"{recipe.name}: building")
        arguments = {key: value for key in _FORWARDED if (value := os.environ.get(key))}
        if (images_dir / recipe.name / BOOTSTRAP).is_file():
            arguments["DEBIAN"] = await _debian(engine, images_dir / recipe.name, progress)
        await _build(
            engine,
            recipe.name,
            _context(recipe.inputs),
            dockerfile=f"{images_dir.name}/{recipe.name}/Dockerfile",
            tag=recipe.tag,
            labels={INPUTS_LABEL: recipe.digest, VERSION_LABEL: version()},
            arguments=arguments,
            progress=progress,
        )
        if image is not None:
            # The one just replaced. The engine keeps it while a container or a snapshot needs it.
            with contextlib.suppress(DockerError):
                await engine.images.delete(image["Id"])
        image = await engine.images.inspect(recipe.tag)
    seconds = time.monotonic() - began
    progress(f"{recipe.name}: done in {seconds:.1f} s, {image['Size'] / 1e6:.0f} MB")
    return BuildResult(recipe.name, recipe.tag, image["Id"], rebuilt=True, seconds=seconds, size=image["Size"])


class _Readable(Protocol):
    def read(self, length: int = ..., /) -> bytes: ...


async def _build(
    engine: Docker,
    name: str,
    context: _Readable,
    *,
    dockerfile: str,
    tag: str,
    labels: Mapping[str, str],
    arguments: Mapping[str, str],
    progress: Progress,
) -> None:
    step = "the start of the build"
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    finished = False
    try:
        async for message in engine.images.build(
            fileobj=context,
            encoding="identity",
            path_dockerfile=dockerfile,
            tag=tag,
            labels=labels,
            buildargs=arguments,
            forcerm=True,
            stream=True,
        ):
            finished = finished or "Successfully tagged" in message.get("stream", "")
            for line in filter(None, message.get("stream", "").splitlines()):
                if started := _STEP.match(line):
                    step = f"step {started[1]}"
                    tail.clear()
                    progress(f"{name}: {textwrap.shorten(started[1], 100, placeholder=' …')}")
                else:
                    tail.append(line)
    except DockerError as error:
        raise ImageBuildFailed(name, step, [*tail, error.message]) from error
    if not finished:
        raise ImageBuildFailed(name, step, [*tail, "the engine broke off without an answer"])


async def _debian(engine: Docker, folder: Path, progress: Progress) -> str:
    """The name of a Debian to start from: the public image, pulled if need be, else one bootstrapped from packages."""
    if await _inspect(engine, DEBIAN) is not None:
        return DEBIAN
    bootstrap = folder / BOOTSTRAP
    tag = f"{REPOSITORY}/debian:{hashlib.sha256(bootstrap.read_bytes()).hexdigest()[:12]}"
    if await _inspect(engine, tag) is not None:
        return tag
    progress(f"{folder.name}: pulling {DEBIAN}")
    try:
        async with asyncio.timeout(PULL_SILENCE_S) as silence:
            async for _ in engine.images.pull(DEBIAN, stream=True):
                silence.reschedule(asyncio.get_running_loop().time() + PULL_SILENCE_S)
    except (DockerError, TimeoutError) as error:
        progress(f"{folder.name}: cannot pull ({error or 'no answer'}); bootstrapping Debian from its packages")
    else:
        return DEBIAN
    with tempfile.TemporaryDirectory(prefix="sandlot-debian-") as scratch:
        rootfs = Path(scratch, "rootfs.tar")
        await _run_bootstrap(folder.name, bootstrap, rootfs, progress)
        with _rootfs_context(rootfs) as context:
            await _build(
                engine,
                folder.name,
                context,
                dockerfile="Dockerfile",
                tag=tag,
                labels={VERSION_LABEL: version()},
                arguments={},
                progress=progress,
            )
    return tag


@contextlib.contextmanager
def _rootfs_context(rootfs: Path) -> Iterator[_LargeReads]:
    """A build context that makes an image of a whole system's tar file."""
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
    """aiodocker reads 8 KiB at a time, which for a whole system takes seconds."""

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
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
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


# The agent's volume


async def publish_execd(engine: Docker, progress: Progress, *, image: str = EXECD_IMAGE) -> str:
    """Put the agent's tree of `sandlot/execd` into its volume and return the volume's name. Takes 0.1 s if it is there.

    The volume is named for the image's content and checked file by file on every call, so the name that is returned
    is safe to mount at /opt/execd (read-only), whatever crashed before. Volumes of older agents that nothing has used
    for a day are removed.
    Raises ImageMissing, ImageError, EngineUnavailable.
    """
    with _engine_errors():
        found = await _inspect(engine, image)
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
    """Have the engine fill the volume if it is empty; tells whether it now holds the whole tree.

    Creating a container, which is never started, copies the image's tree into an empty volume.
    """
    name = f"{volume}-filler"
    options = {"Labels": labels}
    mount = {"Type": "volume", "Source": volume, "Target": EXECD_ROOT, "VolumeOptions": options}
    config = {**_idle(image, labels), "HostConfig": {"NetworkMode": "none", "Mounts": [mount]}}
    await _remove_container(engine, name)  # one that a crash left behind would keep the volume in use
    container = await engine.containers.create(config, name=name)
    try:
        return await asyncio.to_thread(is_complete, await _read_tree(engine, container))
    finally:
        await _remove_container(engine, name)


@contextlib.asynccontextmanager
async def _only_publisher(engine: Docker, image: str, name: str, labels: dict[str, str]) -> AsyncIterator[None]:
    """Keep other builders out, on whatever machine they run: the engine gives a container's name to one of them."""
    await _create_alone(engine, name, _idle(image, labels))
    try:
        yield
    finally:
        await _remove_container(engine, name)


def _idle(image: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"Image": image, "Labels": labels, "NetworkDisabled": True, "HostConfig": {"NetworkMode": "none"}}


async def _create_alone(engine: Docker, name: str, config: dict[str, Any]) -> None:
    """Create the container; while another builder holds its name, wait until that one is removed."""
    try:
        async with asyncio.timeout(PUBLISH_WAIT_S):
            while True:
                try:
                    await engine.containers.create(config, name=name)
                except DockerError as error:
                    if error.status != 409:
                        raise
                else:
                    return
                try:
                    # In short turns: engines of old miss the waiter that asks while the removal is under way.
                    await engine.containers.container(name).wait(condition="removed", timeout=1.0)
                except TimeoutError:
                    continue
                except DockerError as error:
                    if error.status != 404:
                        raise
                    # Its creation is still under way, or it has just gone.
                    await asyncio.sleep(0.05)
    except TimeoutError:
        # Whoever made it died before removing it.
        await _remove_container(engine, name)
        await engine.containers.create(config, name=name)


async def _read_tree(engine: Docker, container: DockerContainer) -> bytes:
    # `container.get_archive` has the engine compress the tree first, which takes six times as long.
    path = f"containers/{container.id}/archive"
    plain = {"Accept-Encoding": "identity"}
    async with engine._query(path, "GET", params={"path": EXECD_ROOT}, headers=plain) as response:
        return await response.read()


def is_complete(tree: bytes) -> bool:
    """Whether a tar of the agent's directory holds exactly the files that its MANIFEST lists, unaltered."""
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


async def _remove_container(engine: Docker, name: str) -> None:
    with contextlib.suppress(DockerError):
        await engine.containers.container(name).delete(force=True)


async def _remove_volume(engine: Docker, name: str) -> None:
    # In use, or already gone: both are fine, the next publisher tries again.
    volumes: Any = engine.volumes
    with contextlib.suppress(DockerError):
        await (await volumes.get(name)).delete()


# Small things


def version() -> str:
    """The version of this distribution, as the images' label carries it."""
    try:
        return metadata.version("sandlot")
    except metadata.PackageNotFoundError:
        return "0+unknown"


async def _inspect(engine: Docker, reference: str) -> dict[str, Any] | None:
    try:
        return await engine.images.inspect(reference)
    except DockerError as error:
        if error.status == 404:
            return None
        raise


def _labels(image: Mapping[str, Any]) -> dict[str, str]:
    return image["Config"].get("Labels") or {}


@contextlib.contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except aiohttp.ClientError as error:
        raise EngineUnavailable(f"the container engine does not answer: {error}") from error
    except DockerError as error:
        raise ImageError(f"the container engine refused: {error.message}", status=error.status) from error
