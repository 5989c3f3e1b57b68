"""The registry: memory and store agree, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from controlplane.errors import Conflict, NotFound
from controlplane.lifecycle.registry import Registry
from controlplane.lifecycle.states import Event
from controlplane.sandbox import Sandbox, SandboxSpec, State
from controlplane.store import Store, StoreError

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


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


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
    with pytest.raises(StoreError):
        registry.forget("one")
    assert registry.all() == [kept]


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
