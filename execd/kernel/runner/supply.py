"""The supply of runners of one language: the spare, those that a zygote forks, and programs of their own."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from execd.errors import ExecdError
from execd.kernel.runner.manifest import Manifest
from execd.kernel.runner.process import Runner, execute
from execd.kernel.runner.work import Work
from execd.kernel.runner.zygote import Zygote
from execd.launch.environment import Environment
from execd.metrics import free_memory_bytes
from execd.process.limits import Limits
from execd.process.reap import Reaper

log = logging.getLogger("execd")

# A new spare takes some CPU: it must not start in the moment in which the context that took the last one begins to run.
REFILL_S = 0.05


class Supply:
    """Gives out runners. A runner may not have said Ready yet; a spare has, and has warmed up.

    A zygote that preloads libraries takes a second to start. A context that is asked for earlier gets a runner of a
    second zygote, which starts at once because it preloads nothing. That zygote ends when the first one is ready.
    """

    def __init__(
        self, manifest: Manifest, reaper: Reaper, environment: Environment, limits: Limits, work: Work
    ) -> None:
        self.manifest = manifest
        self._reaper = reaper
        self._environment = environment
        self._work = work
        self._zygote: Zygote | None = None
        self._bare: Zygote | None = None
        if manifest.zygote:
            self._zygote = Zygote(manifest, reaper, environment, limits)
            if manifest.preload:
                self._bare = Zygote(msgspec.structs.replace(manifest, preload=()), reaper, environment, limits)
                work.watch(self._make_way)
        self._was_ready = self._was_skipped = False
        self._spare: Runner | None = None
        self._refill: asyncio.TimerHandle | None = None
        self._refilling: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to make in the background what can be made before a context is asked for, unless that is going on."""
        if self._refilling is None or self._refilling.done():
            self._refilling = asyncio.get_running_loop().create_task(self._make_ahead())

    async def prepare(self) -> None:
        """Make what can be made before a context is asked for. Return when it is made, or held because contexts work.

        Cancelling stops the wait, not the work.
        """
        self.start()
        begun = asyncio.ensure_future(self._work.begun())
        try:
            if self._refilling is not None:
                await asyncio.wait([self._refilling, begun], return_when=asyncio.FIRST_COMPLETED)
        finally:
            begun.cancel()

    async def take(self) -> Runner:
        """Return a runner that no context has. If the call is cancelled, nothing is left behind.

        Raises:
            ExecdError: `context.start_failed`.
        """
        spare, self._spare = self._spare, None
        if spare is not None and spare.is_alive():
            self._plan_refill()
            return spare
        if spare is not None:
            spare.close()
        return await self._make()

    def close(self) -> None:
        """Discard what was made beforehand."""
        self._work.unwatch(self._make_way)
        if self._refill is not None:
            self._refill.cancel()
        if self._refilling is not None:
            self._refilling.cancel()
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        for zygote in (self._zygote, self._bare):
            if zygote is not None:
                zygote.close()

    async def _make(self) -> Runner:
        if self._zygote is None:
            return execute(self.manifest, self._environment.prepare(), self._reaper)
        if self._bare is not None and not self._zygote.is_ready:
            if self._was_ready:  # the zygote has died
                self._plan_refill()
            try:
                return await self._bare.fork()
            except ExecdError:
                if not self._zygote.is_ready:
                    raise
                # The zygote became ready meanwhile, and the second one has ended.
        return await self._zygote.fork()

    def _plan_refill(self) -> None:
        loop = asyncio.get_running_loop()
        if self._refill is not None and self._refill.when() > loop.time():
            return  # it is planned; frequent callers must not postpone it for ever
        self._refill = loop.call_later(REFILL_S, self.start)

    async def _make_ahead(self) -> None:
        try:
            if self._zygote is not None and self._has_room():
                self._make_way()
                await self._zygote.start()
                self._was_ready = True
                if self._bare is not None:
                    self._bare.retire()
            if self.manifest.spare and self._spare is None:
                self._spare = await self._make()
        except ExecdError as error:
            log.warning("%s", error.message)  # a client that opens a context gets the same message

    def _has_room(self) -> bool:
        """Return whether the preload fits into the memory that is left.

        When memory runs out, the kernel kills the preloading zygote, but also a context that asks for memory before
        that of the zygote is free again.
        """
        if self._zygote is None or self._zygote.is_ready or self._bare is None:
            return True
        free = free_memory_bytes() >> 20
        if has_room := free >= self.manifest.preload_mib:
            return has_room
        if not self._was_skipped:
            language, needs = self.manifest.language, self.manifest.preload_mib
            log.warning("%s: not preloaded: that takes %d MiB, and %d MiB are free", language, needs, free)
            self._was_skipped = True
        return False

    def _make_way(self) -> None:
        """Hold the preloading while contexts start or run code: contexts have the CPU first."""
        if self._zygote is not None:
            self._zygote.hold(is_held=self._work.goes_on)
