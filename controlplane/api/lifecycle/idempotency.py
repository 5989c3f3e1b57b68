"""The `Idempotency-Key` header: a request that is repeated, because its answer was lost, is done once.

As in draft-ietf-httpapi-idempotency-key-header, but with a 409 for a key that comes with another body: the contract
documents that status. Keys are remembered for a day, in memory: a restart of the server forgets them.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Generic, NamedTuple, TypeVar

from controlplane.errors import Conflict, InvalidRequest

HEADER = "idempotency-key"
MAX_KEY_CHARS = 255
KEPT_S = 24 * 3600.0
MAX_KEPT = 10_000

T = TypeVar("T")


class _Entry(NamedTuple, Generic[T]):
    digest: bytes
    began: float
    work: asyncio.Task[T]


class Idempotency(Generic[T]):
    """What was asked for under each key, and what came of it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: OrderedDict[tuple[str, str], _Entry[T]] = OrderedDict()  # the oldest first

    async def once(
        self, key: str | None, body: bytes, work: Callable[[], Coroutine[Any, Any, T]], *, owner: str = ""
    ) -> T:
        """Do the work and return what it gives; with a key that was seen, return what it gave then, or gives now.

        The same key of another *owner* is another key.

        Work that failed is forgotten, so that another try is one. Cancelling stops the wait, not the work.

        Raises:
            InvalidRequest: no key can look like that.
            Conflict: the key came with another body before.
        """
        if key is None:
            return await work()
        if not 0 < len(key) <= MAX_KEY_CHARS or not key.isprintable():
            raise InvalidRequest(f"Idempotency-Key: must have 1 to {MAX_KEY_CHARS} printable characters")
        self._forget_old()
        digest = hashlib.sha256(body).digest()
        entry = self._entries.get(mark := (owner, key))
        if entry is None:
            entry = self._entries[mark] = _Entry(digest, self._clock(), asyncio.create_task(work()))
            entry.work.add_done_callback(lambda work: self._settle(mark, work))
        elif entry.digest != digest:
            raise Conflict("Idempotency-Key: it came with another body before", code="request.key_reused")
        return await asyncio.shield(entry.work)

    def _settle(self, mark: tuple[str, str], work: asyncio.Task[T]) -> None:
        has_failed = work.cancelled() or work.exception() is not None
        # By then the key may have been forgotten, and have come again.
        if has_failed and (entry := self._entries.get(mark)) is not None and entry.work is work:
            del self._entries[mark]

    def _forget_old(self) -> None:
        deadline = self._clock() - KEPT_S
        while self._entries:
            oldest = next(iter(self._entries.values()))
            if oldest.began > deadline and len(self._entries) < MAX_KEPT:
                return
            self._entries.popitem(last=False)
