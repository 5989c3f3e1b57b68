"""When sandboxes expire: one heap for all of them."""

from __future__ import annotations

import heapq


class Deadlines:
    """Deadlines by sandbox id, in Unix seconds. Changing one leaves its old entry in the heap, to be skipped later."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._due)

    def set(self, sandbox_id: str, due: float) -> None:
        """Set or change a deadline."""
        self._due[sandbox_id] = due
        heapq.heappush(self._heap, (due, sandbox_id))
        if len(self._heap) > 2 * len(self._due) + 64:  # mostly old entries: one sandbox renewed again and again
            self._heap = [(due, sandbox_id) for sandbox_id, due in self._due.items()]
            heapq.heapify(self._heap)

    def drop(self, sandbox_id: str) -> None:
        """Forget a deadline. Idempotent."""
        self._due.pop(sandbox_id, None)

    def next_due(self) -> float | None:
        """Return the earliest deadline."""
        while self._heap:
            due, sandbox_id = self._heap[0]
            if self._due.get(sandbox_id) == due:
                return due
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now: float) -> list[str]:
        """Return the sandboxes whose deadline has passed, earliest first, and forget those deadlines."""
        expired = []
        while (due := self.next_due()) is not None and due <= now:
            _, sandbox_id = heapq.heappop(self._heap)
            del self._due[sandbox_id]
            expired.append(sandbox_id)
        return expired
