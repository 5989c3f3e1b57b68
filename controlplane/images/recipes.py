"""A reader of image folders: their Dockerfiles, input files, and the hash over these.

Each image has a folder: `images/<name>/Dockerfile` makes `sandlot/<name>:latest`. The Dockerfile is the only
declaration: `FROM sandlot/…` names the parents, and `COPY` the inputs, with paths from the folder above `images/`.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from controlplane.errors import BadImageFolder
from controlplane.images.dockerfile import Dockerfile, Stage, parse
from controlplane.images.names import OUR_IMAGES

HOST_CA = "host-ca"
"""`COPY host-ca/ …` copies the certificate authorities that the host's administrator added."""

_HOST_CA_DIRS = (Path("/usr/local/share/ca-certificates"), Path("/etc/pki/ca-trust/source/anchors"))

FIRST_STAGE = "first"
"""A stage of this name is enough to begin with: it stands in for its image until the first complete build."""

_MANIFEST = re.compile(r"[^/]+/kernels/([a-z0-9_-]+)\.toml")

STAGE_DOCKERFILE = ".sandlot-stage"
"""The path of a stage's Dockerfile in a build context."""


@dataclass(frozen=True, slots=True)
class Input:
    """One file of a build context."""

    path: str
    data: bytes
    executable: bool


@dataclass(frozen=True, slots=True)
class Recipe:
    """The contents of an image folder: its Dockerfile, its input files, and the hash over these and the parents."""

    name: str
    dockerfile: Dockerfile
    inputs: tuple[Input, ...]
    digest: str

    @property
    def tag(self) -> str:
        return f"{OUR_IMAGES}{self.name}:latest"

    @property
    def parents(self) -> tuple[str, ...]:
        return self.dockerfile.parents

    @property
    def first(self) -> Stage | None:
        """The stage that stands in for the image until the first complete build."""
        return next((stage for stage in self.dockerfile.stages if stage.name == FIRST_STAGE), None)

    def stage_tag(self, stage: str) -> str:
        """Return the name of a kept stage, from which other stages and later builds take it."""
        return f"{OUR_IMAGES}stage:{self.name}-{stage}"

    def context_of(self, stage: Stage) -> io.BytesIO:
        """Return the build context of one stage, whose Dockerfile is STAGE_DOCKERFILE."""
        text = self.dockerfile.text_of(stage, self.stage_tag)
        return context_of((*self.inputs, Input(STAGE_DOCKERFILE, text.encode(), executable=False)))


def read_recipes(images_dir: Path, names: Sequence[str] | None = None) -> list[Recipe]:
    """Return the recipes of the folders *names* (all, if None) and of their ancestors; parents come first.

    Raises:
        BadImageFolder: a folder, its Dockerfile, a parent or a copied path does not exist, or there is a cycle.
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
            dockerfile = _read_dockerfile(images_dir, name, children)
            digests = [visit(parent, (*children, name)).digest for parent in dockerfile.parents]
            inputs = tuple(_collect(images_dir, name, dockerfile.sources))
            done[name] = Recipe(name, dockerfile, inputs, _digest(inputs, digests))
        return done[name]

    for name in names:
        visit(name, ())
    return list(done.values())


def declared_languages(images_dir: Path) -> dict[str, tuple[str, ...]]:
    """Return the languages of each image folder by the name of its image; empty where there are no folders.

    Those are the manifests that its Dockerfile copies, and those of its ancestors.

    Raises:
        BadImageFolder: see `read_recipes`.
    """
    found: dict[str, set[str]] = {}
    for recipe in read_recipes(images_dir) if images_dir.is_dir() else ():
        own = {match[1] for each in recipe.inputs if (match := _MANIFEST.fullmatch(each.path))}
        found[recipe.name] = own.union(*(found[parent] for parent in recipe.parents))
    return {f"{OUR_IMAGES}{name}:latest": tuple(sorted(languages)) for name, languages in found.items()}


def _read_dockerfile(images_dir: Path, name: str, children: tuple[str, ...]) -> Dockerfile:
    dockerfile = images_dir / name / "Dockerfile"
    if not dockerfile.is_file():
        needed = f", which image {children[-1]} builds upon" if children else ""
        folders = [path.parent.name for path in images_dir.glob("*/Dockerfile")]
        close = difflib.get_close_matches(name.removeprefix(OUR_IMAGES), folders, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise BadImageFolder(f"image {name}: there is no {dockerfile}{needed}{meant}", image=name)
    return parse(dockerfile.read_text())


def _collect(images_dir: Path, name: str, sources: Sequence[str]) -> list[Input]:
    """Return all files of the build context, sorted by path: the image's folder and the copied paths."""
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


def context_of(inputs: Sequence[Input]) -> io.BytesIO:
    """Return the tar file of a build context. It has no times, so that unchanged inputs hit the engine's cache."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for item in inputs:
            member = tarfile.TarInfo(item.path)
            member.size = len(item.data)
            member.mode = 0o755 if item.executable else 0o644
            tar.addfile(member, io.BytesIO(item.data))
    buffer.seek(0)
    return buffer
