"""An event loop whose time passes only when a test says so: timers and timeouts without waiting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

# More turns of the loop than any chain of wake-ups in our code is long.
TURNS = 30


class VirtualLoop(asyncio.SelectorEventLoop):
    """Use it for code that awaits nothing but futures, tasks and timers: no sockets, no threads."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def time(self) -> float:
        """The loop's clock."""
        return self.now

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work*, which must end without time passing."""
        return self.run_until_complete(work)

    def settle(self) -> None:
        """Let everything happen that can happen now."""
        self.run_until_complete(_turn())

    def advance(self, seconds: float) -> None:
        """Let time pass, in one jump, and what it brings happen."""
        self.now += seconds
        self.settle()


async def _turn() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


@contextlib.contextmanager
def virtual_time() -> Iterator[VirtualLoop]:
    """A loop of its own; no task may be left in it at the end."""
    loop = VirtualLoop()
    try:
        yield loop
        left = [task.get_name() for task in asyncio.all_tasks(loop)]
        assert not left, f"tasks left: {left}"
    finally:
        loop.close()
