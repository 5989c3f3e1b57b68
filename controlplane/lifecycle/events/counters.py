"""The counters of the server, told once a second while a client listens, and the lag of its event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from controlplane.lifecycle.events.bus import Bus
from controlplane.tasks import Background

INTERVAL_S = 1.0
PROBES = 10  # of the lag in each interval


class Totals(NamedTuple):
    """What the other parts of the server count."""

    sandboxes: dict[str, int]  # by state
    warm: int
    requests: int
    runs: int


class Counters(msgspec.Struct, frozen=True, kw_only=True, tag="counters"):
    """The counters, without a number, once a second."""

    at: float  # Unix time, s
    sandboxes: dict[str, int]  # by state
    warm: int  # warm containers of all pools
    requests: int  # since the start
    runs: int  # likewise, of commands and code that ended
    cpu: float  # cores that the server's process has used in this second
    loop_lag_s: float  # the longest time in this second for which the server served nobody
    listeners: int


class Ticker:
    """Tells the counters while a client listens.

    Args:
        read: Return the sandboxes by state, and the numbers of warm containers, requests and runs.
    """

    def __init__(
        self,
        bus: Bus,
        background: Background,
        read: Callable[[], Totals],
    ) -> None:
        self._bus = bus
        self._background = background
        self._read_totals = read
        self._is_running = False
        bus.on_listening.append(self.start)

    def start(self) -> None:
        """Begin, unless that has been done."""
        if not self._is_running:
            self._is_running = True
            self._background.start(self._tell_while_heard(), name="events.counters")

    async def _tell_while_heard(self) -> None:
        try:
            began, cpu = time.monotonic(), time.process_time()
            while self._bus.listeners:
                lag = await _longest_lag()
                now, used = time.monotonic(), time.process_time()
                share = (used - cpu) / (now - began) if now > began else 0.0
                began, cpu = now, used
                self._bus.tell_latest(msgspec.json.encode(self._read(share, lag)))
        finally:
            self._is_running = False

    def _read(self, cpu: float, lag_s: float) -> Counters:
        totals = self._read_totals()
        return Counters(
            at=round(time.time(), 3),
            sandboxes=totals.sandboxes,
            warm=totals.warm,
            requests=totals.requests,
            runs=totals.runs,
            cpu=round(cpu, 3),
            loop_lag_s=round(lag_s, 4),
            listeners=self._bus.listeners,
        )


async def _longest_lag() -> float:
    """Wait for an interval; return by how much the longest of its parts was late, in s."""
    loop, longest = asyncio.get_running_loop(), 0.0
    for _ in range(PROBES):
        due = loop.time() + INTERVAL_S / PROBES
        await asyncio.sleep(INTERVAL_S / PROBES)
        longest = max(longest, loop.time() - due)
    return longest
