"""All sandboxes, in memory and in the store: get and list never ask the engine."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime

from msgspec.structs import replace

from controlplane.errors import Conflict, NotFound, SandboxEnded
from controlplane.lifecycle.records.journal import Journal
from controlplane.lifecycle.records.late_writes import LateWrites
from controlplane.lifecycle.records.states import CLAIMED, INTENTS, LIVE, Event, advance
from controlplane.sandbox import Sandbox, State, how_it_ended, is_gone
from controlplane.store.store import Store


def utc_now() -> datetime:
    """Return the time now, aware."""
    return datetime.now(UTC)


def no_such_sandbox(sandbox_id: str) -> NotFound:
    """Return what is said of a sandbox that does not exist, or not for the caller: the same words."""
    return NotFound(f"there is no sandbox {sandbox_id}", code="sandbox.not_found")


class Registry:
    """Sandboxes by id. A change is in the store before any client sees it; changes of state are in the journal too.

    What has happened, such as an end, is the exception: `late_writes` has what could not be written down yet.
    """

    def __init__(self, store: Store, now: Callable[[], datetime] = utc_now) -> None:
        self.journal = Journal(now)
        self.late_writes = LateWrites()
        # Called with a record before and after each change; None where there is none.
        self.on_change: Callable[[Sandbox | None, Sandbox | None], None] = _tell_nobody
        self._store = store
        self._now = now
        self._sandboxes: dict[str, Sandbox] = {sandbox.id: sandbox for sandbox in store.all()}

    def get(self, sandbox_id: str) -> Sandbox:
        """Return a sandbox as clients may see it.

        Raises:
            NotFound: there is none with this id (any more): also when its container is still being removed.
        """
        sandbox = self.find(sandbox_id)
        if sandbox is None or is_gone(sandbox):
            raise no_such_sandbox(sandbox_id)
        return sandbox

    def get_lasting(self, sandbox_id: str) -> Sandbox:
        """Return a sandbox that has not ended and is not about to end. Raises NotFound, SandboxEnded."""
        sandbox = self.get(sandbox_id)
        if sandbox.state not in LIVE or sandbox.state is State.STOPPING:
            raise SandboxEnded(f"sandbox {sandbox_id} is {sandbox.state.value}{how_it_ended(sandbox)}")
        return sandbox

    def find(self, sandbox_id: str) -> Sandbox | None:
        """Return the record of a sandbox, or None."""
        return self._sandboxes.get(sandbox_id)

    def owner_of(self, sandbox_id: str) -> str:
        """Return whose a sandbox is; "" if it has ended, or there is none."""
        sandbox = self.find(sandbox_id)
        return sandbox.owner if sandbox is not None and sandbox.state in CLAIMED else ""

    def ids(self) -> Collection[str]:
        """Return the ids of all records."""
        return self._sandboxes.keys()

    def visible(self) -> list[Sandbox]:
        """Return all sandboxes that clients may see, newest first."""
        return [sandbox for sandbox in self.all() if not is_gone(sandbox)]

    def all(self) -> list[Sandbox]:
        """Return all records, newest first."""
        return sorted(self._sandboxes.values(), key=lambda sandbox: sandbox.created_at, reverse=True)

    def count(self) -> dict[State, int]:
        """Return how many sandboxes are in each state."""
        counts = dict.fromkeys(State, 0)
        for sandbox in self._sandboxes.values():
            counts[sandbox.state] += 1
        return counts

    def put(self, sandbox: Sandbox) -> Sandbox:
        """Keep a sandbox, new or changed, and return it. Raises StoreError: then nothing was changed."""
        self._store.put(sandbox)
        self.late_writes.written(sandbox.id)
        self._replace(sandbox)
        return sandbox

    def advance(self, sandbox_id: str, event: Event, *, reason: str = "", message: str = "") -> Sandbox:
        """Move a sandbox to its next state and return it.

        Raises:
            NotFound, Conflict: there is no such sandbox, or that cannot happen to it now.
            StoreError: it cannot be written down, so that nothing was changed. What has happened is never refused so.
        """
        sandbox = self.get(sandbox_id)
        try:
            state = advance(sandbox.state, event)
        except Conflict as error:
            raise Conflict(error.message + how_it_ended(sandbox), code=error.code) from None
        sandbox = replace(sandbox, state=state, state_changed_at=self._now(), reason=reason, message=message)
        if event in INTENTS:
            self.put(sandbox)
        else:
            self.settle(sandbox)
        self.journal.note(sandbox_id, state.value, f"{reason}: {message}" if message else reason)
        return sandbox

    def settle(self, sandbox: Sandbox) -> None:
        """Keep what is so anyway, and write it down now or as soon as that can be done."""
        self._replace(sandbox)
        self.late_writes.write(sandbox.id, lambda: self._write(sandbox.id))

    def forget(self, sandbox_id: str) -> None:
        """Drop a sandbox. Idempotent."""
        before = self._sandboxes.pop(sandbox_id, None)
        self.on_change(before, None)
        self.journal.forget(sandbox_id)
        self.late_writes.write(sandbox_id, lambda: self._write(sandbox_id))

    def _replace(self, sandbox: Sandbox) -> None:
        before = self._sandboxes.get(sandbox.id)
        self._sandboxes[sandbox.id] = sandbox
        self.on_change(before, sandbox)

    def _write(self, sandbox_id: str) -> None:
        """Have the store know of a sandbox what the memory does. Raises StoreError."""
        if (sandbox := self._sandboxes.get(sandbox_id)) is None:
            self._store.delete(sandbox_id)
        else:
            self._store.put(sandbox, has_happened=True)


def _tell_nobody(_before: Sandbox | None, _after: Sandbox | None) -> None:
    """Stand for a listener to changes."""
