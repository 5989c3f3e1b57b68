"""News of the warm pools: a busy pool changes with every claim, and its state is told a few times a second at most."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from controlplane.lifecycle.events.bus import Bus
from controlplane.lifecycle.events.news import PoolNews
from controlplane.pool.plan import Template
from controlplane.pool.pool import Pool

STEP_S = 0.1


class PoolWatch:
    """Tells the states of the pools that have changed.

    Args:
        names: The name of each configured pool; of pools that share a template, the first.
    """

    def __init__(self, pool: Pool, bus: Bus, names: Mapping[Template, str]) -> None:
        self._pool = pool
        self._bus = bus
        self._names = names
        self._told: dict[Template, PoolNews] = {}
        self._timer: asyncio.TimerHandle | None = None
        pool.on_change = self.look_soon
        bus.on_listening.append(self.look_soon)

    def look_soon(self) -> None:
        """Tell what has changed, soon."""
        if self._timer is None and self._bus.is_heard:
            self._timer = asyncio.get_running_loop().call_later(STEP_S, self._look)

    def states(self) -> Sequence[PoolNews]:
        """Return the present states of all configured pools, in the order of the settings."""
        return list(self._states().values())

    def _states(self) -> dict[Template, PoolNews]:
        found = self._pool.shelves()
        return {
            template: PoolNews(
                name=name,
                image=template.image,
                target=shelf.target,
                idle=shelf.warm,
                starting=shelf.starting,
                hits=shelf.hits,
                misses=shelf.misses,
                problem=shelf.trouble,
            )
            for template, name in self._names.items()
            if (shelf := found.get(template)) is not None
        }

    def _look(self) -> None:
        self._timer = None
        states = self._states()
        for template, news in states.items():
            if self._told.get(template) != news:
                self._bus.publish(news)
        self._told = states
