"""Work that may wait for a disk, done off the event loop.

Small files are read and written on the loop itself: that takes some 20 µs, and a thread adds 45 µs (measured). All
other work runs here in short turns, so that neither a slow disk nor a tree of a million files stops the rest of execd.
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

# Long work. A `yield` is a point at which the work may pause or be closed.
Steps: TypeAlias = Generator[T, None, None]

THREADS = 4  # a thread costs memory in every sandbox; more threads would only queue in the kernel
TURN_STEPS = 256
TURN_S = 0.02


class Disk:
    """At most THREADS threads for all requests together."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in a thread. Return what it returns, or raise what it raises.

        If the call is cancelled, it first waits for the function to end: the thread uses what the caller will close.
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
                future.cancel()  # drop the function if it has not begun
                cancelled = error
        if cancelled is not None:
            if not done.cancelled():
                done.exception()  # asyncio would log an exception that nobody retrieves
            raise cancelled
        return done.result()

    async def turn(self, steps: Steps[T]) -> list[T]:
        """Run steps for a short while. Return what they yielded; [] at the end.

        Other requests run between two turns. If the call is cancelled, or a step raises, the steps are closed first.
        """
        try:
            return await self.run(_turn, steps)
        except BaseException:
            await self.run(steps.close)  # the cleanup may take as long
            raise

    async def finish(self, steps: Steps[T]) -> T | None:
        """Run all steps and return the last one. Errors and cancellation are those of `turn()`."""
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
