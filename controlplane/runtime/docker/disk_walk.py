"""Measure what directories take on the disk. A program of its own, of the lowest priority: a walk takes seconds of CPU.

Standard input has JSON `{"directories": [path, …], "max_bytes": …, "max_files": …}`; standard output, in the same
order, `[[bytes, files], …]`, with null for a directory that cannot be read. A walk ends where a directory has more than
either bound, so that who has made millions of files does not keep it busy.

The owner of these directories may change them at any moment. No path below them is resolved by its name, and no
symbolic link is followed.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Entries = os._ScandirIterator[str]

# No program gets deeper by a path (PATH_MAX is 4096). Deeper directories count as more files than any limit.
MAX_DEPTH = 2100
BLOCK_BYTES = 512  # of st_blocks, whatever the file system has

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def measure(path: str, max_bytes: float, max_files: float) -> tuple[int, int] | None:
    """Return bytes and files below a directory, or what was found until one of the bounds was passed.

    None when it cannot be read. Of a file with several names, the bytes count once.
    """
    walk = _Walk()
    try:
        if not walk.enter(path, None):
            return None
        while walk.step() and walk.bytes <= max_bytes and walk.files <= max_files:
            pass
    finally:
        walk.close()
    return walk.bytes, walk.files if not walk.is_too_deep else max(walk.files, int(max_files) + 1)


class _Walk:
    """The directories that are open, from the root to where the walk is."""

    def __init__(self) -> None:
        self.bytes = self.files = 0
        self.is_too_deep = False
        self._open: list[tuple[int, Entries]] = []
        self._linked: set[int] = set()  # inodes with several names that were counted

    def enter(self, name: str, directory: int | None) -> bool:
        """Open a directory, in another one. Return whether that could be done."""
        try:
            descriptor = os.open(name, _DIRECTORY, dir_fd=directory)
        except OSError:
            return False
        self._open.append((descriptor, os.scandir(descriptor)))
        return True

    def step(self) -> bool:
        """Count one entry. Return whether there may be more."""
        if not self._open or self.is_too_deep:
            return False
        directory, entries = self._open[-1]
        entry = next(entries, None)
        if entry is None:
            self._leave()
            return True
        self.files += 1
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            return True  # gone meanwhile
        if stat.S_ISDIR(status.st_mode):
            self.is_too_deep = len(self._open) == MAX_DEPTH
            self.enter(entry.name, directory)
        elif status.st_nlink > 1:
            if status.st_ino in self._linked:
                return True
            self._linked.add(status.st_ino)
        self.bytes += status.st_blocks * BLOCK_BYTES
        return True

    def close(self) -> None:
        """Close all directories."""
        while self._open:
            self._leave()

    def _leave(self) -> None:
        directory, entries = self._open.pop()
        entries.close()
        os.close(directory)


def main() -> None:
    """Do what standard input says."""
    os.nice(19)
    order = json.load(sys.stdin)
    bounds = order["max_bytes"], order["max_files"]
    json.dump([measure(path, *bounds) for path in order["directories"]], sys.stdout)


if __name__ == "__main__":
    main()
