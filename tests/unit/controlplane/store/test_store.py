"""The store: what is put survives anything but the disk, and one server at a time has it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from controlplane.errors import ConfigError, StoreError, StoreFull
from controlplane.lifecycle.records.registry import Registry
from controlplane.lifecycle.records.states import Event
from controlplane.runtime.docker.volumes import PREFIX
from controlplane.runtime.labels import NAMED_VOLUME
from controlplane.sandbox import Limits, Network, Platform, Sandbox, SandboxSpec, State, Volume, new_sandbox_id
from controlplane.store import store as store_module
from controlplane.store.reserve import Reserve
from controlplane.store.store import BUSY_TIMEOUT_S, SCHEMA_VERSION, Store

ROOT = Path(__file__).parents[4]
NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


FILLED = pytest.mark.attack(
    "resources",
    "a sandbox fills the disk of the server's state directory, also while the server does not run",
    "the server starts, lists and ends sandboxes, and refuses what is new with a clear error",
)


def a_sandbox(**changes: object) -> Sandbox:
    """A sandbox with a value in every field."""
    sandbox = Sandbox(
        id=new_sandbox_id(),
        container_id="c" * 64,
        requested_image="opensandbox/code-interpreter:v1",
        spec=SandboxSpec(
            image="sandlot/code-interpreter",
            entrypoint=("tail", "-f", "/dev/null"),
            env={"KEY": "välue\n"},
            metadata={"who": "test"},
            extensions={"x": "y"},
            limits=Limits(cpus=0.5, memory_bytes=1 << 28, pids=64),
            network=Network.BRIDGE,
            platform=Platform("linux", "arm64"),
        ),
        state=State.RUNNING,
        created_at=NOW,
        state_changed_at=NOW,
        expires_at=NOW + timedelta(hours=1),
        reason="REASON",
        message="message",
    )
    return replace(sandbox, **changes)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    path = Path(tempfile.mkdtemp(prefix="sandlot-small-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)
    path.rmdir()


def fill(disk: Path) -> Path:
    """Fill a disk to its last byte; return the file that does it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    assert shutil.disk_usage(disk).free == 0
    return ballast


def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    """Every field, and deletions too."""
    kept, gone = a_sandbox(), a_sandbox()
    first = Store(tmp_path / "state")
    first.put(replace(kept, state=State.PENDING))
    first.put(kept)
    first.put(gone)
    first.delete(gone.id)
    first.delete("never there")
    first.close()
    second = Store(tmp_path / "state")
    assert second.all() == [kept]
    second.close()


def test_the_installation_keeps_its_id(tmp_path: Path) -> None:
    """It labels containers, by which a later start finds them."""
    first = Store(tmp_path / "a")
    instance = first.instance()
    assert first.instance() == instance
    first.close()
    second, other = Store(tmp_path / "a"), Store(tmp_path / "b")
    assert second.instance() == instance
    assert other.instance() != instance
    second.close()
    other.close()


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    """Records hold the environment of sandboxes, which holds secrets. The log and index of SQLite too."""
    store = Store(tmp_path / "new" / "state")
    store.put(a_sandbox())
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new" / "state").iterdir()}
    assert stat.S_IMODE((tmp_path / "new" / "state").stat().st_mode) == 0o700
    assert modes == dict.fromkeys(("lock", "reserve", "sandlot.db", "sandlot.db-wal", "sandlot.db-shm"), 0o600)
    store.close()


def test_a_directory_of_somebody_else_keeps_its_mode(tmp_path: Path) -> None:
    """Whoever sets state_dir to a directory that exists does not want it closed to others."""
    tmp_path.chmod(0o755)
    Store(tmp_path).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_a_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    """They could replace the keys. It is not changed."""
    tmp_path.chmod(0o1777)
    with pytest.raises(ConfigError, match=r"\[paths\] state_dir: others may write into .*: `chmod go-w` it"):
        Store(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_second_server_is_refused(tmp_path: Path) -> None:
    """The documented message; after the first has ended, the store opens."""
    first = Store(tmp_path)
    with pytest.raises(ConfigError, match=r"another Sandlot server uses .*: stop it, or give this one a \[paths\]"):
        Store(tmp_path)
    first.close()
    Store(tmp_path).close()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A file is in the way."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"\[paths\] state_dir: .*/file/state: Not a directory"):
        Store(tmp_path / "file" / "state")


def test_a_store_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    """It would be damaged otherwise. The lock is released."""
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "sandlot.db") as database:
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    database.close()
    for _ in range(2):
        with pytest.raises(
            ConfigError,
            match=rf"made by a newer Sandlot \(schema {SCHEMA_VERSION + 1}, this one knows {SCHEMA_VERSION}\): start",
        ):
            Store(tmp_path)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """A clear error that names it, and the lock is released."""
    (tmp_path / "sandlot.db").write_text("this is no database" * 100)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"sandlot\.db: file is not a database"):
            Store(tmp_path)


