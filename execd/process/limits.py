"""How often this container ran into its limits, as the kernel counts it."""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

# cgroup v2 and v1, as a container sees its own.
KILL_FILES = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
REFUSAL_FILES = ("/sys/fs/cgroup/pids.events", "/sys/fs/cgroup/pids/pids.events")

# For want of memory the kernel sends KILL; this is how a shell reports that end of its child.
KILLED_CODE = 128 + signal.SIGKILL


class Hits(NamedTuple):
    """Counts since the container was made."""

    kills: int  # of processes, for want of memory
    refusals: int  # of new processes and threads

    def since(self, before: Hits) -> tuple[str, ...]:
        """Name the limits that were met after an earlier reading: `memory`, `pids`."""
        met = {"memory": self.kills > before.kills, "pids": self.refusals > before.refusals}
        return tuple(name for name, is_met in met.items() if is_met)


class Limits:
    """Reads the counts; 0 where the kernel does not tell."""

    def __init__(
        self, kill_files: tuple[str, ...] = KILL_FILES, refusal_files: tuple[str, ...] = REFUSAL_FILES
    ) -> None:
        self._kills = _Counter(kill_files, b"oom_kill ")
        self._refusals = _Counter(refusal_files, b"max ")

    def hits(self) -> Hits:
        """Return the counts of now."""
        return Hits(self._kills.read(), self._refusals.read())


class _Counter:
    """One line of one file, which stays open: it is read at the begin and the end of everything that runs."""

    def __init__(self, paths: tuple[str, ...], name: bytes) -> None:
        self._name = name
        self._fd = -1
        for path in paths:
            try:
                self._fd = os.open(path, os.O_RDONLY)
                break
            except OSError:
                continue

    def read(self) -> int:
        if self._fd < 0:
            return 0
        try:
            text = os.pread(self._fd, 4096, 0)
        except OSError:
            return 0
        for line in text.splitlines():
            if line.startswith(self._name):
                return int(line.split()[1])
        return 0
