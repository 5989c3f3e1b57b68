"""The registry: memory and store agree, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from controlplane.errors import Conflict, NotFound, StoreError
from controlplane.lifecycle.records import late_writes
from controlplane.lifecycle.records.registry import Registry
from controlplane.lifecycle.records.states import Event
from controlplane.sandbox import Sandbox, SandboxSpec, State
from controlplane.store.store import Store
from tests.support.server.control_plane import until

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def a_sandbox(sandbox_id: str = "one", **changes: object) -> Sandbox:
    sandbox = Sandbox(
        id=sandbox_id,
        container_id="c",
        requested_image="image",
        spec=SandboxSpec(image="image", entrypoint=("tail",)),
        state=State.PENDING,
        created_at=NOW,
        state_changed_at=NOW,
    )
    return replace(sandbox, **changes)


def test_a_change_is_in_the_store_at_once(store: Store) -> None:
    """A second registry, as after a kill, knows the same."""
    registry = Registry(store, now=lambda: NOW + timedelta(seconds=5))
    registry.put(a_sandbox())
    changed = registry.advance("one", Event.STARTED, reason="R", message="m")
    assert changed == a_sandbox(
        state=State.RUNNING, state_changed_at=NOW + timedelta(seconds=5), reason="R", message="m"
    )
    assert Registry(store).all() == [changed] == registry.all()
    registry.forget("one")
    registry.forget("one")
    assert Registry(store).all() == [] == registry.all()


def test_what_cannot_happen_changes_nothing(store: Store) -> None:
    """Neither in memory nor in the store."""
    registry = Registry(store)
    kept = registry.put(a_sandbox())
    with pytest.raises(Conflict):
        registry.advance("one", Event.GONE)
    assert registry.get("one") == kept
    assert store.all() == [kept]


def test_an_unknown_sandbox(store: Store) -> None:
    """`get` says so with a stable code, `find` returns None."""
    registry = Registry(store)
    with pytest.raises(NotFound, match="there is no sandbox nobody") as error:
        registry.get("nobody")
    assert error.value.code == "sandbox.not_found"
    assert registry.find("nobody") is None


def test_when_the_store_fails_the_memory_stays_as_it_was(tmp_path: Path) -> None:
    """Whatever a reader was told is what a restart will tell."""
    store = Store(tmp_path)
    registry = Registry(store)
    kept = registry.put(a_sandbox())
    store.close()
    with pytest.raises(StoreError):
        registry.put(a_sandbox("two"))
    with pytest.raises(StoreError):
        registry.advance("one", Event.STARTED)
    assert registry.all() == [kept]


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """While this lasts, another program holds the database."""
    holder = sqlite3.connect(directory / "sandlot.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    yield
    holder.close()


def test_an_end_is_so_even_if_it_cannot_be_written_down(store: Store, tmp_path: Path) -> None:
    """It is told once that it is late; it is written when the store takes it again, as it stands then."""
    registry = Registry(store)
    for name in ("one", "two", "three"):
        registry.put(a_sandbox(name, state=State.RUNNING))
    with locked(tmp_path / "state"), capture_logs() as logs:
        registry.advance("one", Event.FAIL)
        registry.advance("two", Event.STOP)
        registry.advance("two", Event.GONE)
        registry.forget("three")
        registry.late_writes.catch_up()
        assert registry.count()[State.RUNNING] == 0
        assert [sandbox.state for sandbox in store.all()] == [State.RUNNING] * 3
    assert [(entry["event"], entry["record"]) for entry in logs] == [
        ("store.late", "one"),
        ("store.late", "two"),
        ("store.late", "three"),
    ]
    registry.late_writes.catch_up()
    assert Registry(store).all() == registry.all()
    assert {sandbox.id: sandbox.state for sandbox in store.all()} == {"one": State.FAILED, "two": State.TERMINATED}
    assert not registry.late_writes.is_late("one")


def test_what_is_late_is_not_written_over_what_is_newer(store: Store, tmp_path: Path) -> None:
    """A change that could be written takes the place of one that could not."""
    registry = Registry(store)
    registry.put(a_sandbox(state=State.RUNNING))
    with locked(tmp_path / "state"), capture_logs():
        registry.advance("one", Event.STOP)
    newer = registry.put(replace(registry.get("one"), message="newer"))
    registry.late_writes.catch_up()
    assert store.all() == [newer]


async def test_what_is_late_is_written_by_itself(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon after the store takes it again."""
    monkeypatch.setattr(late_writes, "RETRY_S", 0.01)
    registry = Registry(store)
    registry.put(a_sandbox(state=State.RUNNING))
    catching_up = asyncio.ensure_future(registry.late_writes.catch_up_forever())
    with capture_logs():
        with locked(tmp_path / "state"):
            registry.advance("one", Event.STOP)
        await until(lambda: store.all() == registry.all())
    catching_up.cancel()
    await asyncio.wait([catching_up])


def test_newest_first_and_counted(store: Store) -> None:
    """Lists are in the order that the contract shows; every state has its count."""
    registry = Registry(store)
    for number, state in enumerate([State.RUNNING, State.RUNNING, State.FAILED]):
        registry.put(a_sandbox(str(number), state=state, created_at=NOW + timedelta(seconds=number)))
    assert [sandbox.id for sandbox in registry.all()] == ["2", "1", "0"]
    assert registry.count() == {
        **dict.fromkeys(State, 0),
        State.RUNNING: 2,
        State.FAILED: 1,
    }