@pytest.mark.parametrize("record", ["{", '{"id": "x"}', "[]", '{"id": 5}'])
def test_an_unreadable_record_is_a_clear_error(record: str, store: Store, tmp_path: Path) -> None:
    """It names the file and the sandbox."""
    store.put(a_sandbox())
    with sqlite3.connect(tmp_path / "state" / "sandlot.db") as database:
        database.execute("INSERT INTO sandboxes VALUES ('broken', ?)", (record,))
    database.close()
    with pytest.raises(StoreError, match=r"sandlot\.db: the record of sandbox broken cannot be read: "):
        store.all()


def test_a_record_of_a_newer_version_is_read(store: Store, tmp_path: Path) -> None:
    """Fields that we do not know are left out: within one schema, new fields are only added."""
    sandbox = a_sandbox()
    store.put(sandbox)
    with sqlite3.connect(tmp_path / "state" / "sandlot.db") as database:
        database.execute("UPDATE sandboxes SET record = json_set(record, '$.colour', 'blue')")
    database.close()
    assert store.all() == [sandbox]


WRITER = """
import sys
from pathlib import Path
from tests.unit.controlplane.store.test_store import a_sandbox
from controlplane.store.store import Store

store = Store(Path(sys.argv[1]))
for number in range(1_000_000):
    sandbox = a_sandbox(message=f"{number} " + "x" * 20_000)
    store.put(sandbox)
    print(sandbox.id, flush=True)
    if number % 3 == 0:
        store.delete(sandbox.id)
"""


def test_a_writer_that_is_killed_leaves_whole_records(tmp_path: Path) -> None:
    """SIGKILL in the middle of writing: what was acknowledged is there, whole; the lock is free."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path / "state"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert writer.stdout is not None
    put = [writer.stdout.readline().strip() for _ in range(300)]
    writer.send_signal(signal.SIGKILL)
    put += writer.stdout.read().split()
    writer.stdout.close()
    assert writer.wait() == -signal.SIGKILL

    store = Store(tmp_path / "state")
    kept = {sandbox.id: sandbox for sandbox in store.all()}
    for number, sandbox_id in enumerate(put[:-1]):
        assert (sandbox_id in kept) == (number % 3 != 0)
        if number % 3:
            assert kept[sandbox_id].message == f"{number} " + "x" * 20_000
    store.close()


def test_a_full_disk_changes_nothing(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """StoreError, and neither the store nor the memory has it; with room again, all goes on."""
    store = Store(small_disk / "state")
    registry = Registry(store)
    kept = registry.put(a_sandbox())
    ballast = fill(small_disk)

    too_much = a_sandbox(message="x" * 100_000)
    with pytest.raises(StoreFull, match=r"the disk of the state directory is full: .*sandlot\.db: ") as refused:
        registry.put(too_much)
    assert str(small_disk) not in refused.value.public
    assert registry.all() == [kept]
    assert store.all() == [kept]
    with capture_logs():  # an end is not refused, even if it does not fit into the reserve
        stopped = registry.advance(kept.id, Event.STOP, message="x" * 200_000)
    assert registry.all() == [stopped]
    assert store.all() == [kept]

    ballast.unlink()
    monkeypatch.setattr(store_module, "FULL_S", 0.0)
    registry.put(too_much)
    registry.late_writes.catch_up()
    assert sorted(store.all(), key=str) == sorted([stopped, too_much], key=str)
    store.close()
    again = Store(small_disk / "state")
    assert sorted(sandbox.id for sandbox in again.all()) == sorted([kept.id, too_much.id])
    again.close()


@FILLED
def test_an_end_is_written_in_the_room_kept_for_it(small_disk: Path) -> None:
    """Nothing new gets that room: it is refused until the room is kept again."""
    store = Store(small_disk / "state")
    registry = Registry(store)
    first, second = registry.put(a_sandbox()), registry.put(a_sandbox())
    ballast = fill(small_disk)
    with capture_logs():
        stopped = registry.advance(first.id, Event.STOP, reason="DELETED")
    registry.forget(second.id)
    assert store.all() == [stopped]
    assert not registry.late_writes.is_late(first.id)

    for _ in range(3):
        with pytest.raises(StoreFull, match="no room for the reserve"):
            registry.put(a_sandbox())
    ballast.unlink()
    store.recover_room()
    registry.put(a_sandbox())
    assert fill(small_disk)
    assert Reserve(small_disk / "state").is_kept
    store.close()


def test_without_the_reserve_an_end_is_not_written(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is so all the same, but a server that is killed now would not know."""
    monkeypatch.setattr(Reserve, "release", lambda self: False)
    store = Store(small_disk / "state")
    registry = Registry(store)
    sandbox = registry.put(a_sandbox())
    fill(small_disk)
    with capture_logs():
        registry.advance(sandbox.id, Event.STOP, message="x" * 30_000)
    assert store.all() == [sandbox]
    store.close()


