"""The CPU time and the memory that the process of a context uses during a run."""

from __future__ import annotations

import os
import time

_CPUCLOCK_SCHED = 2  # of a process with all of its threads; see clock_getcpuclockid(3)
# After the name, in /proc/PID/stat: user time of the children that were waited for; their system time follows.
_CUTIME = 13
_RESET_PEAK = b"5"  # see proc_pid_clear_refs(5)
_PAGE = 8192


class Usage:
    """A reader of the process's files in /proc. A value that the kernel does not report is 0."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ticks_s = 1 / os.sysconf("SC_CLK_TCK")
        self._own_s = 0.0
        self._children_s = self._children()

    def begin(self) -> None:
        """Begin to count."""
        self._own_s = self._own()
        try:
            fd = os.open(f"/proc/{self.pid}/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, _RESET_PEAK)
            finally:
                os.close(fd)
        except OSError:
            pass  # the peak is then that since the start of the process

    def cpu_s(self, life_s: float = 0.0) -> float:
        """Return the CPU time since `begin` in seconds, with that of the children that were waited for.

        Call this once for each run.

        *life_s* is the CPU time of the whole life of the process, if the process has ended.
        """
        if life_s:
            return max(0.0, life_s - self._own_s - self._children_s)
        before_s, self._children_s = self._children_s, self._children()
        return max(0.0, self._own() - self._own_s) + max(0.0, self._children_s - before_s)

    def peak_memory_bytes(self) -> int:
        """Return the largest resident memory since `begin`."""
        found = self._read("status").partition(b"VmHWM:")[2].split(maxsplit=1)
        return int(found[0]) * 1024 if found else 0

    def _own(self) -> float:
        try:
            return time.clock_gettime((~self.pid << 3) | _CPUCLOCK_SCHED)
        except OSError:
            return 0.0

    def _children(self) -> float:
        fields = self._read("stat").rpartition(b")")[2].split(maxsplit=_CUTIME + 2)
        return sum(map(int, fields[_CUTIME : _CUTIME + 2])) * self._ticks_s

    def _read(self, name: str) -> bytes:
        try:
            fd = os.open(f"/proc/{self.pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return os.read(fd, _PAGE)
            finally:
                os.close(fd)
        except OSError:
            return b""
