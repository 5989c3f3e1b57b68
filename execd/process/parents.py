"""Whose child a process is, as /proc tells."""

from __future__ import annotations

import os


def parent_of(pid: int) -> int:
    """Return the number of its parent; 0 when there is no such process, or it has none here."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def first_child_of(pid: int) -> int:
    """Return the number of its oldest living child; 0 when there is none."""
    return min(
        (one for one in map(int, filter(str.isdecimal, os.listdir("/proc"))) if parent_of(one) == pid), default=0
    )
