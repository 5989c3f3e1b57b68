"""Background jobs of a session: what its shell starts with `&`, which writes down what it prints and how it ended.

That is in files of a directory that the session's user owns. It may spoil them, and nobody else's with that.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping

from execd.accounts import read_regular
from execd.environment import Identity
from execd.errors import ExecdError
from execd.files.disk import Disk
from execd.files.tree import remove
from execd.isolation.bubblewrap import JOBS
from execd.shell import exports, quoted
from execd.wire.messages import JobState

log = logging.getLogger("execd")

PARENT = "/tmp"  # noqa: S108  # the one directory that is writable in every sandbox; nobody can guess a session's id
MAX_JOBS = 256
MAX_READ_BYTES = 16 << 20  # of what a job has printed, at once
CHUNK_BYTES = 64 * 1024

# Exit code; then the two lines of bash's `times`, the second of its children, user and system: `1m2.034s 0m0.500s`.
_TIME = r"(\d{1,6})m(\d{1,2}[.,]\d{1,3})s"
_ENDED = rf"(\d{{1,3}})\n\S+ \S+\n{_TIME} {_TIME}"  # compiled when it is needed: most agents never do
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Jobs:
    """Those of one session, and its directory for them."""

    def __init__(self, session_id: str, identity: Identity | None) -> None:
        """*identity* is whose the directory is; None: execd's own."""
        self._identity = identity
        self._owners = frozenset((identity.uid if identity else os.geteuid(),))
        self._begun: dict[str, float] = {}
        self.directory = f"{PARENT}/.sandlot-session-{session_id}"

    def prepare(self) -> None:
        """Make the directory. Raises OSError."""
        os.mkdir(self.directory, 0o700)
        if self._identity is not None:
            os.chown(self.directory, self._identity.uid, self._identity.gid)

    def begin(self, job: str, code: str, env: Mapping[str, str]) -> str:
        """Return what the session's shell has to run, so that *code* runs in its background.

        Raises:
            ExecdError: `request.invalid`.
        """
        if not _ID.fullmatch(job) or job in self._begun:
            raise ExecdError("request.invalid", f"{job[:80]!r} cannot be the id of another job")
        if len(self._begun) >= MAX_JOBS:
            raise ExecdError("request.invalid", f"a session can have {MAX_JOBS} background jobs in all")
        self._begun[job] = time.time()
        path = f"{JOBS}/{job}"
        inner = f"(\n{exports(env)}eval {quoted(code)}\n) >{path}.log 2>&1"
        return f'{{\n{inner}\n{{ echo "$?"; times; }} >{path}.exit\n}} </dev/null >/dev/null 2>&1 &'

    def state(self, job: str, ended_at: float | None) -> JobState:
        """Describe one. *ended_at* is when the session did.

        Raises:
            ExecdError: `session.no_job`.
        """
        if job not in self._begun:
            raise ExecdError("session.no_job", f"no background run {job[:80]} in this session")
        begun, path = self._begun[job], f"{self.directory}/{job}"
        size = _size(f"{path}.log")
        if ended := re.fullmatch(_ENDED, read_regular(f"{path}.exit", self._owners).strip(), re.ASCII):
            cpu_s = sum(int(ended[i]) * 60 + float(ended[i + 1].replace(",", ".")) for i in (2, 4))
            return JobState(job, begun, _changed_at(f"{path}.exit", begun), int(ended[1]), "", size, cpu_s)
        if ended_at is not None:
            return JobState(job, begun, ended_at, None, "its session ended first", size)
        return JobState(job, begun, None, None, "", size)

    def busy_until(self) -> float:
        """Return when the last of them ended; now while one runs, 0 when there was none. Unix time, s."""
        now = time.time()
        ends = (self.state(job, None).finished_at for job in self._begun)
        return max((now if end is None else end for end in ends), default=0.0)

    def read(self, job: str, start: int, end: int) -> Iterator[bytes]:
        """Yield what it has printed between two offsets, MAX_READ_BYTES at most. What cannot be read is nothing."""
        try:
            fd = os.open(f"{self.directory}/{job}.log", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return
            end = min(end, start + MAX_READ_BYTES)
            while start < end and (data := os.pread(fd, min(CHUNK_BYTES, end - start), start)):
                yield data
                start += len(data)
        finally:
            os.close(fd)

    async def remove(self, disk: Disk) -> None:
        """Remove the directory, as far as that goes."""
        parent = os.open(PARENT, os.O_DIRECTORY)
        try:
            await disk.finish(remove(parent, os.path.basename(self.directory)))
        except FileNotFoundError:
            pass  # it was not made
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
