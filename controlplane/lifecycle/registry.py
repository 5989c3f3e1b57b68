"""All sandboxes, in memory and in the store: get and list never ask the engine."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from msgspec.structs import replace

from controlplane.errors import NotFound
from controlplane.lifecycle.journal import Journal
from controlplane.lifecycle.states import Event, advance
from controlplane.sandbox import Sandbox, State
from controlplane.store import Store


def utc_now() -> datetime:
    """Return the time now, aware."""
    return datetime.now(UTC)


class Registry:
    """Sandboxes by id. Every change is in the store before anybody sees it; changes of state are in the journal too."""

    def __init__(self, store: Store, now: Callable[[], datetime] = utc_now) -> None:
        self.journal = Journal(now)
        self._store = store
        self._now = now
        self._sandboxes: dict[str, Sandbox] = {sandbox.id: sandbox for sandbox in store.all()}

    def get(self, sandbox_id: str) -> Sandbox:
        """Return a sandbox.

        Raises:
            NotFound: there is none with this id (any more).
        """
        try:
            return self._sandboxes[sandbox_id]
        except KeyError:
            raise NotFound(f"there is no sandbox {sandbox_id}", code="sandbox.not_found") from None

    def find(self, sandbox_id: str) -> Sandbox | None:
        """Return a sandbox, or None."""
        return self._sandboxes.get(sandbox_id)

    def all(self) -> list[Sandbox]:
        """Return all sandboxes, newest first."""
        return sorted(self._sandboxes.values(), key=lambda sandbox: sandbox.created_at, reverse=True)

    def count(self) -> dict[State, int]:
        """Return how many sandboxes are in each state."""
        counts = dict.fromkeys(State, 0)
        for sandbox in self._sandboxes.values():
            counts[sandbox.state] += 1
        return counts

    def put(self, sandbox: Sandbox) -> Sandbox:
        """Keep a sandbox, new or changed, and return it."""
        self._store.put(sandbox)
        self._sandboxes[sandbox.id] = sandbox
        return sandbox

    def advance(self, sandbox_id: str, event: Event, *, reason: str = "", message: str = "") -> Sandbox:
        """Move a sandbox to its next state and return it.

        Raises:
            NotFound, Conflict: there is no such sandbox, or that cannot happen to it now.
        """
        sandbox = self.get(sandbox_id)
        state = advance(sandbox.state, event)
        sandbox = self.put(replace(sandbox, state=state, state_changed_at=self._now(), reason=reason, message=message))
        self.journal.note(sandbox_id, state.value, f"{reason}: {message}" if message else reason)
        return sandbox

    def forget(self, sandbox_id: str) -> None:
        """Drop a sandbox. Idempotent."""
        self._store.delete(sandbox_id)
        self._sandboxes.pop(sandbox_id, None)
        self.journal.forget(sandbox_id)
