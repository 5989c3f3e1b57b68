"""How much a loop does in one turn of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Steps:
    """The largest step that a counter made between two turns of the event loop, and how many turns there were."""

    def __init__(self) -> None:
        self.largest = 0
        self.turns = 0


@contextmanager
def steps_of(progress: Callable[[], int]) -> Iterator[Steps]:
    """Watch a counter inside the block. The event loop never rests meanwhile."""
    steps = Steps()
    last = progress()
    loop = asyncio.get_running_loop()
    handle: asyncio.Handle

    def look() -> None:
        nonlocal last, handle
        now = progress()
        steps.largest = max(steps.largest, now - last)
        steps.turns += 1
        last = now
        handle = loop.call_soon(look)

    handle = loop.call_soon(look)
    try:
        yield steps
    finally:
        steps.largest = max(steps.largest, progress() - last)
        handle.cancel()


def most_in_one_turn(monkeypatch: pytest.MonkeyPatch, kind: type, method: str) -> Callable[[], int]:
    """Count calls of a method between two turns of the loop; returns what tells the most so far."""
    counts = [0]
    real = getattr(kind, method)

    def counting(self: Any, *args: Any) -> Any:
        counts[-1] += 1
        return real(self, *args)

    def next_turn() -> None:
        counts.append(0)
        loop.call_soon(next_turn)

    loop = asyncio.get_running_loop()
    loop.call_soon(next_turn)
    monkeypatch.setattr(kind, method, counting)
    return lambda: max(counts)
