"""Builds of images whose inputs changed: parents first, and independent images at the same time.

A label of an image holds the hash of all its inputs. The image is rebuilt only when this hash changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aiodocker import Docker, DockerError

from controlplane.images.debian import BOOTSTRAP, debian_base
from controlplane.images.dockerfile import Stage
from controlplane.images.engine import (
    INPUTS_LABEL,
    VERSION_LABEL,
    Progress,
    build_from,
    engine_errors,
    inspect_image,
    labels_of,
    version,
)
from controlplane.images.names import OUR_IMAGES
from controlplane.images.recipes import FIRST_STAGE, STAGE_DOCKERFILE, Recipe, read_recipes

# Settings of the host that a build needs too, passed on only if set. They do not count as inputs: an image built
# through another mirror is the same image.
_FORWARDED = (
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "NPM_CONFIG_REGISTRY"),
)

TAGGING_S = 60
"""The age from which an image without a name is a leftover: the engine names an image right after its last step."""


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The result for one image. `seconds` is the time of its build, 0 if it was current; `size` is in bytes."""

    name: str
    tag: str
    image_id: str
    rebuilt: bool
    seconds: float
    size: int


@dataclass(frozen=True, slots=True)
class BuildStep:
    """What becomes of the build of one image. `step` is the number and the text of a step, `message` a failure."""

    tag: str
    event: Literal["building", "built", "failed"]
    step: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class ImageStatus:
    """The status of one image for `sandlot doctor`. `version` and `size` (bytes) are None if the image is missing."""

    name: str
    tag: str
    state: Literal["current", "outdated", "missing"]
    version: str | None
    size: int | None


async def image_status(engine: Docker, images_dir: Path, names: Sequence[str] | None = None) -> list[ImageStatus]:
    """Return which images exist, and whether they were built from the present inputs. Change nothing.

    Raises:
        BadImageFolder: a folder is missing or invalid.
        EngineUnavailable: the engine does not answer.
    """
    recipes = await asyncio.to_thread(read_recipes, images_dir, names)  # it reads some hundred files
    with engine_errors():
        return [_status(recipe, await inspect_image(engine, recipe.tag)) for recipe in recipes]


def _status(recipe: Recipe, image: Mapping[str, Any] | None) -> ImageStatus:
    if image is None:
        return ImageStatus(recipe.name, recipe.tag, "missing", None, None)
    state: Literal["current", "outdated"] = (
        "current" if labels_of(image).get(INPUTS_LABEL) == recipe.digest else "outdated"
    )
    return ImageStatus(recipe.name, recipe.tag, state, labels_of(image).get(VERSION_LABEL), image["Size"])


async def build_images(
    engine: Docker,
    images_dir: Path,
    names: Sequence[str] | None,
    progress: Progress,
    *,
    first: bool = False,
    built: Callable[[BuildResult], None] = lambda _: None,
    told: Callable[[BuildStep], None] = lambda _: None,
) -> list[BuildResult]:
    """Build the images *names* (all, if None) and their parents unless they are current, independent ones at once.

    *progress* gets a line for each build step. The results have the order of dependency. With *first*, an image that
    was never built is only built up to its stage `first`, which stands in for the image.

    A failed image only stops the images that are built upon it: *built* is called with each of the others, and the
    first failure is raised after all builds have ended. *told* is called with what becomes of each image that is built.

    Raises:
        BadImageFolder: a folder is missing or invalid.
        ImageBuildFailed: a build step failed.
        EngineUnavailable: the engine does not answer.
    """
    recipes = read_recipes(images_dir, names)
    wanted = [recipe.name for recipe in recipes] if names is None else list(names)
    needed = recipes
    stand_ins: set[str] = set()
    if first:
        with engine_errors():
            stand_ins = {one.name for one in recipes if one.first and await _is_unfinished(engine, one)}
        kept = reach(recipes, wanted, stand_ins)
        needed = [recipe for recipe in recipes if recipe.name in kept]
    return await _Builder(engine, images_dir, progress, stand_ins, built, told).build(needed)


