"""The watch over processes that start. A start may take long, but a process that does nothing is given up."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

TICK_S = 5.0
TICKS = 12  # without any use of the CPU: a minute
_CPUCLOCK_SCHED = 2  # see execd/kernel/usage.py
_SESSION = 3  # indices in /proc/PID/stat, after the name
_UTIME, _STIME = 11, 12


class Progress:
    """Calls `on_stuck` when the processes of a session have used no CPU for TICKS times TICK_S seconds.

    The time is counted in ticks, so a sandbox that was paused meanwhile has lost no more than one tick.
    """

    def __init__(self, pid: Callable[[], int], on_stuck: Callable[[], None]) -> None:
        """Watch a session. *pid* returns its leader, or 0 while the leader is unknown."""
        self._pid = pid
        self._on_stuck = on_stuck
        self._timer: asyncio.TimerHandle | None = None
        self._used = -1.0
        self._idle = 0
        self.is_held = False  # execd itself has stopped the processes

    def begin(self) -> None:
        """Begin to watch."""
        if self._timer is None:
            self._used, self._idle = -1.0, 0
            self._wait()

    def end(self) -> None:
        """Stop watching. Repeated calls are harmless."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        used = cpu_s_of_session(self._pid())
        self._idle = 0 if used != self._used or self.is_held else self._idle + 1
        self._used = used
        if self._idle < TICKS:
            self._wait()
            return
        self._timer = None
        self._on_stuck()


def stuck() -> str:
    """Return what is said of a process that is given up."""
    return f"did nothing for {TICK_S * TICKS:g} s"


def cpu_s_of_session(leader: int) -> float:
    """Return the CPU time in seconds that the living processes of a session have used; 0 if there are none."""
    if leader <= 0:
        return 0.0
    ticks = sum(_ticks(pid, leader) for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))))
    return ticks / os.sysconf("SC_CLK_TCK") + _exact(leader)


def _exact(pid: int) -> float:
    """Return the CPU time of one process, finer than a tick: a process that only polls uses less than a tick."""
    try:
        return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)
    except OSError:
        return 0.0


def _ticks(pid: int, session: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read().rpartition(b")")[2].split()
        return int(fields[_UTIME]) + int(fields[_STIME]) if int(fields[_SESSION]) == session else 0
    except (OSError, ValueError, IndexError):
        return 0
