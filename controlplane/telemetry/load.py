"""What all sandboxes use together of the machine: CPU and memory, looked at every few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from controlplane.errors import SandlotError
from controlplane.runtime.driver import Containers, Load

log = structlog.get_logger()

LOOK_S = 5.0
NOTHING = Load(0.0, 0)


class Loads:
    """The use of sandboxes at the last look.

    `sandboxes` returns the sandboxes that may run, with the ids of their containers.
    """

    def __init__(self, containers: Containers, sandboxes: Callable[[], Mapping[str, str]]) -> None:
        self._containers = containers
        self._sandboxes = sandboxes
        self.by_sandbox: dict[str, Load] = {}
        self.cpu_s = 0.0  # of all sandboxes since the start of the server, also of those that have ended
        self.is_known = False  # whether the use of any sandbox could be seen so far
        self._has_looked = False

    @property
    def memory_bytes(self) -> int:
        """The memory of all sandboxes."""
        return sum(load.memory_bytes for load in self.by_sandbox.values())

    async def watch_forever(self) -> None:
        """Look every few seconds. Never returns."""
        while True:
            try:
                await self.look()
            except SandlotError as error:
                log.warning("load.not_measured", error=error.message)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once. Of a sandbox that an earlier run of the server has made, only what it does from now on counts."""
        sandboxes = self._sandboxes()
        found = await self._containers.load(sandboxes.values())
        now = {sandbox: found[container] for sandbox, container in sandboxes.items() if container in found}
        for sandbox_id, load in now.items():
            before = self.by_sandbox.get(sandbox_id, NOTHING if self._has_looked else load)
            self.cpu_s += max(0.0, load.cpu_s - before.cpu_s)
        self.by_sandbox = now
        self._has_looked = True
        self.is_known = self.is_known or bool(now)
