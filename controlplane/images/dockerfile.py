"""A reader of Dockerfiles, as far as builds in the right order need it: stages, their parents, and copied paths."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from controlplane.images.names import OUR_IMAGES

_REFERENCE = re.compile(r"(?P<before>^\s*FROM\s+|--from=)(?P<name>[^\s]+)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a Dockerfile, which begins with FROM."""

    name: str  # "" without AS
    text: str  # its lines, the FROM included
    stages: tuple[str, ...]  # earlier stages that it needs
    parents: tuple[str, ...]  # Sandlot's images that it needs, without `sandlot/` and tag
    sources: tuple[str, ...]  # paths that it copies from the build context


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A whole Dockerfile. The lines before the first FROM belong to every stage."""

    head: str
    stages: tuple[Stage, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the stages; "" for a stage without one."""
        return tuple(stage.name for stage in self.stages)

    @property
    def parents(self) -> tuple[str, ...]:
        """Sandlot's images that the Dockerfile needs, in the order of their first mention."""
        return tuple(dict.fromkeys(parent for stage in self.stages for parent in stage.parents))

    @property
    def sources(self) -> tuple[str, ...]:
        """The copied paths, in the order of their first mention."""
        return tuple(dict.fromkeys(source for stage in self.stages for source in stage.sources))

    def needed_by(self, name: str) -> tuple[Stage, ...]:
        """Return the stages that the named stage needs, and then the stage itself."""
        needed = {name}
        for stage in reversed(self.stages):
            if stage.name in needed:
                needed |= set(stage.stages)
        return tuple(stage for stage in self.stages if stage.name in needed)

    def text_of(self, stage: Stage, image_of: Callable[[str], str]) -> str:
        """Return a Dockerfile of one stage. It takes the other stages from images, which *image_of* names."""

        def renamed(match: re.Match[str]) -> str:
            name = match["name"]
            return match["before"] + (image_of(name) if name in stage.stages else name)

        return self.head + _REFERENCE.sub(renamed, stage.text)


def parse(text: str) -> Dockerfile:
    """Return a Dockerfile read from *text*. Instructions that name neither an image nor a path are ignored."""
    head, *pieces = _split(text)
    names: list[str] = []
    stages = []
    for piece in pieces:
        stage = _stage(piece, names)
        stages.append(stage)
        names.append(stage.name)
    return Dockerfile(head, tuple(stages))


def _split(text: str) -> list[str]:
    """Return the text before the first FROM, then the text of each stage."""
    pieces = [""]
    for line in text.splitlines(keepends=True):
        if line.split()[:1] and line.split()[0].upper() == "FROM":
            pieces.append("")
        pieces[-1] += line
    return pieces


def _stage(text: str, earlier: list[str]) -> Stage:
    name = ""
    images: list[str] = []  # or names of stages
    sources: dict[str, None] = {}
    for line in text.replace("\\\n", " ").splitlines():
        instruction, *arguments = line.split() or [""]
        flags = [argument for argument in arguments if argument.startswith("--")]
        words = arguments[len(flags) :]
        origins = [flag.removeprefix("--from=") for flag in flags if flag.startswith("--from=")]
        images += origins
        if instruction.upper() == "FROM":
            images.append(words[0])
            name = words[2] if len(words) > 2 else ""
        elif instruction.upper() == "COPY" and not origins:
            sources.update(dict.fromkeys(words[:-1]))
    ours = [image.removeprefix(OUR_IMAGES).removesuffix(":latest") for image in images if image.startswith(OUR_IMAGES)]
    return Stage(
        name,
        text,
        tuple(dict.fromkeys(image for image in images if image in earlier)),
        tuple(dict.fromkeys(ours)),
        tuple(sources),
    )
