"""What the kernel's out-of-memory killer needs to know beforehand; `limits.py` has what it tells afterwards."""

from __future__ import annotations

import os

SCORE_FILE = "/proc/self/oom_score_adj"
# Half of the memory limit more than they use: whatever was started here dies before execd does.
CHILD_SCORE = 500
MAX_SCORE = 1000


class RaisedScore:
    """A context in which children are born with a raised score.

    Set on ourselves for the moment of the fork and taken back, because afterwards the child may have forked already,
    or belong to a user whose files in /proc we may not write. Going back to where we were needs no right. Where /proc
    is missing or does not let us, everything works, with less protection.
    """

    def __init__(self, path: str = SCORE_FILE) -> None:
        self._path = path
        self._fd = -1
        self._own = 0

    def __enter__(self) -> None:
        try:
            self._fd = os.open(self._path, os.O_RDWR)
            self._own = int(os.pread(self._fd, 16, 0))
            os.pwrite(self._fd, b"%d" % min(self._own + CHILD_SCORE, MAX_SCORE), 0)
        except (OSError, ValueError):
            self._close()

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            try:
                os.pwrite(self._fd, b"%d" % self._own, 0)
            except OSError:
                pass  # cannot be: the kernel lets a process go back to where it was
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
