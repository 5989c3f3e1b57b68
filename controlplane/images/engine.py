"""The engine as builds and publications need it: a build, an image and its labels, and typed errors."""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any, Protocol

import aiohttp
from aiodocker import Docker, DockerError

from controlplane.errors import EngineUnavailable, ImageBuildFailed, ImageError
from controlplane.runtime.docker.engine import NO_CONNECTION, NOT_FOUND

INPUTS_LABEL = "sandlot.inputs"

VERSION_LABEL = "sandlot.version"

TAIL_LINES = 25

_STEP = re.compile(r"Step (\d+/\d+ : .*)")

Progress = Callable[[str], None]
"""A function that takes one line of text for a person."""


class _Readable(Protocol):
    def read(self, length: int = ..., /) -> bytes: ...


async def build_from(
    engine: Docker,
    name: str,
    context: _Readable,
    *,
    dockerfile: str,
    tag: str,
    labels: Mapping[str, str],
    arguments: Mapping[str, str],
    progress: Progress,
    on_step: Progress = lambda _: None,
) -> None:
    step = "the start of the build"
    tail: deque[str] = deque(maxlen=TAIL_LINES)
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
                    shown = textwrap.shorten(started[1], 100, placeholder=" …")
                    progress(f"{name}: {shown}")
                    on_step(shown)
                else:
                    tail.append(line)
    except DockerError as error:
        raise ImageBuildFailed(name, step, [*tail, error.message]) from error
    if not finished:
        raise ImageBuildFailed(name, step, [*tail, "the engine broke off without an answer"])


def version() -> str:
    """Return the version of this distribution, as the label of images has it."""
    try:
        return metadata.version("sandlot")
    except metadata.PackageNotFoundError:
        return "0+unknown"


async def inspect_image(engine: Docker, reference: str) -> dict[str, Any] | None:
    try:
        return await engine.images.inspect(reference)
    except DockerError as error:
        if error.status == NOT_FOUND:
            return None
        raise


def labels_of(image: Mapping[str, Any]) -> dict[str, str]:
    return image["Config"].get("Labels") or {}


@contextlib.contextmanager
def engine_errors() -> Iterator[None]:
    try:
        yield
    except aiohttp.ClientError as error:
        raise EngineUnavailable(f"the container engine does not answer: {error}") from error
    except DockerError as error:
        if error.status == NO_CONNECTION:
            raise EngineUnavailable(f"the container engine does not answer: {error.message}") from error
        raise ImageError(f"the container engine refused: {error.message}", status=error.status) from error
