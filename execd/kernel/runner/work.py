"""The present work of contexts. While a context starts or runs code, preparations are held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Work:
    """A count of pieces of work. A `with` block is one piece."""

    def __init__(self) -> None:
        self._count = 0
        self._watchers: list[Callable[[], None]] = []
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def goes_on(self) -> bool:
        """Whether any work goes on."""
        return self._count > 0

    def watch(self, changed: Callable[[], None]) -> None:
        """Call *changed* when the first piece of work begins, and when the last one ends."""
        self._watchers.append(changed)

    def unwatch(self, changed: Callable[[], None]) -> None:
        """Do not call *changed* any more. Do nothing if it was not registered."""
        if changed in self._watchers:
            self._watchers.remove(changed)

    async def begun(self) -> None:
        """Return when work goes on."""
        if self.goes_on:
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def __enter__(self) -> None:
        self._count += 1
        if self._count == 1:
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_result(None)
            self._tell()

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if not self._count:
            self._tell()

    def _tell(self) -> None:
        for changed in self._watchers:
            changed()
