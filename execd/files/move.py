"""Operations on whole entries of a file system: create, move and remove them by path."""

from __future__ import annotations

import errno
import os
import stat

from execd.files import tree
from execd.files.disk import Steps
from execd.files.paths import make_parents, unmake
from execd.files.write import Attributes, temporary_name

NEW_DIRECTORY_MODE = 0o755

_PARENT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def lstat(path: str) -> os.stat_result | None:
    """Return the stat of a path, without following symlinks; None if nothing exists there. Raises OSError."""
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def make_directory(path: str, attributes: Attributes) -> None:
    """Create a directory and its parents. A directory that exists only gets its attributes.

    Raises:
        OSError: NotADirectoryError if something else exists there. What was created is removed again.
    """
    made = make_parents(path)
    try:
        try:
            os.mkdir(path, NEW_DIRECTORY_MODE)
            made.append(path)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(path).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        attributes.apply(path)
    except BaseException:
        unmake(made)
        raise


def remove_directory(path: str) -> Steps[None]:
    """Remove a directory with all its content, in steps. Raises OSError as `tree.remove()` does."""
    parent = os.open(os.path.dirname(path), _PARENT)
    try:
        yield from tree.remove(parent, os.path.basename(path))
    finally:
        os.close(parent)


def move(source: str, destination: str) -> Steps[None]:
    """Rename an entry. Copy and remove it where a rename is impossible.

    This is the case in another file system, or in one that is made of layers.
    The destination appears whole or not at all. The caller has checked that it is free. What appears there meanwhile is
    replaced, because Python has no renameat2.

    Raises:
        OSError: The kernel refused. The source is unchanged, unless the kernel refused to remove what had been copied.
        ExecdError: `file.not_regular`: a socket or device cannot be copied.
    """
    made = make_parents(destination)
    try:
        try:
            os.rename(source, destination)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            yield from _move_across(source, destination)
    except BaseException:
        unmake(made)
        raise
    yield


def _move_across(source: str, destination: str) -> Steps[None]:
    (from_path, name), (to_path, new_name) = os.path.split(source), os.path.split(destination)
    from_fd = os.open(from_path, _PARENT)
    try:
        to_fd = os.open(to_path, _PARENT)
        try:
            temporary = temporary_name()
            try:
                yield from tree.copy(from_fd, name, to_fd, temporary)
                os.rename(temporary, new_name, src_dir_fd=to_fd, dst_dir_fd=to_fd)
            except BaseException:
                for _ in _erase(to_fd, temporary):
                    pass  # also while the steps are being closed, and must not yield
                raise
            yield from _erase(from_fd, name)
        finally:
            os.close(to_fd)
    finally:
        os.close(from_fd)


def _erase(parent_fd: int, name: str) -> Steps[None]:
    try:
        found = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        yield from tree.remove(parent_fd, name)
    else:
        os.unlink(name, dir_fd=parent_fd)