@FILLED
@pytest.mark.parametrize("is_reserve_used", [False, True])
def test_a_store_opens_on_a_disk_that_has_become_full(small_disk: Path, is_reserve_used: bool) -> None:
    """With the room that is kept, and without: then for itself alone, until there is room."""
    first = Store(small_disk / "state")
    instance, kept = first.instance(), a_sandbox()
    first.put(kept)
    first.close()
    if is_reserve_used:
        (small_disk / "state" / "reserve").unlink()
    ballast = fill(small_disk)

    with capture_logs():
        store = Store(small_disk / "state")
    assert store.instance() == instance
    assert store.all() == [kept]
    with pytest.raises(StoreFull):
        store.put(a_sandbox())
    ballast.unlink()
    store.recover_room()
    store.put(replace(kept, message="again"))
    with contextlib.closing(sqlite3.connect(small_disk / "state" / "sandlot.db")) as other:
        assert other.execute("SELECT count(*) FROM sandboxes").fetchone() == (1,)
    store.close()


def test_a_disk_without_room_for_a_further_file(small_disk: Path) -> None:
    """The same as no room at all."""
    first = Store(small_disk / "state")
    first.put(kept := a_sandbox())
    first.close()
    with contextlib.suppress(OSError):
        for number in range(100_000):
            (small_disk / str(number)).touch()
    with capture_logs():
        store = Store(small_disk / "state")
    assert store.all() == [kept]
    store.delete(kept.id)
    assert store.all() == []
    store.close()


def test_a_disk_that_is_full_from_the_start(small_disk: Path) -> None:
    """A clear error, not a traceback."""
    fill(small_disk)
    with pytest.raises(ConfigError, match=r"No space left|full|disk I/O error"):
        Store(small_disk / "state")


def test_a_checkpoint_empties_the_log(store: Store, tmp_path: Path) -> None:
    """From another thread's connection; readers on a shell are not in the way, and nothing is lost."""
    sandboxes = [a_sandbox() for _ in range(200)]
    for sandbox in sandboxes:
        store.put(sandbox)
    path = tmp_path / "state" / "sandlot.db"
    before = path.stat().st_size
    store.checkpoint()
    assert path.stat().st_size > before + 100 * 300
    assert sorted(sandbox.id for sandbox in store.all()) == sorted(sandbox.id for sandbox in sandboxes)


def test_somebody_on_a_shell_who_holds_the_database(store: Store, tmp_path: Path) -> None:
    """A write fails within a moment, instead of blocking the server for as long as they like."""
    holder = sqlite3.connect(tmp_path / "state" / "sandlot.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    began = time.perf_counter()
    for _ in range(100):
        with pytest.raises(StoreError, match="database is locked") as refused:
            store.put(a_sandbox())
        assert str(tmp_path) not in refused.value.public, "clients may not know paths of the host"
    # Only the first one waited for it; a hundred that wait take two seconds.
    assert time.perf_counter() - began < 100 * BUSY_TIMEOUT_S
    holder.execute("ROLLBACK")
    holder.close()
    store.put(a_sandbox())


def test_after_a_moment_a_write_is_patient_again(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the beginning: somebody who holds the database for an instant costs no request."""
    monkeypatch.setattr(store_module, "LOCKED_S", 0.0)
    holder = sqlite3.connect(tmp_path / "state" / "sandlot.db", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        with pytest.raises(StoreError, match="database is locked"):
            store.put(a_sandbox())
    releasing = threading.Timer(BUSY_TIMEOUT_S / 10, holder.execute, ["ROLLBACK"])
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_S", 30.0)
    store._is_patient = False  # so that the longer patience is set
    releasing.start()
    store.put(a_sandbox())
    releasing.join()
    holder.close()


@pytest.mark.parametrize(("told", "network"), [("true", Network.BRIDGE), ("false", Network.NONE)])
def test_records_of_earlier_releases_say_whether_there_is_a_network(
    told: str, network: Network, store: Store, tmp_path: Path
) -> None:
    """They are read as if they said which; what is no network at all cannot be read."""
    sandbox = a_sandbox()
    sandbox = replace(sandbox, spec=replace(sandbox.spec, network=network))
    store.put(sandbox)
    change = "UPDATE sandboxes SET record = replace(record, ?, ?)"
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "sandlot.db", isolation_level=None)) as database:
        database.execute(change, (f'"network":"{network.value}"', f'"network":{told}'))
        (record,) = database.execute("SELECT record FROM sandboxes").fetchone()
        assert f'"network":{told}' in record
        assert store.all() == [sandbox]
        database.execute(change, (f'"network":{told}', '"network":"pigeons"'))
    with pytest.raises(StoreError, match=rf"the record of sandbox {sandbox.id} cannot be read"):
        store.all()


def test_records_and_labels_of_earlier_releases_name_their_volumes(store: Store, tmp_path: Path) -> None:
    """Sandboxes of earlier releases keep their named volumes: records, volumes and labels have the names of before."""
    sandbox = a_sandbox()
    volume = Volume(name="v", mount_path="/v", volume_name="data", owner="bot")
    sandbox = replace(sandbox, spec=replace(sandbox.spec, volumes=(volume,)))
    store.put(sandbox)
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "sandlot.db")) as database:
        (record,) = database.execute("SELECT record FROM sandboxes").fetchone()
    assert json.loads(record)["spec"]["volumes"][0]["claim"] == "data"
    assert store.all() == [sandbox]
    assert (PREFIX, NAMED_VOLUME) == ("sandlot-claim-", "sandlot.claim.")
