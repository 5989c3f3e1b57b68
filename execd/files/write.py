"""Writing files whole: into a new file beside the old one, which takes its place when it is complete.

There is no fsync: a sandbox does not outlive its machine. Other hard links of a replaced file keep the old content.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Generator, Sequence
from itertools import islice

from execd.errors import ExecdError
from execd.files.disk import Steps
from execd.files.paths import make_parents, unmake
from execd.files.read import SMALL_BYTES, check_regular, open_regular

MAX_LINKS = 40  # as the kernel's own limit
MAX_VECTOR = 1024  # IOV_MAX: pieces that one writev takes
STEP_BYTES = 1 << 20
NEW_MODE = 0o644
# Neither these bits nor what they were granted for survive new content: the kernel drops them on a write, too.
SET_ID = stat.S_ISUID | stat.S_ISGID


def temporary_name() -> str:
    """Return a hidden name that nobody else has."""
    return f".sandlot-{os.urandom(8).hex()}.tmp"


class Attributes:
    """Mode, user and group to be given to a file; None leaves what it has."""

    __slots__ = ("gid", "mode", "uid")

    def __init__(self, mode: int | None = None, uid: int | None = None, gid: int | None = None) -> None:
        if mode is not None and not 0 <= mode <= 0o7777:
            raise ExecdError("request.invalid", f"mode {mode:#o} is not one of permission bits")
        self.mode = mode
        self.uid = uid
        self.gid = gid

    def apply(self, target: int | str) -> None:
        """Set them, the owner first: a change of owner clears bits of the mode. Raises OSError."""
        if self.uid is not None or self.gid is not None:
            os.chown(target, -1 if self.uid is None else self.uid, -1 if self.gid is None else self.gid)
        if self.mode is not None:
            os.chmod(target, self.mode)


class Replacement:
    """New content on its way to a path. Exactly one of `commit()` and `discard()` ends it.

    Parents are made. When the path is a symlink, what it leads to is replaced, or made, like with a shell's `>`.
    A file that exists keeps its mode and owner unless told otherwise.
    """

    def __init__(self, path: str, attributes: Attributes) -> None:
        """Find the place and make the new file.

        Raises:
            OSError: the kernel refused. Nothing is left behind, as with the following.
            ExecdError: file.is_directory, file.not_regular.
        """
        self.size = 0
        self._made = make_parents(path)
        self._attributes = attributes
        self._directory = -1
        try:
            self._directory, self._name, self._old = _find_target(path)
            self._temporary = temporary_name()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._temporary, flags, 0o600, dir_fd=self._directory)
        except BaseException:
            if self._directory >= 0:
                os.close(self._directory)
            unmake(self._made)
            raise

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append all of *pieces*. Raises OSError."""
        waiting = deque(pieces)
        while waiting:
            written = os.writev(self._fd, list(islice(waiting, MAX_VECTOR)))
            self.size += written
            while waiting and written >= len(waiting[0]):
                written -= len(waiting.popleft())
            if written:
                waiting[0] = waiting[0][written:]

    def commit(self) -> os.stat_result:
        """Put the new file in its place; return its stat.

        Raises:
            OSError: it could not be done: `discard()` it. The old file is as it was.
        """
        self._final_attributes().apply(self._fd)
        try:
            os.rename(self._temporary, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            found = os.fstat(self._fd)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            found = self._write_in_place()
        self._close()
        return found

    def discard(self) -> None:
        """Remove what was written, and the parents made for it."""
        try:
            os.unlink(self._temporary, dir_fd=self._directory)
        except OSError:
            pass  # somebody else removed it
        self._close()
        unmake(self._made)

    def _close(self) -> None:
        os.close(self._fd)
        os.close(self._directory)

    def _final_attributes(self) -> Attributes:
        wanted, old, new = self._attributes, self._old, os.fstat(self._fd)
        mode, uid, gid = wanted.mode, wanted.uid, wanted.gid
        if old is not None:
            mode = stat.S_IMODE(old.st_mode) & ~SET_ID if mode is None else mode
            uid = old.st_uid if uid is None else uid
            gid = old.st_gid if gid is None else gid
        return Attributes(
            NEW_MODE if mode is None else mode,
            None if uid == new.st_uid else uid,
            None if gid == new.st_gid else gid,
        )

    def _write_in_place(self) -> os.stat_result:
        # Engines mount single files, such as /etc/hosts: a mount point cannot be replaced, only written to.
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        target = os.open(self._name, flags, dir_fd=self._directory)
        try:
            check_regular(self._name, os.fstat(target))
            at = 0
            while at < self.size:
                at += os.sendfile(target, self._fd, at, self.size - at)
            os.ftruncate(target, self.size)
            self._attributes.apply(target)
            found = os.fstat(target)
        finally:
            os.close(target)
        os.unlink(self._temporary, dir_fd=self._directory)
        return found


def _find_target(path: str) -> tuple[int, str, os.stat_result | None]:
    """Return the open directory, the name in it, and the stat of the file that *path* leads to, if there is one."""
    parent, name = os.path.split(path)
    directory = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(MAX_LINKS):
            old = _existing(path, name, directory)
            if old is None or not stat.S_ISLNK(old.st_mode):
                return directory, name, old
            parent, name = os.path.split(os.readlink(name, dir_fd=directory))
            following = os.open(parent or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
            os.close(directory)
            directory = following
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))  # noqa: TRY301 (as the kernel would)
    except BaseException:
        os.close(directory)
        raise


def _existing(path: str, name: str, directory: int) -> os.stat_result | None:
    if name in {"", ".", ".."}:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    try:
        # What the kernel finds in the end: links such as /dev/stdout lead to what has no path.
        check_regular(path, os.stat(name, dir_fd=directory))
    except FileNotFoundError:
        pass
    else:
        if not os.access(name, os.W_OK, dir_fd=directory):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def replace_text(path: str, old: bytes, new: bytes) -> Steps[int]:
    """Replace *old* by *new* in a file, atomically; yields now and then, in the end how often it was found.

    Raises:
        OSError, ExecdError: as with reading and writing. The file is as it was.
    """
    reading, _ = open_regular(path)
    try:
        replacement = Replacement(path, Attributes())
        try:
            count = yield from _copy_replacing(reading, replacement, old, new)
            if count:
                replacement.commit()
        except BaseException:
            replacement.discard()
            raise
        if not count:
            replacement.discard()
    finally:
        os.close(reading)
    yield count


def _copy_replacing(reading: int, replacement: Replacement, old: bytes, new: bytes) -> Generator[int, None, int]:
    count, rest = 0, b""
    while piece := os.read(reading, max(SMALL_BYTES, len(old))):
        *parts, rest = (rest + piece).split(old)
        # Never joined: a short text many times replaced by a long one may be larger than the memory.
        waiting: list[bytes] = []
        for part in parts:
            waiting += (part, new)
            if len(waiting) >= MAX_VECTOR or len(waiting) * len(new) >= STEP_BYTES:
                replacement.write(waiting)
                waiting = []
                yield count
        # The end may be the beginning of a match that the next piece completes.
        keep = len(rest) - min(len(rest), len(old) - 1)
        replacement.write([*waiting, rest[:keep]])
        rest = rest[keep:]
        count += len(parts)
        yield count
    replacement.write([rest])
    return count
