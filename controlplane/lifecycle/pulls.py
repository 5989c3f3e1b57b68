"""Fetching the images of others: once for all who wait for the same, and to the end even when nobody waits any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

import structlog

from controlplane.errors import ImageMissing, RuntimeFailure
from controlplane.images.names import OUR_IMAGES
from controlplane.runtime.abilities import Ability
from controlplane.runtime.driver import Driver
from controlplane.sandbox import Credentials
from controlplane.settings.sections import Settings
from controlplane.tasks import Background

log = structlog.get_logger()

PullEvent = Literal["pulling", "pulled", "failed"]


class Pulls:
    """Pulls that go on."""

    def __init__(self, driver: Driver, settings: Settings, background: Background) -> None:
        self._driver = driver
        self._settings = settings
        self._background = background
        # Called with an image, what becomes of its pull, and the reason of a failure.
        self.on_pull: Callable[[str, PullEvent, str], None] = _tell_nobody
        self._running: dict[tuple[str, Credentials | None], asyncio.Future[RuntimeFailure | None]] = {}

    def may_pull(self, image: str) -> bool:
        """Return whether the server may pull an image that the engine does not have."""
        return (
            self._settings.engine.pull == "missing"
            and not image.startswith(OUR_IMAGES)
            and Ability.PULL in self._driver.abilities.can
        )

    def missing(self, asked: str, image: str) -> ImageMissing:
        """Return the error of an image that is not there and not pulled. *asked* is the caller's name for it."""
        if image.startswith(OUR_IMAGES):
            cure = f"images under {OUR_IMAGES} are built on the server's machine by `make images`, and never pulled"
        elif Ability.PULL not in (abilities := self._driver.abilities).can:
            cure = f"{abilities.engine} cannot {Ability.PULL.value}"
        else:
            cure = f'this server does not pull images ([engine] pull = "never"); `docker pull {image}` there gets it'
        stands = "" if asked == image else f"{asked} stands for {image}: "
        return ImageMissing(f"{stands}the engine has no image {image}; {cure}{self._meant(asked)}", image=image)

    def _meant(self, asked: str) -> str:
        nearest = self._settings.nearest_image(asked)
        return f"; did you mean {nearest}?" if nearest else ""

    async def pull(self, asked: str, image: str, credentials: Credentials | None, *, missing: ImageMissing) -> None:
        """Fetch an image, which the caller *asked* for by another name perhaps; *missing* is why.

        Raises:
            ImageMissing: the registry does not have it, not for these credentials, or cannot be reached.
        """
        key = (image, credentials)
        if (outcome := self._running.get(key)) is None:
            outcome = self._running[key] = asyncio.get_running_loop().create_future()
            self._background.start(self._pull(key, outcome), name="image.pull")
        if (failed := await asyncio.shield(outcome)) is not None:
            # For the caller it is the same: the image that was named cannot be had.
            raise ImageMissing(f"{failed.message}{self._meant(asked)}", image=image) from missing

    async def _pull(self, key: tuple[str, Credentials | None], outcome: asyncio.Future[RuntimeFailure | None]) -> None:
        log.info("image.pull", image=key[0])
        self.on_pull(key[0], "pulling", "")
        try:
            await self._driver.images.pull(*key)
        except RuntimeFailure as error:
            log.warning("image.pull_failed", image=key[0], error=error.message)
            self.on_pull(key[0], "failed", error.public)
            outcome.set_result(error)
        else:
            self.on_pull(key[0], "pulled", "")
            outcome.set_result(None)
        finally:
            del self._running[key]
            outcome.cancel()


def _tell_nobody(_image: str, _event: PullEvent, _message: str) -> None:
    """Stand for a listener to pulls."""