def reach(recipes: Sequence[Recipe], names: Sequence[str], stand_ins: Collection[str]) -> set[str]:
    """Return the names of these images and of their ancestors, without those of a stand-in's other stages."""
    by_name = {recipe.name: recipe for recipe in recipes}
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        recipe = by_name[waiting.pop()]
        if recipe.name not in found:
            found.add(recipe.name)
            waiting += _stand_in_parents(recipe) if recipe.name in stand_ins else recipe.parents
    return found


def _stand_in_parents(recipe: Recipe) -> tuple[str, ...]:
    return tuple(parent for stage in recipe.dockerfile.needed_by(FIRST_STAGE) for parent in stage.parents)


async def _is_unfinished(engine: Docker, recipe: Recipe) -> bool:
    """Return whether an image was never built completely: it is missing, or its stage `first` stands in for it."""
    image = await inspect_image(engine, recipe.tag)
    stage = await inspect_image(engine, recipe.stage_tag(FIRST_STAGE))
    return image is None or (stage is not None and stage["Id"] == image["Id"])


class _Builder:
    """One round of builds: every image, and every stage of one, starts as soon as its inputs exist."""

    def __init__(
        self,
        engine: Docker,
        images_dir: Path,
        progress: Progress,
        stand_ins: Collection[str],
        built: Callable[[BuildResult], None],
        told: Callable[[BuildStep], None],
    ) -> None:
        self._engine = engine
        self._images_dir = images_dir
        self._progress = progress
        self._stand_ins = stand_ins
        self._built = built
        self._told = told
        self._images: dict[str, asyncio.Task[BuildResult]] = {}

    async def build(self, recipes: Sequence[Recipe]) -> list[BuildResult]:
        """Build images, which are sorted by dependency."""
        # A TaskGroup would cancel the other images after a failure.
        for recipe in recipes:
            self._images[recipe.name] = asyncio.ensure_future(self._bring_up_to_date(recipe))
        try:
            await asyncio.gather(*self._images.values(), return_exceptions=True)
        except asyncio.CancelledError:
            await asyncio.wait(self._images.values())  # they are cancelled too
            raise
        # Images built upon a failed image fail with the same error, so the first error is enough.
        for task in self._images.values():
            if (failure := task.exception()) is not None:
                while isinstance(failure, BaseExceptionGroup):
                    failure = failure.exceptions[0]
                raise failure from None
        with engine_errors():
            await _remove_leftovers(self._engine)
        return [task.result() for task in self._images.values()]

    async def _bring_up_to_date(self, recipe: Recipe) -> BuildResult:
        result = await self._ensure_current(recipe)
        self._built(result)
        return result

    async def _ensure_current(self, recipe: Recipe) -> BuildResult:
        is_stand_in = recipe.name in self._stand_ins
        with engine_errors():
            image = await inspect_image(self._engine, recipe.tag)
            if image is not None and (is_stand_in or labels_of(image).get(INPUTS_LABEL) == recipe.digest):
                return BuildResult(recipe.name, recipe.tag, image["Id"], rebuilt=False, seconds=0.0, size=image["Size"])
            began = time.monotonic()
            await self._told_of(recipe, self._stand_in(recipe) if is_stand_in else self._build(recipe))
            if image is not None:
                await _remove_unused(self._engine, image["Id"])
            image = await self._engine.images.inspect(recipe.tag)
        seconds = time.monotonic() - began
        self._progress(f"{recipe.name}: done in {seconds:.1f} s, {image['Size'] / 1e6:.0f} MB")
        return BuildResult(recipe.name, recipe.tag, image["Id"], rebuilt=True, seconds=seconds, size=image["Size"])

    async def _told_of(self, recipe: Recipe, work: Coroutine[Any, Any, None]) -> None:
        """Do the work of a build, and tell how it begins and ends."""
        self._told(BuildStep(recipe.tag, "building"))
        try:
            await work
        except BaseException as error:
            self._told(BuildStep(recipe.tag, "failed", message=_reason(error)))
            raise
        self._told(BuildStep(recipe.tag, "built"))

    def _steps_of(self, recipe: Recipe) -> Callable[[str], None]:
        return lambda step: self._told(BuildStep(recipe.tag, "building", step))

    async def _stand_in(self, recipe: Recipe) -> None:
        await self._build_stages(recipe, recipe.dockerfile.needed_by(FIRST_STAGE))
        await self._engine.images.tag(recipe.stage_tag(FIRST_STAGE), repo=f"{OUR_IMAGES}{recipe.name}", tag="latest")

    async def _build(self, recipe: Recipe) -> None:
        *stages, last = recipe.dockerfile.stages
        await self._build_stages(recipe, stages)
        await self._wait_for(recipe.parents)
        self._progress(f"{recipe.name}: building")
        arguments = _forwarded()
        if (self._images_dir / recipe.name / BOOTSTRAP).is_file():
            arguments["DEBIAN"] = await debian_base(self._engine, self._images_dir / recipe.name, self._progress)
        await build_from(
            self._engine,
            recipe.name,
            recipe.context_of(last),
            dockerfile=STAGE_DOCKERFILE,
            tag=recipe.tag,
            labels={INPUTS_LABEL: recipe.digest, VERSION_LABEL: version()},
            arguments=arguments,
            progress=self._progress,
            on_step=self._steps_of(recipe),
        )

    async def _build_stages(self, recipe: Recipe, stages: Sequence[Stage]) -> None:
        """Build and keep stages, each after the stages that it needs."""
        tasks: dict[str, asyncio.Task[None]] = {}

        async def build(stage: Stage) -> None:
            await self._wait_for(stage.parents)
            for name in stage.stages:
                await tasks[name]
            await self._build_stage(recipe, stage)

        async with asyncio.TaskGroup() as group:
            for stage in stages:
                tasks[stage.name] = group.create_task(build(stage))

    async def _build_stage(self, recipe: Recipe, stage: Stage) -> None:
        tag = recipe.stage_tag(stage.name)
        with engine_errors():
            before = await inspect_image(self._engine, tag)
            await build_from(
                self._engine,
                f"{recipe.name}.{stage.name}",
                recipe.context_of(stage),
                dockerfile=STAGE_DOCKERFILE,
                tag=tag,
                labels={},
                arguments=_forwarded(),
                progress=self._progress,
                on_step=self._steps_of(recipe),
            )
            if before is not None:
                await _remove_unused(self._engine, before["Id"])

    async def _wait_for(self, names: Sequence[str]) -> None:
        for name in names:
            await asyncio.shield(self._images[name])


def _reason(error: BaseException) -> str:
    """Return why a build failed, in a line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error).partition("\n")[0] or type(error).__name__


def _forwarded() -> dict[str, str]:
    return {key: value for key in _FORWARDED if (value := os.environ.get(key))}


async def _remove_leftovers(engine: Docker) -> None:
    """Remove images of Sandlot that were in use when newer images took their names.

    An operator's images built upon Sandlot's inherit the labels, but end with other steps.
    """
    for image in await engine.images.list(filters={"dangling": ["true"], "label": [INPUTS_LABEL]}):
        with contextlib.suppress(DockerError):
            steps: Any = await engine.images.history(image["Id"])  # a list, although aiodocker's type differs
            is_whole = f"LABEL {VERSION_LABEL}=" in steps[0]["CreatedBy"]
            if is_whole and time.time() - image["Created"] > TAGGING_S:
                await _remove_unused(engine, image["Id"])


async def _remove_unused(engine: Docker, image_id: str) -> None:
    """Remove an image that has lost its name, unless a container or a snapshot needs it."""
    with contextlib.suppress(DockerError):
        if not (await engine.images.inspect(image_id))["RepoTags"]:
            await engine.images.delete(image_id)
