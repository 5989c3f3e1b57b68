"""The relations of processes, read from /proc: parents, children and members of process groups."""

from __future__ import annotations

import os

_TICKS = os.sysconf("SC_CLK_TCK")


def parent_of(pid: int) -> int:
    """Return the id of a process's parent.

    Return 0 if the process does not exist, or has no parent in this container.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def listeners_in(group: int, number: int) -> dict[int, float]:
    """Return the members of a process group, except its leader, that do not ignore a signal.

    Returns:
        Process id → the time when the process was created, by CLOCK_BOOTTIME in seconds.
    """
    found = {}
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
                fields = file.read().rpartition(b")")[2].split()
            if int(fields[2]) == group != pid and not int(fields[30]) >> (number - 1) & 1:
                found[pid] = int(fields[19]) / _TICKS
        except (OSError, ValueError, IndexError):
            pass  # the process has ended
    return found


def first_child_of(pid: int) -> int:
    """Return the id of a process's oldest living child. Return 0 if it has none."""
    return min(
        (one for one in map(int, filter(str.isdecimal, os.listdir("/proc"))) if parent_of(one) == pid), default=0
    )
