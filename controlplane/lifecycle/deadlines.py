"""Deadlines of sandboxes: one heap for all of them, and one task that acts on those that have passed."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable

import structlog

from controlplane.errors import SandlotError

log = structlog.get_logger()

# Deadlines are wall-clock time, which can be set. The task therefore looks now and then even when nothing is due.
LONGEST_SLEEP_S = 1.0
RETRY_S = 5.0


class Deadlines:
    """Deadlines by sandbox id, in Unix seconds. Changing one leaves its old entry in the heap, to be skipped later."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._due)

    def set(self, sandbox_id: str, due: float) -> None:
        """Set or change a deadline."""
        self._due[sandbox_id] = due
        heapq.heappush(self._heap, (due, sandbox_id))
        if len(self._heap) > 2 * len(self._due) + 64:  # mostly old entries: one sandbox renewed again and again
            self._heap = [(due, sandbox_id) for sandbox_id, due in self._due.items()]
            heapq.heapify(self._heap)

    def drop(self, sandbox_id: str) -> None:
        """Forget a deadline. Idempotent."""
        self._due.pop(sandbox_id, None)

    def next_due(self) -> float | None:
        """Return the earliest deadline."""
        while self._heap:
            due, sandbox_id = self._heap[0]
            if self._due.get(sandbox_id) == due:
                return due
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now: float) -> list[str]:
        """Return the sandboxes whose deadline has passed, earliest first, and forget those deadlines."""
        expired = []
        while (due := self.next_due()) is not None and due <= now:
            _, sandbox_id = heapq.heappop(self._heap)
            del self._due[sandbox_id]
            expired.append(sandbox_id)
        return expired


async def reap(
    deadlines: Deadlines, expire: Callable[[str, float], None], clock: Callable[[], float] = time.time
) -> None:
    """Call *expire* with every sandbox whose deadline has passed, and with the time it is. Never returns."""
    while True:
        reap_once(deadlines, expire, clock())
        due = deadlines.next_due()
        await asyncio.sleep(LONGEST_SLEEP_S if due is None else min(max(due - clock(), 0.0), LONGEST_SLEEP_S))


def reap_once(deadlines: Deadlines, expire: Callable[[str, float], None], now: float) -> None:
    """Run one pass: end every sandbox whose deadline has passed.

    A sandbox that cannot be ended now, because the store fails, is tried again. The other sandboxes still end.
    """
    for sandbox_id in deadlines.pop_due(now):
        try:
            expire(sandbox_id, now)
        except SandlotError as error:
            log.warning("sandbox.expire_failed", sandbox=sandbox_id, error=error.message, retry_s=RETRY_S)
            deadlines.set(sandbox_id, now + RETRY_S)
        except Exception:
            # A bug. Without this task, no deadline would be enforced any more.
            log.exception("sandbox.expire_broken", sandbox=sandbox_id)
            deadlines.set(sandbox_id, now + RETRY_S)
