"""Fetching the images of others: once for all who wait for the same, and to the end even when nobody waits any more."""

from __future__ import annotations

import asyncio
from typing import Literal

import structlog

from controlplane.errors import ImageMissing, RuntimeFailure
from controlplane.runtime.driver import Driver
from controlplane.sandbox import Credentials
from controlplane.tasks import Background

log = structlog.get_logger()

# These are built here; a registry that has some by that name has somebody else's.
OUR_IMAGES = "sandlot/"


class Pulls:
    """Pulls that go on."""

    def __init__(self, driver: Driver, policy: Literal["missing", "never"], background: Background) -> None:
        self._driver = driver
        self._policy = policy
        self._background = background
        self._running: dict[tuple[str, Credentials | None], asyncio.Future[RuntimeFailure | None]] = {}

    def may_pull(self, image: str) -> bool:
        """Whether an image that the engine does not have may be fetched."""
        return self._policy == "missing" and not image.startswith(OUR_IMAGES)

    async def pull(self, image: str, credentials: Credentials | None, *, missing: ImageMissing) -> None:
        """Fetch an image; *missing* is why.

        Raises:
            ImageMissing: the registry does not have it, not for these credentials, or cannot be reached.
        """
        key = (image, credentials)
        if (outcome := self._running.get(key)) is None:
            outcome = self._running[key] = asyncio.get_running_loop().create_future()
            self._background.start(self._pull(key, outcome), name="image.pull")
        if (failed := await asyncio.shield(outcome)) is not None:
            # For the caller it is the same: the image that was named cannot be had.
            raise ImageMissing(failed.message, image=image) from missing

    async def _pull(self, key: tuple[str, Credentials | None], outcome: asyncio.Future[RuntimeFailure | None]) -> None:
        log.info("image.pull", image=key[0])
        try:
            await self._driver.pull(*key)
        except RuntimeFailure as error:
            log.warning("image.pull_failed", image=key[0], error=error.message)
            outcome.set_result(error)
        else:
            outcome.set_result(None)
        finally:
            del self._running[key]
            outcome.cancel()
