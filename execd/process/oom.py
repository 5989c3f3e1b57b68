"""The scores that the kernel's out-of-memory killer compares. `limits.py` has the counts of what it killed."""

from __future__ import annotations

import contextlib
import os

SCORE_FILE = "/proc/self/oom_score_adj"
# As if a child used half of the memory limit more than it does: every child dies before execd does.
CHILD_SCORE = 500
MAX_SCORE = 1000


def swap_score(pid: int, score: int) -> int | None:
    """Give a process another score. Return its former score, or None if the kernel refuses."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", "r+b", buffering=0) as file:
            before = int(file.read())
            file.seek(0)
            file.write(b"%d" % score)
    except (OSError, ValueError):
        return None
    return before


def keep_score_file() -> None:
    """Open the score of this process for good. A process that forbids tracing can open it later only as root."""
    global _kept  # noqa: PLW0603 - the process has one score
    with contextlib.suppress(OSError):
        _kept = os.open(SCORE_FILE, os.O_RDWR | os.O_CLOEXEC)


_kept = -1


class RaisedScore:
    """A context manager in which children are born with a raised score.

    The score of this process is raised for the moment of the fork, and restored after it. Afterwards would be too late:
    the child may have forked already, or belong to a user whose files in /proc execd may not write. To restore a score
    needs no right. If /proc is missing or refuses, everything works with less protection.

    Args:
        path: The file of the score. None: the file that `keep_score_file()` has opened, or else that of this process.
    """

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._fd = -1
        self._own = 0

    def __enter__(self) -> None:
        try:
            is_kept = self._path is None and _kept >= 0
            self._fd = os.dup(_kept) if is_kept else os.open(self._path or SCORE_FILE, os.O_RDWR)
            self._own = int(os.pread(self._fd, 16, 0))
            os.pwrite(self._fd, b"%d" % min(self._own + CHILD_SCORE, MAX_SCORE), 0)
        except (OSError, ValueError):
            self._close()

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            try:
                os.pwrite(self._fd, b"%d" % self._own, 0)
            except OSError:
                pass  # cannot happen: the kernel lets a process restore its former score
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
