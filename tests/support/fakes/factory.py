"""Where the pool's containers come from, under a test's thumb: each start and each adoption ends when the test says."""

from __future__ import annotations

import asyncio
from collections import Counter

from controlplane.errors import RuntimeFailure
from controlplane.pool.plan import Template
from controlplane.pool.shelf import Warm


class Start:
    """One start that goes on, or one adoption that waits for its agent."""

    def __init__(self, template: Template) -> None:
        self.template = template
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def finish(self) -> None:
        """The container is up."""
        self.outcome.set_result(None)

    def fail(self, error: Exception) -> None:
        """It did not come up."""
        self.outcome.set_exception(error)


class Factory:
    """`provision`, `ready`, `prepare`, `discard` and `is_alive` for a Pool, with books."""

    def __init__(self) -> None:
        self.starts: list[Start] = []  # that go on now, oldest first
        self.adoptions: dict[str, Start] = {}
        self.made: dict[str, Warm] = {}
        self.dead: set[str] = set()
        self.prepared: list[str] = []
        self.discarded: Counter[str] = Counter()
        self.abandoned = 0  # starts that were cancelled, and cleaned up
        self.most_starts = 0
        self.broken_discard = False

    async def provision(self, template: Template) -> Warm:
        """As `Provisioner.provision`."""
        start = Start(template)
        self.starts.append(start)
        self.most_starts = max(self.most_starts, len(self.starts))
        try:
            await start.outcome
        except asyncio.CancelledError:
            self.abandoned += 1
            raise
        finally:
            self.starts.remove(start)
        return self.make(template)

    def make(self, template: Template) -> Warm:
        """A container that is up."""
        warm = Warm(f"s{len(self.made)}", f"c{len(self.made)}", template)
        self.made[warm.sandbox_id] = warm
        return warm

    async def ready(self, warm: Warm) -> None:
        """As the wait for the agent of a container of an earlier run."""
        self.adoptions[warm.sandbox_id] = Start(warm.template)
        try:
            await self.adoptions[warm.sandbox_id].outcome
        finally:
            del self.adoptions[warm.sandbox_id]

    async def prepare(self, warm: Warm) -> None:
        """As `Provisioner.prepare`."""
        self.prepared.append(warm.sandbox_id)

    async def discard(self, warm: Warm) -> None:
        """As `Provisioner.discard`."""
        self.discarded[warm.sandbox_id] += 1
        if self.broken_discard:
            raise RuntimeFailure("the engine hangs")

    def is_alive(self, warm: Warm) -> bool:
        """As whether there is a link."""
        return warm.sandbox_id not in self.dead
