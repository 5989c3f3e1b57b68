"""Disk space reserved for the ends of sandboxes, which the store must write even on a full disk."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

FILE = "reserve"
RESERVE_BYTES = 16 << 20  # enough for a thousand ends and more, until an operator makes room
SMALL_DISK_SHARE = 8  # on a small disk, at most one part in so many


class Reserve:
    """A file that takes disk space until the store needs it."""

    def __init__(self, directory: Path) -> None:
        """Take the room, or that of an earlier run. `is_kept` says whether this succeeded."""
        self._path = directory / FILE
        self.is_kept = False
        self.keep()

    def keep(self) -> bool:
        """Take the room, unless the disk is full. Return whether it is taken."""
        if not self.is_kept:
            self.is_kept = self._take()
        return self.is_kept

    def release(self) -> bool:
        """Give the room back. Return whether the reserve had any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        finally:
            self.is_kept = False
        return True

    def _take(self) -> bool:
        try:
            disk = os.statvfs(self._path.parent)
            size = min(RESERVE_BYTES, disk.f_blocks * disk.f_frsize // SMALL_DISK_SHARE)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            with contextlib.suppress(OSError):
                self._path.unlink()
            return False
        finally:
            os.close(descriptor)
        return True
