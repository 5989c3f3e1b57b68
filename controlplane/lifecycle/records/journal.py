"""What happened to each sandbox lately, for its owner: states, renewals, what the engine said. In memory only."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime

import msgspec

KEPT = 50  # entries of each sandbox


class Entry(msgspec.Struct, frozen=True):
    """One thing that happened."""

    at: datetime  # aware, UTC
    kind: str  # one word, such as Running or OutOfMemory
    text: str = ""


class Journal:
    """Entries by sandbox, and the last output of entrypoints that have ended."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._entries: dict[str, deque[Entry]] = {}
        self._output: dict[str, tuple[bytes, int]] = {}

    def note(self, sandbox_id: str, kind: str, text: str = "") -> None:
        """Write an entry; beyond the last fifty the oldest is dropped."""
        self._entries.setdefault(sandbox_id, deque(maxlen=KEPT)).append(Entry(self._now(), kind, text))

    def entries(self, sandbox_id: str) -> list[Entry]:
        """Return the entries of a sandbox, oldest first."""
        return list(self._entries.get(sandbox_id, ()))

    def is_full(self, sandbox_id: str) -> bool:
        """Return whether entries may have been dropped."""
        return len(self._entries.get(sandbox_id, ())) == KEPT

    def keep_output(self, sandbox_id: str, output: bytes, end: int) -> None:
        """Keep what an entrypoint said last. *end* is the number of bytes that it said in all."""
        self._output[sandbox_id] = output, end

    def output(self, sandbox_id: str) -> tuple[bytes, int] | None:
        """Return what an ended entrypoint said last, and the number of bytes that it said in all.

        None while it runs, and if that is not known any more.
        """
        return self._output.get(sandbox_id)

    def forget(self, sandbox_id: str) -> None:
        """Drop all of a sandbox. Idempotent."""
        self._entries.pop(sandbox_id, None)
        self._output.pop(sandbox_id, None)
