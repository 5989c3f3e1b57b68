"""Paths of clients, made absolute and checked; and the kernel's errors as errors of execd."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from execd.errors import Code, ExecdError

PATH_MAX_BYTES = 4095  # Linux: 4096 with the NUL at the end
NAME_MAX_BYTES = 255

_CODES: dict[int, Code] = {
    errno.ENOENT: "file.not_found",
    errno.EEXIST: "file.exists",
    errno.EISDIR: "file.is_directory",
    errno.ENOTDIR: "file.not_directory",
    errno.ENXIO: "file.not_regular",  # a socket, or a FIFO that no process reads
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
    """Return *path* as an absolute path without empty and `.` components.

    `~` is *home*, and relative paths are below *cwd*.
    `..` is refused: its meaning depends on symlinks, which other processes change meanwhile.

    Raises:
        ExecdError: `file.bad_path`, with the reason.
    """
    if not path:
        raise ExecdError("file.bad_path", "the path is empty")
    if "\0" in path:
        raise ExecdError("file.bad_path", f"{path!r}: a path cannot contain a NUL byte")
    components = _components(path)
    if ".." in components:
        raise ExecdError("file.bad_path", f"{path}: `..` is not allowed in a path; write the path without it")
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
    # The sandbox's own directories may be written with `..`, which is then resolved.
    components = _components(directory)
    return _components(os.path.realpath(directory)) if ".." in components else components


def _components(path: str) -> list[str]:
    return [component for component in path.split("/") if component not in {"", "."}]


def text(name: str) -> str:
    """Return a name of the file system as text for the link. Bytes that are not UTF-8 become U+FFFD."""
    if name.isascii():
        return name
    return os.fsencode(name).decode("utf-8", "replace")


def refusal(error: OSError, path: str) -> ExecdError:
    """Return the error of execd for an error of the kernel about *path*."""
    code = _CODES.get(error.errno or 0, "file.failed")
    return ExecdError(code, f"{text(path)}: {error.strerror or error}")


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Raise an OSError of the block as an ExecdError about *path*, in the client's spelling."""
    try:
        yield
    except OSError as error:
        raise refusal(error, path) from error


def make_parents(path: str) -> list[str]:
    """Create the missing directories above the absolute *path*. Return those that were created, the outermost first."""
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
                continue  # another process was faster
            made.append(directory)
    except OSError:
        unmake(made)
        raise
    return made


def unmake(directories: list[str]) -> None:
    """Remove what `make_parents()` has created, as far as it is still empty."""
    for directory in reversed(directories):
        try:
            os.rmdir(directory)
        except OSError:
            return
