"""A local directory into which a tree of a hostile sandbox is copied: nothing is written outside of it."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Sequence

from controlplane.errors import InvalidRequest

PERMISSIONS = 0o777  # a sandbox's programs do not get more on this machine: no set-user-ID
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BELOW = _DIRECTORY | os.O_NOFOLLOW


def parts_below(root: str, path: str) -> tuple[str, ...]:
    """Return the names that lead from *root* to *path*, both paths of a sandbox.

    Raises:
        InvalidRequest: the path is not below the root, or a name could lead elsewhere.
    """
    prefix = root.rstrip("/") + "/"
    names = tuple(path[len(prefix) :].split("/")) if path.startswith(prefix) else ()
    if not names or any(name in ("", ".", "..") or "\0" in name for name in names):
        raise InvalidRequest(f"the sandbox listed {path[:200]!r}, which is not below {root[:200]!r}")
    return names


class Tree:
    """A directory that is filled. No symbolic link is followed below it, also none that was there before."""

    def __init__(self, root: str) -> None:
        """Open *root*, which is made if it does not exist. Raises OSError."""
        os.makedirs(root, exist_ok=True)
        self._root = os.open(root, _DIRECTORY)
        self._modes: list[tuple[tuple[str, ...], int, float]] = []

    def close(self) -> None:
        """Give the directories their modes, and close them. Raises OSError."""
        try:
            for names, mode, modified_at in reversed(self._modes):
                fd = self._enter(names)
                try:
                    os.fchmod(fd, mode & PERMISSIONS)
                    os.utime(fd, (modified_at, modified_at))
                finally:
                    os.close(fd)
        finally:
            os.close(self._root)

    def directory(self, names: Sequence[str], mode: int, modified_at: float) -> None:
        """Make a directory, which gets its mode at the end: its content comes before. Raises OSError."""
        os.close(self._enter(names))
        self._modes.append((tuple(names), mode, modified_at))

    def file(self, names: Sequence[str], mode: int, modified_at: float) -> File:
        """Begin a file, which appears when it is complete. Raises OSError."""
        directory = self._enter(names[:-1])
        try:
            return File(directory, names[-1], mode, modified_at)
        except BaseException:
            os.close(directory)
            raise

    def _enter(self, names: Sequence[str]) -> int:
        """Return a descriptor of a directory below, which is made if it does not exist. Raises OSError."""
        fd = os.dup(self._root)
        try:
            for name in names:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=fd)
                below = os.open(name, _BELOW, dir_fd=fd)
                os.close(fd)
                fd = below
        except BaseException:
            os.close(fd)
            raise
        return fd


class File:
    """A file that is written under another name, and takes its place at the end: that of a link, not of its target."""

    def __init__(self, directory: int, name: str, mode: int, modified_at: float) -> None:
        """Begin it in a directory, whose descriptor it owns. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                raise IsADirectoryError(f"{name} is a directory here")
        self._directory = directory
        self._name = name
        self._mode = mode
        self._modified_at = modified_at
        self._temporary = f".sandlot-{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._temporary, flags, 0o600, dir_fd=directory)

    def write(self, data: bytes) -> None:
        """Write all of *data*. Raises OSError."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def commit(self) -> None:
        """Put the file in its place. Raises OSError."""
        os.fchmod(self._fd, self._mode & PERMISSIONS)
        os.utime(self._fd, (self._modified_at, self._modified_at))
        os.rename(self._temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self._temporary = ""

    def close(self) -> None:
        """Drop the file, unless it is in its place."""
        os.close(self._fd)
        if self._temporary:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._directory)
        os.close(self._directory)
