"""Activities that were read out before their sandboxes ended: files of JSON lines in the state directory.

The first line of a record says which sandbox it is of; the others are the entries as clients get them. A file is
written beside its place and moved there, so that a record is whole, and the oldest records make room for new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import structlog

from controlplane.tasks import Shared

log = structlog.get_logger()

FOLDER, SUFFIX = "activities", ".jsonl"
MAX_RECORD_BYTES = 64 << 20  # of one record; a ring of text takes some times its size as JSON
_HEAD_BYTES = 64 << 10  # the first line is far shorter


class RecordView(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a record: the sandbox whose activity follows."""

    type: str = "record"
    sandbox: str
    owner: str
    image: str
    created_at: float  # Unix time, s
    kept_at: float
    state: str
    reason: str = ""
    keep: str = ""
    first: int = 1
    last: int = 0
    size_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0  # of the record


class Records:
    """The folder of records. Its methods do their work in a thread."""

    def __init__(self, state_dir: Path, max_records: int, max_bytes: int) -> None:
        self._folder = state_dir / FOLDER
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._writing = asyncio.Lock()
        self._listing = Shared(lambda: asyncio.to_thread(self._heads))  # each opens every file

    async def write(self, head: RecordView, entries: Sequence[Any]) -> None:
        """Keep a record, in place of an earlier one of the same sandbox. A failure goes to the log."""
        async with self._writing:
            try:
                await asyncio.to_thread(self._write, head, entries)
            except OSError as error:
                log.warning("activity.not_kept", sandbox=head.sandbox, error=str(error))

    async def open(self, sandbox_id: str) -> tuple[RecordView, BinaryIO] | None:
        """Return what the first line of a record says, and its open file; None: there is none.

        The file stays as it is, also when a later record takes its place.
        """
        return await asyncio.to_thread(_open, self._path(sandbox_id))

    async def heads(self) -> list[RecordView]:
        """Return what the first lines of all records say, the newest first."""
        return await self._listing.ask()

    # -- in a thread

    def _write(self, head: RecordView, entries: Sequence[Any]) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        kept, size = [], 0
        for entry in reversed(entries):  # of a record that is too large, its end is kept
            line = msgspec.json.encode(entry)
            size += len(line) + 1
            if size > MAX_RECORD_BYTES:
                break
            kept.append(line)
        body = b"".join(line + b"\n" for line in reversed(kept))
        head = msgspec.structs.replace(head, size_bytes=len(body))
        descriptor, name = tempfile.mkstemp(dir=self._folder, suffix=".part")
        try:
            with open(descriptor, "wb") as file:
                file.write(msgspec.json.encode(head) + b"\n" + body)
            os.replace(name, self._path(head.sandbox))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        self._prune()

    def _prune(self) -> None:
        files = self._files()
        total = sum(size for _, size, _ in files)
        for _, size, path in files[:-1]:  # the oldest first; the newest stays
            if len(files) <= self._max_records and total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            files = files[1:]
            total -= size

    def _files(self) -> list[tuple[float, int, Path]]:
        """Return time, size and path of each record, the oldest first."""
        found = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return sorted(found)

    def _heads(self) -> list[RecordView]:
        found = []
        for _, _, path in reversed(self._files()):
            if (opened := _open(path)) is not None:
                found.append(opened[0])
                opened[1].close()
        return found

    def _path(self, sandbox_id: str) -> Path:
        return self._folder / f"{Path(sandbox_id).name}{SUFFIX}"


def _open(path: Path) -> tuple[RecordView, BinaryIO] | None:
    """Return a record's first line, and its file at its beginning."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
            head = msgspec.json.decode(file.readline(_HEAD_BYTES), type=RecordView)
            file.seek(0)
        except (OSError, ValueError):
            return None
        stack.pop_all()
        return head, file
