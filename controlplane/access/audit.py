"""The audit log: every operation and its caller as a line of JSON in `{state_dir}/audit/audit.jsonl`, of bounded size.

`record` appends an entry to a queue in memory: it never waits, and never fails a request. A task empties the queue
five times a second, and a thread writes the entries. If the disk is full or the queue overflows, entries are lost; the
log gets their number as soon as a write succeeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
import structlog

from controlplane.errors import AuditUnreadable

log = structlog.get_logger()

Level = Literal["off", "changes", "all"]

# Done; refused because of the caller or the request; failed because of the server; or the client left before an answer.
Outcome = Literal["done", "refused", "failed", "abandoned"]

FOLDER, FILE = "audit", "audit.jsonl"  # older files end with a number, the oldest with the highest
MAX_QUEUED = 10_000  # entries that wait for the disk: some 5 MB
FLUSH_S = 0.2  # an entry waits for others, so that a busy server writes 5 times a second
CLOSE_S = 5.0  # the server's stop waits for the disk, at most this long
MAX_TEXT_CHARS = 128  # of each text in an entry: clients choose some of the texts
# Entries of all callers without a valid key or token: more of these would push out the others.
MAX_STRANGERS_PER_MINUTE = 120
MAX_PAGE = 1000  # entries of one answer
MAX_SCANNED = 20_000  # entries that one answer may read
LOST = "audit.lost"  # the operation of an entry that counts missing entries


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One operation of a caller. An entry has names, but nothing else of the request and the answer."""

    id: int = 0  # grows by one for each entry, also after a restart
    at: datetime
    key_id: str = ""  # "" for a sandbox's token, a signed address and a stranger
    key_name: str = ""  # or "token", "ticket", "signature"
    via: str = ""  # "console" for a person who has signed in there
    client: str = ""  # address and port
    request_id: str = ""
    operation: str = ""  # as in docs/keys.md; "" if the request reached none
    sandbox_id: str = ""
    target: str = ""  # the other name in the path: of a snapshot, a key, a port, a context
    outcome: Outcome
    status: int = 0  # of HTTP; 0 without an answer
    code: str = ""  # of an error
    ms: float = 0  # until the answer began
    lost: int = 0  # number of missing entries before this one


class Page(msgspec.Struct, frozen=True):
    """A part of the log, the oldest entry first."""

    entries: list[Entry]
    next: int  # the `after` of the next page


