"""The memory that clients occupy: incomplete bodies and messages, and waiting input."""

from __future__ import annotations

from typing import Protocol

from controlplane.listener.bounds import FREE_BODY_BYTES, MAX_HELD_BYTES


class Holder(Protocol):
    """A connection that holds memory."""

    def give_up(self) -> None:
        """End the connection: all clients together hold too much."""


class Memory:
    """A budget in bytes for all connections. Beyond it, the connection that has held memory for longest ends.

    A quick client holds memory for milliseconds, so the oldest holder is slow, or hostile. If the server refused the
    newest instead, a client that fills the budget would lock out all others.
    """

    def __init__(self, limit: int | None = None) -> None:
        """Allow *limit* bytes, or MAX_HELD_BYTES without it."""
        self._limit = MAX_HELD_BYTES if limit is None else limit
        self._held: dict[Holder, int] = {}  # the oldest first
        self.total = 0  # bytes

    def hold(self, holder: Holder, size: int) -> None:
        """Set the number of bytes that a connection holds; the first FREE_BODY_BYTES do not count."""
        before = self._held.pop(holder, 0) if size <= FREE_BODY_BYTES else self._held.get(holder, 0)
        now = size if size > FREE_BODY_BYTES else 0
        if now:
            self._held[holder] = now
        self.total += now - before
        while self.total > self._limit:
            oldest = next(iter(self._held))
            self.total -= self._held.pop(oldest)
            oldest.give_up()
