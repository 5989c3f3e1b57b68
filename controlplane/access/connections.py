"""The open requests, streams and WebSockets of every key, which end with the key."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from controlplane.access.scopes import Caller


class KeyEnded(Exception):
    """The key of a connection was withdrawn, changed or has expired while the connection was open."""


class KeyConnections:
    """The open connections of all keys."""

    def __init__(self) -> None:
        self._open: dict[str, set[asyncio.Timeout]] = {}  # by id of the key

    @contextlib.asynccontextmanager
    async def held(self, caller: Caller, now: float) -> AsyncIterator[None]:
        """Hold a connection open inside of the block, for a caller with a key. *now* is Unix time in s.

        Raises:
            KeyEnded: the key has ended, and the block was cancelled.
        """
        delay_s = None if caller.expires_at is None else max(0.0, caller.expires_at - now)
        mine = self._open.setdefault(caller.key_id, set())
        timeout = asyncio.timeout(delay_s)
        try:
            async with timeout:
                mine.add(timeout)
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise KeyEnded from None
        finally:
            mine.discard(timeout)
            if not mine and self._open.get(caller.key_id) is mine:
                del self._open[caller.key_id]

    def end(self, key_id: str) -> None:
        """End all connections of a key, as soon as the event loop comes to them."""
        now = asyncio.get_running_loop().time()
        for timeout in self._open.get(key_id, ()):
            if not timeout.expired():
                timeout.reschedule(now)
