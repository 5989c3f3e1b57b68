"""Ends sandboxes when their time has come: one task for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from controlplane.errors import SandlotError
from controlplane.lifecycle.deadlines import Deadlines

log = structlog.get_logger()

# Deadlines are wall-clock time, which can be set; so look now and then even when nothing is due.
LONGEST_SLEEP_S = 1.0
RETRY_S = 5.0


async def reap(
    deadlines: Deadlines, expire: Callable[[str, float], None], clock: Callable[[], float] = time.time
) -> None:
    """Call *expire* with every sandbox whose deadline has passed, and with the time it is. Never returns."""
    while True:
        reap_once(deadlines, expire, clock())
        due = deadlines.next_due()
        await asyncio.sleep(LONGEST_SLEEP_S if due is None else min(max(due - clock(), 0.0), LONGEST_SLEEP_S))


def reap_once(deadlines: Deadlines, expire: Callable[[str, float], None], now: float) -> None:
    """Do that once. A sandbox that cannot be ended now, because the store fails, is tried again; the others go on."""
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
