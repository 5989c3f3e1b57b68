"""How late timers of the event loop come: how long everything else would have had to wait."""

from __future__ import annotations

import asyncio

from controlplane.telemetry.families import Histogram

LOOK_S = 0.25


async def watch_lag(lag: Histogram) -> None:
    """Set a timer four times a second, and note how late it came. Never returns."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LOOK_S
        await asyncio.sleep(LOOK_S)
        lag.observe(max(0.0, loop.time() - due))
