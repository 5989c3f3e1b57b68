"""The builds of a quick first start: the images of the warm pools before serving, and the others meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from aiodocker import Docker

from controlplane.errors import SandlotError
from controlplane.images import build, pages, publish, recipes
from controlplane.images.names import with_tag


class Builds:
    """The builds of one `sandlot serve --build`."""

    def __init__(self, engine: Docker, images_dir: Path, announce: Callable[[str], None]) -> None:
        self._engine = engine
        self._images_dir = images_dir
        self._announce = announce
        self._waiting = {recipe.tag for recipe in recipes.read_recipes(images_dir)}  # until each is built

    async def begin(self, names: Sequence[str]) -> None:
        """Build the agent and Sandlot's own ones of these images, as far as a server needs them to begin.

        Raises:
            BadImageFolder, ImageBuildFailed, EngineUnavailable: see `build_images`.
        """
        tags = {with_tag(name) for name in names} | {publish.EXECD_IMAGE}
        ours = [recipe.name for recipe in recipes.read_recipes(self._images_dir) if recipe.tag in tags]
        await build.build_images(self._engine, self._images_dir, ours, self._announce, first=True)

    async def finish(
        self, changed: Callable[[str], None], told: Callable[[build.BuildStep], None] = lambda _: None
    ) -> None:
        """Build all images completely. Call *changed* with the name of each image that has changed.

        *told* is called with what becomes of each build.

        A failed image does not stop the others. Raises what `begin` raises, after all builds have ended.
        """

        def built(result: build.BuildResult) -> None:
            if result.rebuilt:
                changed(result.tag)

        try:
            await self._bring_pages(built, told)
            await build.build_images(self._engine, self._images_dir, None, self._announce, built=built, told=told)
        finally:
            self._waiting.clear()  # including failed ones: no build of them follows

    async def _bring_pages(
        self, built: Callable[[build.BuildResult], None], told: Callable[[build.BuildStep], None]
    ) -> None:
        """Build and publish the console before the larger images, because a person may be waiting for its pages."""
        if pages.CONSOLE_IMAGE not in self._waiting:
            return
        try:
            await build.build_images(
                self._engine, self._images_dir, ["console"], self._announce, built=built, told=told
            )
            await pages.publish_pages(self._engine, self._announce)
        except SandlotError as error:
            self._announce(f"{error.message}\nconsole: `sandlot images build console` tries again")

    def reason(self, image: str) -> str:
        """Return why an image is not there yet; "" for one that no build will bring."""
        if with_tag(image) not in self._waiting:
            return ""
        return f"{image} is being built for the first time: try again in a few minutes (the server prints the progress)"


def is_same_image(one: str, other: str) -> bool:
    """Return whether two names mean the same image. A name without a tag means `latest`."""
    return with_tag(one) == with_tag(other)
