"""The writing of whole files: into a new file beside the old one, which it replaces when it is complete.

There is no fsync, because a sandbox does not outlive its machine. Other hard links of a replaced file keep the old
content.
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

MAX_LINKS = 40  # the limit of the kernel
MAX_VECTOR = 1024  # IOV_MAX: pieces that one writev takes
STEP_BYTES = 1 << 20
NEW_MODE = 0o644
# Neither these bits nor the capabilities of a file survive new content: the kernel drops them on a write, too.
SET_ID = stat.S_ISUID | stat.S_ISGID
# These can be written to, but not replaced: a mount point, as engines make of /etc/hosts; a file of another user, whose
# owner a new file could not get.
NOT_REPLACEABLE = (errno.EBUSY, errno.EPERM)
_UNNAMED = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
_NAMED = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def temporary_name() -> str:
    """Return a hidden name that no other file has."""
    return f".sandlot-{os.urandom(8).hex()}.tmp"


class Attributes:
    """The mode, user and group for a file. None leaves the file's own."""

    __slots__ = ("gid", "mode", "uid")

    def __init__(self, mode: int | None = None, uid: int | None = None, gid: int | None = None) -> None:
        if mode is not None and not 0 <= mode <= 0o7777:
            raise ExecdError("request.invalid", f"mode {mode:#o} does not consist of permission bits")
        self.mode = mode
        self.uid = uid
        self.gid = gid

    def without_those_of(self, found: os.stat_result) -> Attributes:
        """Return the attributes that a file does not have yet. Only the owner may set the others again."""
        return Attributes(
            None if self.mode == stat.S_IMODE(found.st_mode) else self.mode,
            None if self.uid == found.st_uid else self.uid,
            None if self.gid == found.st_gid else self.gid,
        )

    def apply(self, target: int | str) -> None:
        """Set the attributes, the owner first: a change of owner clears bits of the mode. Raises OSError."""
        if self.uid is not None or self.gid is not None:
            os.chown(target, -1 if self.uid is None else self.uid, -1 if self.gid is None else self.gid)
        if self.mode is not None:
            os.chmod(target, self.mode)


class Replacement:
    """New content on its way to a path. Exactly one of `commit()` and `discard()` ends it.

    Parents are created. If the path is a symlink, its target is replaced or created, as with `>` in a shell. An
    existing file keeps its mode and owner, unless other ones are asked for.

    Where the file system supports it, the new file has no name until it is complete. Then nothing is left of it if
    execd is killed meanwhile, not even in a volume that outlives the sandbox.
    """

    def __init__(self, path: str, attributes: Attributes) -> None:
        """Find the place and create the new file.

        Raises:
            OSError: The kernel refused. Nothing is left behind, nor in the next case.
            ExecdError: `file.is_directory`, `file.not_regular`.
        """
        self.size = 0
        self._made = make_parents(path)
        self._attributes = attributes
        self.directory = -1  # open; the file is `name` in this directory
        try:
            self.directory, self.name = find_target(path)
            self._temporary = ""  # the name of the new file, once it has one
            self._fd = self._open()
        except BaseException:
            if self.directory >= 0:
                os.close(self.directory)
            unmake(self._made)
            raise

    def _open(self) -> int:
        try:
            return os.open(".", _UNNAMED, 0o600, dir_fd=self.directory)
        except OSError:  # whatever the reason: a file with a name either works, or reports the reason
            self._temporary = temporary_name()
            return os.open(self._temporary, _NAMED, 0o600, dir_fd=self.directory)

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
        """Put the new file in its place. Return its stat. Hold the lock of `name` in `directory` meanwhile.

        Raises:
            OSError: It could not be done: call `discard()`. The old file is unchanged.
        """
        try:
            self._final_attributes().apply(self._fd)
            self._give_name()
            os.rename(self._temporary, self.name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
            found = os.fstat(self._fd)
        except OSError as error:
            if error.errno not in NOT_REPLACEABLE or self._find_old() is None:
                raise
            found = self._write_in_place()
        self._close()
        return found

    def discard(self) -> None:
        """Remove what was written, and the parents that were created for it."""
        try:
            self._remove_name()
        except OSError:
            pass  # another process has removed it
        self._close()
        unmake(self._made)

    def _give_name(self) -> None:
        if not self._temporary:
            name = temporary_name()
            os.link(f"/proc/self/fd/{self._fd}", name, dst_dir_fd=self.directory)
            self._temporary = name

    def _remove_name(self) -> None:
        if self._temporary:
            os.unlink(self._temporary, dir_fd=self.directory)

    def _close(self) -> None:
        os.close(self._fd)
        os.close(self.directory)

    def _final_attributes(self) -> Attributes:
        wanted, old, new = self._attributes, self._find_old(), os.fstat(self._fd)
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

    def _find_old(self) -> os.stat_result | None:
        # Not earlier: the mode may have changed since the new content began to arrive.
        try:
            return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _write_in_place(self) -> os.stat_result:
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        target = os.open(self.name, flags, dir_fd=self.directory)
        try:
            check_regular(self.name, os.fstat(target))
            self._attributes.without_those_of(os.fstat(target)).apply(target)
            at = 0
            while at < self.size:
                at += os.sendfile(target, self._fd, at, self.size - at)
            os.ftruncate(target, self.size)
            found = os.fstat(target)
        finally:
            os.close(target)
        self._remove_name()
        return found


def find_target(path: str) -> tuple[int, str]:
    """Return the open directory to which *path* leads, and the name in it. Symlinks are followed.

    Raises:
        OSError, ExecdError: What exists there cannot be replaced. If nothing exists, that is no error.
    """
    parent, name = os.path.split(path)
    directory = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(MAX_LINKS):
            old = _existing(path, name, directory)
            if old is None or not stat.S_ISLNK(old.st_mode):
                return directory, name
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
        # The end of the chain in the kernel's view: links such as /dev/stdout lead to something without a path.
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
    """Replace *old* by *new* in a file, atomically. Yield now and then, and at the end how often *old* was found.

    Hold the lock of the file; otherwise a change that is made meanwhile is lost.

    Raises:
        OSError, ExecdError: as with reading and writing. The file is unchanged.
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
        # The pieces are never joined: a short text that is often replaced by a long one may exceed the memory.
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
