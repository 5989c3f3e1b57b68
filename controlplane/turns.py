"""Turns of the event loop: the amount of foreign data that one loop handles before it lets other tasks run.

An `await` that need not wait does not yield. A loop whose peer never pauses would occupy the event loop for as long as
the peer likes. Such a loop spends a `Turn`.
"""

from __future__ import annotations

import asyncio

# A turn ends after this number of bytes or items, whichever comes first: below a millisecond in most loops.
TURN_BYTES = 64 << 10
TURN_ITEMS = 256


class Turn:
    """The budget of one loop. After the budget is spent, the loop yields to other tasks, and a new turn begins."""

    __slots__ = ("_bytes", "_items", "_most_bytes", "_most_items")

    def __init__(self, most_bytes: int | None = None, most_items: int | None = None) -> None:
        """Begin a turn of TURN_BYTES and TURN_ITEMS by default. Pass fewer items if one item costs much."""
        self._most_bytes = self._bytes = TURN_BYTES if most_bytes is None else most_bytes
        self._most_items = self._items = TURN_ITEMS if most_items is None else most_items

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return self._bytes <= 0 or self._items <= 0

    def take(self, size: int) -> None:
        """Spend one item of *size* bytes, without yielding. Call `rest` before the next item."""
        self._bytes -= size
        self._items -= 1

    async def rest(self) -> None:
        """Yield to the event loop if the turn is over. Cancellation is safe."""
        if self._bytes <= 0 or self._items <= 0:
            self._bytes, self._items = self._most_bytes, self._most_items
            await asyncio.sleep(0)

    async def spend(self, size: int) -> None:
        """Spend one item of *size* bytes; yield to the event loop if it was the last one of this turn."""
        self.take(size)
        await self.rest()
