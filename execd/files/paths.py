"""Paths as callers write them, made into ones that hold no surprise; and the kernel's refusals in our words."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from execd.errors import ExecdError

PATH_MAX_BYTES = 4095  # Linux: 4096 with the NUL at the end
NAME_MAX_BYTES = 255

_CODES = {
    errno.ENOENT: "file.not_found",
    errno.EEXIST: "file.exists",
    errno.EISDIR: "file.is_directory",
    errno.ENOTDIR: "file.not_directory",
    errno.ENXIO: "file.not_regular",  # a socket, or a FIFO that nobody reads
    errno.ENODEV: "file.not_regular",
    errno.ELOOP: "file.bad_path",
    errno.ENAMETOOLONG: "file.bad_path",
    errno.EACCES: "file.denied",
    errno.EPERM: "file.denied",
    errno.EROFS: "file.denied",
    errno.ENOSPC: "file.no_space",
    errno.EDQUOT: "file.no_space",
    errno.EFBIG: "file.no_space",
}


def absolute(path: str, cwd: str, home: str) -> str:
    """Return *path* as an absolute one without empty and `.` components; `~` is *home*, relative means below *cwd*.

    `..` is refused: what it means depends on symlinks, which other processes change meanwhile.

    Raises:
        ExecdError: file.bad_path, with the reason.
    """
    if not path:
        raise ExecdError("file.bad_path", "the path is empty")
    if "\0" in path:
        raise ExecdError("file.bad_path", f"{path!r}: a path cannot hold a NUL byte")
    components = _components(path)
    if ".." in components:
        raise ExecdError("file.bad_path", f"{path}: `..` is not allowed in a path; write the path that you mean")
    if any(len(os.fsencode(component)) > NAME_MAX_BYTES for component in components):
        raise ExecdError("file.bad_path", f"{path[:80]}…: a component is longer than {NAME_MAX_BYTES} bytes")
    if path == "~" or path.startswith("~/"):
        components[:1] = _base(os.path.join(cwd, home))
    elif not path.startswith("/"):
        components[:0] = _base(cwd)
    path = "/" + "/".join(components)
    if len(os.fsencode(path)) > PATH_MAX_BYTES:
        raise ExecdError("file.bad_path", f"{path[:80]}…: longer than {PATH_MAX_BYTES} bytes")
    return path


def _base(directory: str) -> list[str]:
    # The sandbox's own directories may be written with `..`; what they mean is then looked up.
    components = _components(directory)
    return _components(os.path.realpath(directory)) if ".." in components else components


def _components(path: str) -> list[str]:
    return [component for component in path.split("/") if component not in {"", "."}]


def text(name: str) -> str:
    """Return a name from the file system as it can travel: bytes that are no UTF-8 become U+FFFD."""
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "replace")


def refusal(error: OSError, path: str) -> ExecdError:
    """Say in our words what the kernel said of *path*."""
    code = _CODES.get(error.errno or 0, "file.failed")
    return ExecdError(code, f"{text(path)}: {error.strerror or error}")


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Turn an OSError inside into an ExecdError about *path*, which is as the caller wrote it."""
    try:
        yield
    except OSError as error:
        raise refusal(error, path) from error


def make_parents(path: str) -> list[str]:
    """Make the missing directories above the absolute *path*; return those made, outermost first."""
    missing: list[str] = []
    parent = os.path.dirname(path)
    while not os.path.lexists(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    made: list[str] = []
    try:
        for directory in reversed(missing):
            try:
                os.mkdir(directory, 0o755)
            except FileExistsError:
                continue  # somebody else was faster
            made.append(directory)
    except OSError:
        unmake(made)
        raise
    return made


def unmake(directories: list[str]) -> None:
    """Take back what `make_parents()` made, as far as nothing has been put into it."""
    for directory in reversed(directories):
        try:
            os.rmdir(directory)
        except OSError:
            return
