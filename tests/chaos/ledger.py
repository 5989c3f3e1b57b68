"""What the clients were told, and so what has to be true: the ledger that the server is held against."""

from __future__ import annotations

import enum
from collections import Counter

RUNNING, PAUSED, ENDED, GONE = "Running", "Paused", "ended", "gone"  # "ended": Failed or Terminated, and still known


class Kind(enum.Enum):
    """What became of an operation."""

    DONE = "done"  # acknowledged: what was asked for is so
    REFUSED = "refused"  # with a status of 400 to 499: nothing was changed
    FAILED = "failed"  # with a status from 500: it may have been carried out in part
    LOST = "lost"  # no answer: it may have been carried out, or not


class Facts:
    """What is known of one sandbox. `may_be`: every state that fits to what its client was told."""

    def __init__(self, sandbox_id: str) -> None:
        self.id = sandbox_id
        self.may_be = {RUNNING}
        self.is_killed = False  # its container was; a paused one dies when it is resumed
        self.files: dict[str, set[str]] = {}  # path → the contents that it may have
        self.commands: list[str] = []  # background commands, which go on
        self.recorded: list[str] = []  # recorded runs, which have ended
        self.deadlines: set[str] = set()  # that it may have; empty: nobody has changed the first one
        self.due: float | None = None  # Unix time, s, of the acknowledged deadline

    def can_be(self, *states: str) -> None:
        """Something is tried, or happens, that may bring about these states."""
        self.may_be |= set(states)

    def is_now(self, state: str) -> None:
        """It was acknowledged."""
        self.may_be = {state, ENDED} if self.is_killed else {state}

    def kill(self) -> None:
        """Its container is killed, from outside."""
        self.is_killed = True
        self.can_be(ENDED)


class Ledger:
    """All that is known, by sandbox; and the counts of a run."""

    def __init__(self) -> None:
        self.sandboxes: dict[str, Facts] = {}
        self.gone: set[str] = set()
        self.unanswered_creates: set[str] = set()  # by the tag in their metadata
        self.snapshots: set[str] = set()
        self.unanswered_snapshots = 0
        self.operations: Counter[tuple[str, Kind]] = Counter()
        self.errors: Counter[str] = Counter()
        self.disasters: Counter[str] = Counter()
        self.violations: list[str] = []

    def count(self, operation: str, kind: Kind, error: str = "") -> None:
        """One operation has ended."""
        self.operations[operation, kind] += 1
        if error:
            self.errors[f"{operation}: {error}"] += 1

    def forget(self, sandbox_id: str) -> None:
        """A sandbox is gone for good: nobody may find it again."""
        self.sandboxes.pop(sandbox_id, None)
        self.gone.add(sandbox_id)
