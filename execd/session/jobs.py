"""Background jobs of a session: code that its shell starts with `&`, and that records its output and how it ended.

The records are files in a directory of the session's user. That user can damage them, but no others.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping

from execd.errors import ExecdError
from execd.files.disk import Disk
from execd.files.tree import remove
from execd.launch.accounts import read_regular
from execd.launch.environment import Identity
from execd.launch.shell import exports, quoted
from execd.session.bubblewrap import JOBS
from execd.wire.messages import JobState
from execd.wire.utf8 import MAX_CHARACTER_BYTES, unfinished

log = logging.getLogger("execd")

PARENT = "/tmp"  # noqa: S108  # the one directory that is writable in every sandbox; nobody can guess a session's id
MAX_JOBS = 256
MAX_READ_BYTES = 16 << 20  # of the output of a job, in one request
CHUNK_BYTES = 64 * 1024

# The exit code, then two lines of bash's `times`, the second for its children, user and system: `1m2.034s 0m0.500s`.
_TIME = r"(\d{1,6})m(\d{1,2}[.,]\d{1,3})s"
_ENDED = rf"(\d{{1,3}})\n\S+ \S+\n{_TIME} {_TIME}"  # compiled when it is needed: most agents never need it
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Jobs:
    """The background jobs of one session, and the directory of their records."""

    def __init__(self, session_id: str, identity: Identity | None) -> None:
        """Prepare for jobs. *identity* owns the directory; None: execd."""
        self._identity = identity
        self._owners = frozenset((identity.uid if identity else os.geteuid(),))
        self._begun: dict[str, float] = {}
        self.directory = f"{PARENT}/.sandlot-session-{session_id}"

    def prepare(self) -> None:
        """Create the directory. Raises OSError."""
        os.mkdir(self.directory, 0o700)
        if self._identity is not None:
            os.chown(self.directory, self._identity.uid, self._identity.gid)

    def begin(self, job: str, code: str, env: Mapping[str, str]) -> str:
        """Return what the shell of the session must run so that *code* runs in its background.

        Raises:
            ExecdError: `request.invalid`.
        """
        if not _ID.fullmatch(job) or job in self._begun:
            raise ExecdError("request.invalid", f"{job[:80]!r} cannot be the id of another job")
        if len(self._begun) >= MAX_JOBS:
            raise ExecdError("request.invalid", f"a session can have {MAX_JOBS} background jobs in its life")
        self._begun[job] = time.time()
        path = f"{JOBS}/{job}"
        # A trap also runs under `set -e`. `\builtin` bypasses functions that the session may have defined in place of
        # builtins.
        at_exit = quoted(f'{{ \\builtin echo "$?"; \\builtin times; }} >|{path}.exit')
        inner = f"(\n\\builtin trap - EXIT\n{exports(env)}\\builtin eval {quoted(code)}\n) >{path}.log 2>&1"
        return f"{{\n\\builtin trap {at_exit} EXIT\n{inner}\n}} </dev/null >/dev/null 2>&1 &"

    def state(self, job: str, ended_at: float | None, offset: int | None = None) -> JobState:
        """Return the state of a job. *ended_at* is when the session ended.

        With *offset*, the state tells how far the output can be read.

        Raises:
            ExecdError: `session.no_job`.
        """
        if job not in self._begun:
            raise ExecdError("session.no_job", f"this session has no background run {job[:80]}")
        begun, path = self._begun[job], f"{self.directory}/{job}"
        # The exit status is read first, so output that is printed afterwards is not missed.
        ended = re.fullmatch(_ENDED, read_regular(f"{path}.exit", self._owners).strip(), re.ASCII)
        size = _size(f"{path}.log")
        is_over = ended is not None or ended_at is not None
        end = None if offset is None else self._text_end(job, offset, size, is_over=is_over)
        if ended:
            cpu_s = sum(int(ended[i]) * 60 + float(ended[i + 1].replace(",", ".")) for i in (2, 4))
            finished_at = _changed_at(f"{path}.exit", begun)
            return JobState(job, begun, finished_at, int(ended[1]), "", size, cpu_s, end)
        if ended_at is not None:
            return JobState(job, begun, ended_at, None, "the session ended before the job", size, output_end=end)
        return JobState(job, begun, None, None, "", size, output_end=end)

    def busy_until(self) -> float:
        """Return when the last job ended, as Unix time in seconds: now if one runs, 0 if there was none."""
        now = time.time()
        ends = (self.state(job, None).finished_at for job in self._begun)
        return max((now if end is None else end for end in ends), default=0.0)

    def read(self, job: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the output of a job between two offsets. A file that cannot be read is empty."""
        try:
            fd = os.open(f"{self.directory}/{job}.log", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return
            while start < end and (data := os.pread(fd, min(CHUNK_BYTES, end - start), start)):
                yield data
                start += len(data)
        finally:
            os.close(fd)

    def _text_end(self, job: str, start: int, size: int, *, is_over: bool) -> int:
        """Return where to stop reading after an offset: at the end of a character, unless nothing more will follow."""
        end = min(max(size, start), start + MAX_READ_BYTES)
        if is_over and end == size:
            return end
        return end - unfinished(b"".join(self.read(job, max(start, end - MAX_CHARACTER_BYTES), end)))

    async def remove(self, disk: Disk) -> None:
        """Remove the directory as far as possible."""
        parent = os.open(PARENT, os.O_DIRECTORY)
        try:
            await disk.finish(remove(parent, os.path.basename(self.directory)))
        except FileNotFoundError:
            pass  # it was never created
        except OSError as error:
            log.warning("%s: %s", self.directory, error.strerror)
        finally:
            os.close(parent)


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _changed_at(path: str, default: float) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return default
