"""Directory trees that other processes change while execd goes through them.

A tree is walked with one open directory at a time: down by name with O_NOFOLLOW, up by `..` with a check that this is
the directory of the way down. So no symlink and no rename leads out of the tree, depth costs no descriptors, and paths
may be longer than PATH_MAX. Code that goes through a whole tree is a generator, so that it runs in turns and can be
stopped.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator
from typing import NamedTuple

from execd.errors import ExecdError
from execd.files.disk import Steps
from execd.files.paths import PATH_MAX_BYTES, text

MAX_DIRECTORY_ENTRIES = 100_000  # of one directory: a sorted listing must hold all its names
SWEEP_DIRECTORIES = 1_000  # a removal notes so many subdirectories at a time
MAX_REFILLS = 3  # so often others may put something new into a directory that is being removed
COPY_BYTES = 1 << 20

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK

# The errors of O_NOFOLLOW if something else has taken the place.
_NO_DIRECTORY = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Descent:
    """A place in a tree: one open directory, and the way back."""

    def __init__(self, fd: int) -> None:
        """Begin at an open directory. The object owns the descriptor."""
        self.fd = fd
        self._above: list[tuple[int, int]] = []

    def enter(self, name: str) -> None:
        """Go down. Raises OSError; it is one of _NO_DIRECTORY if *name* is not a directory any more."""
        here = os.fstat(self.fd)
        fd = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=self.fd)
        self._above.append((here.st_dev, here.st_ino))
        os.close(self.fd)
        self.fd = fd

    def leave(self) -> None:
        """Go up. Raises OSError if the directory was moved elsewhere meanwhile."""
        fd = os.open("..", DIRECTORY, dir_fd=self.fd)
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != self._above.pop():
            os.close(fd)
            raise OSError(errno.ESTALE, "the directory was moved while execd was in it")
        os.close(self.fd)
        self.fd = fd

    def close(self) -> None:
        """Close the open directory."""
        os.close(self.fd)


class Entry(NamedTuple):
    """An entry of a tree. `found` is None if its stat was not wanted."""

    path: str
    found: os.stat_result | None


def walk(root: str, depth: int | None, wanted: Callable[[str, bool], bool] | None = None) -> Steps[Entry]:
    """Yield what is below a directory: each directory before its content, names in order.

    A symlink is an entry like any other. An entry is left out if it vanishes meanwhile, may not be read, or lies deeper
    than a path can express. `wanted` (path below the root, whether it is a directory) saves the stat of other entries.

    Raises:
        OSError: about the root.
        ExecdError: `request.invalid`: a directory has too many entries to be listed.
    """
    prefix = "" if root == "/" else root
    descent = Descent(os.open(root, DIRECTORY))
    try:
        paths = [""]  # below the root, of the directories that are open
        levels = [iter(_names(descent.fd))]
        while levels:
            for name, is_directory in levels[-1]:
                path = f"{paths[-1]}/{name}" if paths[-1] else name
                found = None
                if wanted is None or wanted(path, is_directory):
                    try:
                        found = os.stat(name, dir_fd=descent.fd, follow_symlinks=False)
                    except OSError:
                        continue
                yield Entry(f"{prefix}/{path}", found)
                if is_directory and (depth is None or len(levels) < depth) and len(path) < PATH_MAX_BYTES:
                    try:
                        descent.enter(name)
                    except OSError:
                        continue
                    paths.append(path)
                    levels.append(iter(_names(descent.fd)))
                    break
            else:
                levels.pop()
                paths.pop()
                if levels:
                    descent.leave()
    finally:
        descent.close()


def _names(fd: int) -> list[tuple[str, bool]]:
    names: list[tuple[str, bool]] = []
    with os.scandir(fd) as entries:
        for entry in entries:
            names.append((entry.name, _is_directory(entry)))
            if len(names) > MAX_DIRECTORY_ENTRIES:
                raise ExecdError("request.invalid", f"a directory holds more than {MAX_DIRECTORY_ENTRIES} entries")
    names.sort()
    return names


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


# -- removals


class _Level:
    """A directory that is being emptied."""

    __slots__ = ("directories", "name", "refills", "swept")

    def __init__(self, name: str) -> None:
        self.name = name
        self.directories: list[str] = []  # found and not yet removed
        self.swept = False  # as far as known, only `directories` are left in it
        self.refills = 0


def remove(parent_fd: int, name: str) -> Steps[None]:
    """Remove a directory with all its content, one step for each entry. Never follow a symlink.

    Raises:
        OSError: the reason why something could not be removed. What was removed before stays removed.
    """
    descent = Descent(os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent_fd))
    try:
        levels = [_Level(name)]
        while levels:
            level = levels[-1]
            if level.directories:
                child = level.directories.pop()
                if _enter_or_unlink(descent, child):
                    levels.append(_Level(child))
            elif not level.swept:
                level.swept = yield from _sweep(descent.fd, level.directories)
            else:
                levels.pop()
                if levels:
                    descent.leave()
                _remove_emptied(level, levels, descent.fd if levels else parent_fd)
            yield
    finally:
        descent.close()


def _enter_or_unlink(descent: Descent, name: str) -> bool:
    try:
        descent.enter(name)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY:
            raise
        try:
            os.unlink(name, dir_fd=descent.fd)  # a symlink or file has taken its place
        except FileNotFoundError:
            pass
        return False
    return True


def _sweep(fd: int, directories: list[str]) -> Generator[None, None, bool]:
    """Unlink everything but directories, and note the directories. Return whether all entries have been seen."""
    with os.scandir(fd) as entries:
        for entry in entries:
            if not _is_directory(entry):
                try:
                    os.unlink(entry.name, dir_fd=fd)
                except FileNotFoundError:
                    pass
                except IsADirectoryError:
                    directories.append(entry.name)
            else:
                directories.append(entry.name)
            yield
            if len(directories) >= SWEEP_DIRECTORIES:
                return False
    return True


def _remove_emptied(level: _Level, above: list[_Level], parent_fd: int) -> None:
    try:
        os.rmdir(level.name, dir_fd=parent_fd)
    except FileNotFoundError:
        pass
    except OSError as error:
        # There is something in it again, or something else has its name. Try again, but not for ever.
        counted = above[-1] if above else level
        if error.errno not in {errno.ENOTEMPTY, errno.ENOTDIR} or counted.refills >= MAX_REFILLS:
            raise
        counted.refills += 1
        if above:
            counted.directories.append(level.name)
        else:
            level.swept = False  # the walk is still in it
            above.append(level)


# -- copies


def copy(source_fd: int, source: str, target_fd: int, target: str) -> Steps[None]:
    """Copy a file, symlink, FIFO or tree to a free name, with modes and times, and with owners if permitted.

    Raises:
        OSError: It could not be copied. Remove what was copied.
        ExecdError: `file.not_regular`: the tree contains a socket or device.
    """
    found = os.stat(source, dir_fd=source_fd, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        yield from _copy_leaf(source_fd, source, target_fd, target, found)
        return
    os.mkdir(target, 0o700, dir_fd=target_fd)
    reading = Descent(os.open(source, DIRECTORY | os.O_NOFOLLOW, dir_fd=source_fd))
    writing = Descent(os.open(target, DIRECTORY | os.O_NOFOLLOW, dir_fd=target_fd))
    try:
        levels = [(found, iter(_names(reading.fd)))]
        while levels:
            for name, is_directory in levels[-1][1]:
                inner = os.stat(name, dir_fd=reading.fd, follow_symlinks=False)
                if is_directory:
                    os.mkdir(name, 0o700, dir_fd=writing.fd)
                    reading.enter(name)
                    writing.enter(name)
                    levels.append((inner, iter(_names(reading.fd))))
                    break
                yield from _copy_leaf(reading.fd, name, writing.fd, name, inner)
            else:
                _dress(writing.fd, levels.pop()[0])
                if levels:
                    reading.leave()
                    writing.leave()
            yield
    finally:
        reading.close()
        writing.close()


def _copy_leaf(source_fd: int, source: str, target_fd: int, target: str, found: os.stat_result) -> Steps[None]:
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(source, dir_fd=source_fd), target, dir_fd=target_fd)
        _own(target, found, target_fd)
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target_fd, follow_symlinks=False)
    elif stat.S_ISFIFO(found.st_mode):
        os.mkfifo(target, 0o600, dir_fd=target_fd)
        _own(target, found, target_fd)
        os.chmod(target, stat.S_IMODE(found.st_mode), dir_fd=target_fd)
    elif stat.S_ISREG(found.st_mode):
        yield from _copy_content(source_fd, source, target_fd, target, found)
    else:
        raise ExecdError("file.not_regular", f"{text(source)}: a socket or device cannot be moved elsewhere")
    yield


def _copy_content(source_fd: int, source: str, target_fd: int, target: str, found: os.stat_result) -> Steps[None]:
    reading = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source_fd)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        writing = os.open(target, flags, 0o600, dir_fd=target_fd)
        try:
            while os.sendfile(writing, reading, None, COPY_BYTES):
                yield
            _dress(writing, found)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _dress(fd: int, found: os.stat_result) -> None:
    try:
        os.fchown(fd, found.st_uid, found.st_gid)
    except PermissionError:
        pass  # execd is not root: the copy belongs to execd, as with mv
    os.fchmod(fd, stat.S_IMODE(found.st_mode))
    os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))


def _own(name: str, found: os.stat_result, dir_fd: int) -> None:
    try:
        os.chown(name, found.st_uid, found.st_gid, dir_fd=dir_fd, follow_symlinks=False)
    except PermissionError:
        pass  # as in _dress()
