"""Where the runners of one language come from: the spare, the zygote, or a program of their own."""

from __future__ import annotations

import asyncio
import logging

from execd.environment import Environment
from execd.errors import ExecdError
from execd.kernel.manifest import Manifest
from execd.kernel.runner import Runner, execute
from execd.kernel.zygote import Zygote
from execd.process.reap import Reaper

log = logging.getLogger("execd")

# A new spare takes some CPU: not in the moment in which the context that took the last one begins its first run.
REFILL_S = 0.05
COLD_REFILL_S = 1.0  # nor while a program starts for a context that waits for it


class Supply:
    """Gives out runners. They may not have said Ready yet; a spare has, and has warmed up."""

    def __init__(self, manifest: Manifest, reaper: Reaper, environment: Environment) -> None:
        self.manifest = manifest
        self._reaper = reaper
        self._environment = environment
        self._zygote = Zygote(manifest, reaper, environment) if manifest.zygote else None
        self._spare: Runner | None = None
        self._refill: asyncio.TimerHandle | None = None
        self._refilling: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to make what can be made before anybody asks, in the background, unless that is under way."""
        if self._refilling is None or self._refilling.done():
            self._refilling = asyncio.get_running_loop().create_task(self._make_ahead())

    async def prepare(self) -> None:
        """Make what can be made before anybody asks, and wait for it. Cancelling stops the wait, not the making."""
        self.start()
        if self._refilling is not None:
            await asyncio.wait([self._refilling])

    async def take(self) -> Runner:
        """Return a runner that nobody else has. Cancelling it leaves nothing behind.

        Raises:
            ExecdError: `context.start_failed`.
        """
        spare, self._spare = self._spare, None
        if spare is not None and spare.is_alive():
            self._plan_refill(REFILL_S)
            return spare
        if spare is not None:
            spare.close()
        self._plan_refill(COLD_REFILL_S)
        return await self._make()

    def close(self) -> None:
        """Give up what was made beforehand."""
        if self._refill is not None:
            self._refill.cancel()
        if self._refilling is not None:
            self._refilling.cancel()
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        if self._zygote is not None:
            self._zygote.close()

    async def _make(self) -> Runner:
        if self._zygote is not None:
            return await self._zygote.fork()
        return execute(self.manifest, self._environment.prepare(), self._reaper)

    def _plan_refill(self, delay_s: float) -> None:
        if not self.manifest.spare:
            return
        loop = asyncio.get_running_loop()
        if self._refill is not None and self._refill.when() > loop.time():
            return  # it is planned; who takes one again and again must not put it off for ever
        self._refill = loop.call_later(delay_s, self.start)

    async def _make_ahead(self) -> None:
        try:
            if self.manifest.spare:
                if self._spare is None:
                    self._spare = await self._make()
            elif self._zygote is not None:
                await self._zygote.start()
        except ExecdError as error:
            log.warning("%s", error.message)  # whoever opens a context is told too
