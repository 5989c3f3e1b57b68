"""Work that may wait for a disk, off the event loop.

Small files are read and written on the loop itself: that takes some 20 µs, a thread costs 45 µs on top (measured). All
else runs here in short turns, so that neither a slow disk nor a tree of a million files stops the rest of execd.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

P = ParamSpec("P")
T = TypeVar("T")

# Long work, cut where it may pause or be closed.
Steps: TypeAlias = Generator[T, None, None]

THREADS = 4  # a thread costs memory in every sandbox; more would only queue in the kernel
TURN_STEPS = 256
TURN_S = 0.02


class Disk:
    """At most THREADS threads for all requests together."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in a thread and return what it returns, or raise what it raises.

        When cancelled, it first waits for the function to end: the thread uses what the caller will close.
        """
        if self._threads is None:
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 — most sandboxes never need it

            self._threads = ThreadPoolExecutor(THREADS, "disk")
        future = self._threads.submit(function, *args, **kwargs)
        done = asyncio.wrap_future(future)
        cancelled: asyncio.CancelledError | None = None
        while not done.done():
            try:
                await asyncio.wait([done])
            except asyncio.CancelledError as error:
                future.cancel()  # if it has not begun, it need not
                cancelled = error
        if cancelled is not None:
            if not done.cancelled():
                done.exception()  # seen
            raise cancelled
        return done.result()

    async def turn(self, steps: Steps[T]) -> list[T]:
        """Advance for a short while; return what was yielded, [] when it has ended.

        Between two turns others get their chance. Cancelled, or when a step raises, it closes the steps first.
        """
        try:
            return await self.run(_turn, steps)
        except BaseException:
            await self.run(steps.close)  # to clean up may take as long
            raise

    async def finish(self, steps: Steps[T]) -> T | None:
        """Go through all steps, return the last one. Errors and cancelling as in `turn()`."""
        last = None
        while turn := await self.turn(steps):
            last = turn[-1]
        return last


def _turn(steps: Steps[T]) -> list[T]:
    stop_at = time.monotonic() + TURN_S
    taken: list[T] = []
    for step in steps:
        taken.append(step)
        if len(taken) >= TURN_STEPS or time.monotonic() >= stop_at:
            break
    return taken
