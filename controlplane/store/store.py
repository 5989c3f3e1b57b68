"""The embedded store: SQLite in WAL mode.

Each sandbox is a row with its record as JSON: the database does not interpret the record, and `sqlite3` on a shell can
read it. Statements run on the event loop. Each takes some 20 µs, because in WAL mode with synchronous=NORMAL a commit
does not wait for the disk. Only a checkpoint does, and `tend()` makes checkpoints in a thread. The store survives a
kill of this process at any point; a power cut may cost the last moments, but then the containers are gone as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from controlplane.access.key import Key, SignIn
from controlplane.errors import ConfigError, StoreError, StoreFull
from controlplane.sandbox import Network, Sandbox, Snapshot
from controlplane.store.reserve import Reserve

log = structlog.get_logger()

T = TypeVar("T")

FILE = "sandlot.db"
# The additions of each version to the one before.
_SCHEMA = (
    """
CREATE TABLE sandboxes (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
""",
    "CREATE TABLE snapshots (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;",
    "CREATE TABLE keys (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;",
    "",  # the network of a record is a word, which earlier releases cannot read
    "CREATE TABLE sign_ins (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;",
)
SCHEMA_VERSION = len(_SCHEMA)

CHECKPOINT_S = 60.0
# If `tend()` is late, the event loop moves the log into the database before the log fills the disk.
MAX_LOG_PAGES = 16 * 1024
# `sqlite3` on a shell may lock the database for a moment, and the event loop waits for it. After a wait in vain, the
# statements of the next second do not wait.
BUSY_TIMEOUT_S = 0.02
LOCKED_S = 1.0
# While the disk is full, one statement in this time looks for room.
FULL_S = 1.0

# SQLite's errors for a full disk: for the database and its log, and for the index of the log.
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})


class Store:
    """The store of sandboxes, snapshots, keys and sign-ins. One process at a time may open it."""

    def __init__(self, state_dir: Path) -> None:
        """Open the store, or create it.

        An existing store opens although its disk is full: the server can then list and end sandboxes.

        Raises:
            ConfigError: the directory cannot be used, or another server uses it.
        """
        self._path = state_dir / FILE
        with contextlib.ExitStack() as opened:
            self._lock = _prepare(state_dir)
            opened.callback(os.close, self._lock)
            self._encode = msgspec.json.Encoder().encode
            self._locked_until = self._full_until = 0.0
            self._is_patient = True
            self._reserve = Reserve(state_dir)
            try:
                self._database, self._is_alone = self._open()
            except sqlite3.Error as error:
                raise ConfigError(f"{self._path}: {error}") from error
            opened.pop_all()

    def _open(self) -> tuple[sqlite3.Connection, bool]:
        """Open the database. Return whether other processes are locked out, which saves the index of the log."""
        try:
            return self._connect(), False
        except sqlite3.Error as error:
            if not _is_full(error, self._path.parent):
                raise
            log.warning("store.full", path=str(self._path), error=str(error))
        self._reserve.release()
        try:
            return self._connect(), False
        except sqlite3.Error as error:
            if not _is_full(error, self._path.parent):
                raise
        return self._connect(alone=True), True

    def _connect(self, *, alone: bool = False) -> sqlite3.Connection:
        with contextlib.ExitStack() as opened:
            database = sqlite3.connect(self._path, isolation_level=None, timeout=BUSY_TIMEOUT_S)
            opened.callback(database.close)
            if alone:
                database.execute("PRAGMA locking_mode=EXCLUSIVE")
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute(f"PRAGMA wal_autocheckpoint={MAX_LOG_PAGES}")
            self._migrate(database)
            opened.pop_all()
        return database

    def _migrate(self, database: sqlite3.Connection) -> None:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise ConfigError(
                f"{self._path}: made by a newer Sandlot (schema {version}, this one knows {SCHEMA_VERSION}): "
                "start that one, or choose another [paths] state_dir"
            )
        if version < SCHEMA_VERSION:
            missing = " ".join(_SCHEMA[version:])
            database.executescript(f"BEGIN; {missing} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")

    def put(self, sandbox: Sandbox, *, has_happened: bool = False) -> None:
        """Keep a sandbox, new or changed.

        Args:
            has_happened: The change has already happened: the store may use the reserved room to record it.

        Raises:
            StoreFull, StoreError: nothing was changed.
        """
        record = self._encode(sandbox).decode()
        self._write("INSERT OR REPLACE INTO sandboxes VALUES (?, ?)", sandbox.id, record, has_happened=has_happened)

    def delete(self, sandbox_id: str) -> None:
        """Forget a sandbox. Idempotent. Raises StoreError."""
        self._write("DELETE FROM sandboxes WHERE id = ?", sandbox_id, has_happened=True)

    def all(self) -> list[Sandbox]:
        """Return all sandboxes. Raises StoreError, also for a record that cannot be read."""
        return self._read("sandbox", Sandbox, self._execute("SELECT id, record FROM sandboxes"))

    def put_snapshot(self, snapshot: Snapshot, *, has_happened: bool = False) -> None:
        """Keep a snapshot, new or changed. See `put` for *has_happened* and the errors."""
        record = self._encode(snapshot).decode()
        self._write("INSERT OR REPLACE INTO snapshots VALUES (?, ?)", snapshot.id, record, has_happened=has_happened)

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Forget a snapshot. Idempotent. Raises StoreError."""
        self._write("DELETE FROM snapshots WHERE id = ?", snapshot_id, has_happened=True)

    def snapshots(self) -> list[Snapshot]:
        """Return all snapshots. Raises StoreError, also for a record that cannot be read."""
        return self._read("snapshot", Snapshot, self._execute("SELECT id, record FROM snapshots"))

    def put_key(self, key: Key) -> None:
        """Keep an API key, new or changed. Raises StoreError."""
        self._write("INSERT OR REPLACE INTO keys VALUES (?, ?)", key.id, self._encode(key).decode())

    def delete_key(self, key_id: str) -> None:
        """Forget an API key. Idempotent. Raises StoreError."""
        self._write("DELETE FROM keys WHERE id = ?", key_id, has_happened=True)

    def api_keys(self) -> list[Key]:
        """Return all API keys. Raises StoreError, also for a record that cannot be read."""
        return self._read("key", Key, self._execute("SELECT id, record FROM keys"))

    def put_sign_in(self, sign_in: SignIn) -> None:
        """Keep a sign-in. Raises StoreError."""
        self._write("INSERT OR REPLACE INTO sign_ins VALUES (?, ?)", sign_in.id, self._encode(sign_in).decode())

    def delete_sign_in(self, sign_in_id: str) -> None:
        """Forget a sign-in. Idempotent. Raises StoreError."""
        self._write("DELETE FROM sign_ins WHERE id = ?", sign_in_id, has_happened=True)

    def sign_ins(self) -> list[SignIn]:
        """Return all sign-ins. Raises StoreError, also for a record that cannot be read."""
        return self._read("sign-in", SignIn, self._execute("SELECT id, record FROM sign_ins"))

    def instance(self) -> str:
        """Return the id of this installation, with which the server labels its containers. Raises StoreError."""
        found = self._execute("SELECT value FROM meta WHERE name = 'instance'")
        if not found:
            self._write("INSERT INTO meta VALUES ('instance', ?)", secrets.token_hex(6))
            return self.instance()
        return str(found[0][0])

    async def tend(self) -> None:
        """Move the log into the database every minute, off the event loop, until cancelled."""
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            await asyncio.to_thread(self.checkpoint)
            self.recover_room()

    def recover_room(self) -> None:
        """Reserve room for ends if the disk has some again, and let other processes read the database."""
        if self._reserve.keep() and self._is_alone:
            # SQLite does not share a log that it began to write exclusively, until the database is opened again.
            self._database.close()
            with contextlib.suppress(sqlite3.Error):
                self._database, self._is_alone = self._open()
                self._is_patient = True

    def checkpoint(self) -> None:
        """Move the log into the database. Block as long as the disk takes; any thread may call this."""
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(self._path)) as database:
            # PASSIVE waits for nobody, and leaves pages that others still read to the next checkpoint.
            database.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Close the store, so that another process may open it."""
        self._database.close()
        os.close(self._lock)

    def _read(self, noun: str, kind: type[T], rows: Iterable[tuple[str, ...]]) -> list[T]:
        decoder = msgspec.json.Decoder(kind)
        records = []
        for record_id, record in rows:
            try:
                records.append(_decode(decoder, record))
            except msgspec.DecodeError as error:
                raise StoreError(f"{self._path}: the record of {noun} {record_id} cannot be read: {error}") from error
        return records

    def _execute(self, statement: str, *values: str) -> list[tuple[str, ...]]:
        try:
            self._be_patient(time.monotonic() >= self._locked_until)
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY:  # errors of the module have none
                self._locked_until = time.monotonic() + LOCKED_S
            if _is_full(error, self._path.parent):
                raise self._full(str(error)) from error
            raise StoreError(
                f"the store failed: {self._path}: {error}",
                public="the server cannot write that down now, and nothing was changed; try again",
            ) from error

    def _write(self, statement: str, *values: str, has_happened: bool = False) -> None:
        """Execute a statement that changes something. If the disk is full and *has_happened*, use the reserved room."""
        if not has_happened:
            self._expect_room()
        try:
            self._execute(statement, *values)
        except StoreFull:
            if not (has_happened and self._reserve.release()):
                raise
            log.warning("store.reserve_used", path=str(self._path))
            self._execute(statement, *values)

    def _expect_room(self) -> None:
        """Raise StoreFull if the reserve was used, and there is no room for a new one."""
        if self._reserve.is_kept:
            return
        now = time.monotonic()
        if now >= self._full_until and self._reserve.keep():
            return
        if now >= self._full_until:
            self._full_until = now + FULL_S
        raise self._full("no room for the reserve")

    def _full(self, reason: str) -> StoreFull:
        return StoreFull(
            f"the disk of the state directory is full: {self._path}: {reason}",
            public="the server's disk is full, so nothing new can be written down; end sandboxes or delete snapshots, "
            "or ask the operator to make room on the disk",
        )

    def _be_patient(self, is_patient: bool) -> None:
        if is_patient != self._is_patient:
            self._is_patient = is_patient
            self._database.execute(f"PRAGMA busy_timeout={round(1000 * BUSY_TIMEOUT_S * is_patient)}")


def _decode(decoder: msgspec.json.Decoder[T], record: str) -> T:
    """Return what a record holds; in those of earlier releases, the network is true or false. Raises DecodeError."""
    try:
        return decoder.decode(record)
    except msgspec.ValidationError:
        told = msgspec.json.decode(record, type=dict[str, Any])
        spec = told.get("spec")
        if not (isinstance(spec, dict) and isinstance(is_allowed := spec.get("network"), bool)):
            raise
        spec["network"] = Network.allowed(is_allowed).value
        return msgspec.convert(told, decoder.type)


def _is_full(error: sqlite3.Error, state_dir: Path) -> bool:
    """Return whether a statement failed because the disk has no room, or takes no further file."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code in _FULL or (code == sqlite3.SQLITE_CANTOPEN and os.statvfs(state_dir).f_ffree == 0)


def _prepare(state_dir: Path) -> int:
    """Create the directory and its private files, and lock it. Return the descriptor of the lock.

    An existing directory keeps its mode: it may be a home directory.
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
