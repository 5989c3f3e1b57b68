"""The embedded store: SQLite in WAL mode.

One row a sandbox, the record as JSON: the database never looks into it, and `sqlite3` on a shell still reads it.
Statements run on the event loop: each takes some 20 µs, because in WAL mode with synchronous=NORMAL a commit waits for
no disk. Only a checkpoint does, and `tend()` makes those in a thread. That survives a kill of this process at any
point; a power cut may cost the last moments, but then the containers are gone as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from controlplane.errors import ConfigError, SandlotError
from controlplane.sandbox import Sandbox, Snapshot

T = TypeVar("T")

FILE = "sandlot.db"
# What each version added to the one before.
_SCHEMA = (
    """
CREATE TABLE sandboxes (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
""",
    "CREATE TABLE snapshots (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;",
)
SCHEMA_VERSION = len(_SCHEMA)

CHECKPOINT_S = 60.0
# Should `tend()` not come to it: then the log is moved on the event loop, before it fills the disk.
MAX_LOG_PAGES = 16 * 1024
# Somebody on a shell may hold the database for a moment; the event loop stands still meanwhile.
BUSY_TIMEOUT_S = 0.2


class StoreError(SandlotError):
    """The store could not keep something; nothing was changed."""

    code = "store.failed"


class Store:
    """Sandboxes and snapshots that survive this process. One process at a time has it open."""

    def __init__(self, state_dir: Path) -> None:
        """Open the store, making it at first.

        Raises:
            ConfigError: the directory cannot be used, or another server uses it.
        """
        self._path = state_dir / FILE
        with contextlib.ExitStack() as opened:
            self._lock = _prepare(state_dir)
            opened.callback(os.close, self._lock)
            self._encode = msgspec.json.Encoder().encode
            try:
                self._database = sqlite3.connect(self._path, isolation_level=None, timeout=BUSY_TIMEOUT_S)
                opened.callback(self._database.close)
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=NORMAL")
                self._database.execute(f"PRAGMA wal_autocheckpoint={MAX_LOG_PAGES}")
                self._migrate()
            except sqlite3.Error as error:
                raise ConfigError(f"{self._path}: {error}") from error
            opened.pop_all()

    def _migrate(self) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"{self._path}: made by a newer Sandlot (schema {version}, this one knows {SCHEMA_VERSION}): "
                "start that one, or choose another [paths] state_dir"
            )
        if version < SCHEMA_VERSION:
            missing = " ".join(_SCHEMA[version:])
            self._database.executescript(f"BEGIN; {missing} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")

    def put(self, sandbox: Sandbox) -> None:
        """Keep a sandbox, new or changed. Raises StoreError."""
        self._execute("INSERT OR REPLACE INTO sandboxes VALUES (?, ?)", sandbox.id, self._encode(sandbox).decode())

    def delete(self, sandbox_id: str) -> None:
        """Forget a sandbox. Idempotent. Raises StoreError."""
        self._execute("DELETE FROM sandboxes WHERE id = ?", sandbox_id)

    def all(self) -> list[Sandbox]:
        """Return all sandboxes. Raises StoreError, also for a record that cannot be read."""
        return self._read("sandbox", Sandbox, self._execute("SELECT id, record FROM sandboxes"))

    def put_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot, new or changed. Raises StoreError."""
        self._execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?)", snapshot.id, self._encode(snapshot).decode())

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Forget a snapshot. Idempotent. Raises StoreError."""
        self._execute("DELETE FROM snapshots WHERE id = ?", snapshot_id)

    def snapshots(self) -> list[Snapshot]:
        """Return all snapshots. Raises StoreError, also for a record that cannot be read."""
        return self._read("snapshot", Snapshot, self._execute("SELECT id, record FROM snapshots"))

    def instance(self) -> str:
        """Return the id of this installation, made at first; it labels our containers. Raises StoreError."""
        self._execute("INSERT OR IGNORE INTO meta VALUES ('instance', ?)", secrets.token_hex(6))
        ((value,),) = self._execute("SELECT value FROM meta WHERE name = 'instance'")
        return str(value)

    async def tend(self) -> None:
        """Move the log into the database now and then, off the event loop. Never returns."""
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            await asyncio.to_thread(self.checkpoint)

    def checkpoint(self) -> None:
        """Move the log into the database. Blocks for as long as the disk takes; may run in any thread."""
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(self._path)) as database:
            # Waits for nobody, and leaves to the next time what others still read.
            database.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Close the store and let others have it."""
        self._database.close()
        os.close(self._lock)

    def _read(self, noun: str, kind: type[T], rows: Iterable[tuple[str, ...]]) -> list[T]:
        decoder = msgspec.json.Decoder(kind)
        records = []
        for record_id, record in rows:
            try:
                records.append(decoder.decode(record))
            except msgspec.DecodeError as error:
                raise StoreError(f"{self._path}: the record of {noun} {record_id} cannot be read: {error}") from error
        return records

    def _execute(self, statement: str, *values: str) -> list[tuple[str, ...]]:
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"the store failed: {self._path}: {error}") from error


def _prepare(state_dir: Path) -> int:
    """Make the directory and what must not be readable for others in it; return the descriptor of the lock, locked.

    A directory that exists keeps its mode: it may be somebody's home.
    """
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if state_dir.stat().st_mode & 0o022:
            raise ConfigError(f"[paths] state_dir: others may write into {state_dir}: `chmod go-w` it, or use another")
        lock = os.open(state_dir / "lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"[paths] state_dir: {state_dir}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # SQLite gives its log and index the mode of this file.
        os.close(os.open(state_dir / FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except BlockingIOError as error:
        os.close(lock)
        raise ConfigError(
            f"another Sandlot server uses {state_dir}: stop it, or give this one a [paths] state_dir and run_dir"
        ) from error
    except OSError as error:
        os.close(lock)
        raise ConfigError(f"[paths] state_dir: {state_dir}: {error.strerror}") from error
    return lock
