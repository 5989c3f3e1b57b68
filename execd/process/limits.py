"""How often the kernel has enforced a limit of this container."""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

# In cgroup v2 and v1, as a container sees its own group.
KILL_FILES = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
REFUSAL_FILES = ("/sys/fs/cgroup/pids.events", "/sys/fs/cgroup/pids/pids.events")

# The kernel sends KILL if memory runs out; a shell reports that end of its child with this status.
KILLED_CODE = 128 + signal.SIGKILL


class Hits(NamedTuple):
    """Counts since the container was created."""

    kills: int  # processes that were killed because memory ran out
    refusals: int  # new processes and threads that were refused

    def since(self, before: Hits) -> tuple[str, ...]:
        """Return the names of the limits that were met after an earlier reading: `memory`, `pids`."""
        met = {"memory": self.kills > before.kills, "pids": self.refusals > before.refusals}
        return tuple(name for name, is_met in met.items() if is_met)


class Limits:
    """A reader of the counts. A count that the kernel does not report is 0."""

    def __init__(
        self, kill_files: tuple[str, ...] = KILL_FILES, refusal_files: tuple[str, ...] = REFUSAL_FILES
    ) -> None:
        self._kills = _Counter(kill_files, b"oom_kill ")
        self._refusals = _Counter(refusal_files, b"max ")

    def hits(self) -> Hits:
        """Return the present counts."""
        return Hits(self._kills.read(), self._refusals.read())


class _Counter:
    """One line of one file. The file stays open, because every run and every process reads it twice."""

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