class Audit:
    """The audit log: takes entries, writes them, and reads them."""

    def __init__(
        self,
        state_dir: Path | None,
        level: Level,
        *,
        max_bytes: int = 10 << 20,
        max_files: int = 5,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the log.

        Args:
            state_dir: The parent of the folder `audit`. None: the log keeps nothing.
            level: The operations to keep.
            max_bytes: Size at which the log begins a new file.
            max_files: Files to keep, the present one included.
            clock: Unix time, s.
            timer: Monotonic time, s.
        """
        self.level: Level = level if state_dir is not None else "off"
        self.lost = 0  # since the start
        self._clock = clock
        self._timer = timer
        self._queue: deque[Entry] = deque()
        self._missing = 0  # lost, and not yet counted in the log
        self._has_some = asyncio.Event()
        self._writing = asyncio.Lock()
        self._strangers = (-math.inf, 0)  # begin of their minute, and their number
        self._is_failing = False
        self._files = _Files(state_dir / FOLDER, max_bytes, max_files) if state_dir is not None else None

    def keeps(self, *, matters: bool) -> bool:
        """Return whether the log keeps an operation. It *matters* if it changes or opens something, or was refused."""
        return self.level == "all" or (self.level == "changes" and matters)

    def record(self, entry: Entry) -> None:
        """Take an entry. This costs some µs, never waits and never fails."""
        if self.level == "off" or (not entry.key_name and not self._has_room_for_stranger()):
            return
        if len(self._queue) >= MAX_QUEUED:
            self._lose(1)
            return
        self._queue.append(entry)
        self._has_some.set()

    async def run(self) -> None:
        """Write entries as they come, until cancelled."""
        while True:
            await self._has_some.wait()
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except Exception:
                # A bug: these entries are lost, but the next ones are not.
                log.exception("audit.broken")

    async def aclose(self) -> None:
        """Write the queue, unless the disk hangs."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.flush()

    async def flush(self) -> None:
        """Write all entries of the queue."""
        async with self._writing:
            await self._flush()

    async def _flush(self) -> None:
        self._has_some.clear()
        entries = [self._queue.popleft() for _ in range(len(self._queue))]
        if not entries or self._files is None:
            return
        if self._missing:
            entries.append(
                Entry(at=self.now(), key_name="server", operation=LOST, outcome="failed", lost=self._missing)
            )
        try:
            await asyncio.to_thread(self._files.write, entries)
        except OSError as error:
            self._lose(sum(entry.operation != LOST for entry in entries))
            if not self._is_failing:
                log.error("audit.cannot_write", path=str(self._files.path), error=str(error))  # noqa: TRY400 - no bug
            self._is_failing = True
            return
        if any(entry.operation == LOST for entry in entries):
            self._missing -= entries[-1].lost
        self._is_failing = False

    async def read(self, after: int | None, limit: int, key: str = "", sandbox_id: str = "") -> Page:
        """Return the entries with an id above *after*, or the last ones if *after* is None.

        *key* is a key's id or name. The page has at most *limit* and MAX_PAGE entries, found among at most MAX_SCANNED:
        it may be short or empty although more entries follow.

        Raises:
            AuditUnreadable: the files cannot be opened or read.
        """
        if self._files is None:
            return Page([], after or 0)
        await self.flush()
        try:
            return await asyncio.to_thread(self._files.read, after, min(limit, MAX_PAGE), key, sandbox_id)
        except OSError as error:
            raise AuditUnreadable(
                f"the audit log cannot be read: {error}",
                public=f"the server cannot read its audit log ({error.strerror}): make the folder `{FOLDER}` in its "
                "[paths] state_dir readable to the server's user, and ask again",
            ) from error

    def now(self) -> datetime:
        """Return the present time, for an entry."""
        return datetime.fromtimestamp(self._clock(), UTC)

    def _lose(self, count: int) -> None:
        self.lost += count
        self._missing += count

    def _has_room_for_stranger(self) -> bool:
        began, count = self._strangers
        if (now := self._timer()) - began >= 60:
            began, count = now, 0
        self._strangers = began, count + 1
        if count >= MAX_STRANGERS_PER_MINUTE:
            self._lose(1)
        return count < MAX_STRANGERS_PER_MINUTE


class _Files:
    """The files of the log. One thread at a time writes, while others read."""

    def __init__(self, folder: Path, max_bytes: int, max_files: int) -> None:
        self.path = folder / FILE
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(Entry).decode
        self._last_id = self._find_last_id()
        # A write continues in its thread after its task was cancelled.
        self._writing = threading.Lock()

    def write(self, entries: list[Entry]) -> None:
        """Append entries, and give each its id. Raises OSError after writing none of them."""
        with self._writing:
            self._write(entries)

    def _write(self, entries: list[Entry]) -> None:
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        self._rotate_if_full()
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(descriptor, "ab", buffering=0) as file:
            size = file.tell()
            numbered = (msgspec.structs.replace(entry, id=self._last_id + n) for n, entry in enumerate(entries, 1))
            data = b"".join(self._encode(entry) + b"\n" for entry in numbered)
            try:
                _write_whole(file, data)
            except OSError:
                file.truncate(size)  # no half lines
                raise
        self._last_id += len(entries)

    def read(self, after: int | None, limit: int, key: str, sandbox_id: str) -> Page:
        """Return a page. See `Audit.read`."""
        is_last = after is None
        back = MAX_SCANNED if key or sandbox_id else limit
        position = max(0, self._last_id - back) if after is None else after
        found: deque[Entry] = deque(maxlen=limit)  # for the last entries, later ones push out earlier ones
        with contextlib.ExitStack() as opened:
            for scanned, entry in enumerate(self._after(position, opened), 1):
                position = entry.id
                if key in ("", entry.key_id, entry.key_name) and sandbox_id in ("", entry.sandbox_id):
                    found.append(entry)
                if scanned >= MAX_SCANNED or (len(found) >= limit and not is_last):
                    break
        return Page(list(found), position)

    def _after(self, after: int, opened: contextlib.ExitStack) -> Iterator[Entry]:
        """Yield all entries with an id above *after*. Open all files first, because the log may rotate meanwhile."""
        files: list[BinaryIO] = []
        for path in self._paths():
            with contextlib.suppress(FileNotFoundError):
                files.append(opened.enter_context(path.open("rb")))
        last = after
        for index, file in enumerate(files):
            following = self._next_entry(files[index + 1], 0) if index + 1 < len(files) else None
            if following is not None and following.id <= after + 1:
                continue  # the whole file is older
            file.seek(self._find(file, after))
            for line in file:
                # If a file was renamed meanwhile, a line may come twice. The last line may be incomplete.
                with contextlib.suppress(msgspec.MsgspecError):
                    if line.endswith(b"\n") and (entry := self._decode(line)).id > last:
                        last = entry.id
                        yield entry

    def _find(self, file: BinaryIO, after: int) -> int:
        """Return an offset at or before the first entry with an id above *after*, by bisection."""
        low, high = 0, os.fstat(file.fileno()).st_size
        while high - low > 8192:
            middle = (low + high) // 2
            entry = self._next_entry(file, middle)
            if entry is not None and entry.id <= after:
                low = middle
            else:
                high = middle
        file.seek(low)
        if low:
            file.readline()
        return file.tell()

    def _next_entry(self, file: BinaryIO, offset: int) -> Entry | None:
        """Return the first whole entry behind an offset; None if there is none."""
        file.seek(offset)
        if offset:
            file.readline()
        for line in file:
            with contextlib.suppress(msgspec.MsgspecError):
                return self._decode(line)
        return None

    def _paths(self) -> list[Path]:
        """Return the paths of the files, the oldest first."""
        return [*(self._older(number) for number in range(self._max_files - 1, 0, -1)), self.path]

    def _older(self, number: int) -> Path:
        return self.path.with_name(f"{FILE}.{number}")

    def _rotate_if_full(self) -> None:
        if not self.path.exists() or self.path.stat().st_size < self._max_bytes:
            return
        for older, newer in zip(self._paths(), self._paths()[1:], strict=False):
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)
        if self._max_files == 1:
            self.path.unlink()

    def _find_last_id(self) -> int:
        """Return the id of the last entry of an earlier run, and cut off an incomplete last line."""
        for path in reversed(self._paths()):
            with contextlib.suppress(OSError), path.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 65536))
                whole, newline, _ = file.read().rpartition(b"\n")
                if not newline:
                    file.truncate(0)
                    continue
                file.truncate(max(0, size - 65536) + len(whole) + 1)
                with contextlib.suppress(msgspec.MsgspecError):
                    return self._decode(whole.rpartition(b"\n")[2]).id
        return 0


def _write_whole(file: RawIOBase, data: bytes) -> None:
    """Write all of *data* in one system call. Raises OSError."""
    if file.write(data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
