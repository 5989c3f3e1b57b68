"""The open requests, streams and WebSockets of every key and sign-in, which end with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from controlplane.access.scopes import Caller


class KeyEnded(Exception):
    """The key or the sign-in of a connection ended, or the key was changed, while the connection was open."""


class KeyConnections:
    """The open connections of all keys and sign-ins."""

    def __init__(self) -> None:
        self._open: dict[
            str, dict[asyncio.Timeout, asyncio.Task[object] | None]
        ] = {}  # by id of the key, and of the sign-in

    @contextlib.asynccontextmanager
    async def held(self, caller: Caller, now: float) -> AsyncIterator[None]:
        """Hold a connection open inside of the block, for a caller with a key. *now* is Unix time in s.

        Raises:
            KeyEnded: the key has ended, and the block was cancelled.
        """
        delay_s = None if caller.expires_at is None else max(0.0, caller.expires_at - now)
        holders = (caller.key_id, caller.sign_in) if caller.sign_in else (caller.key_id,)
        timeout = asyncio.timeout(delay_s)
        try:
            async with timeout:
                for holder in holders:
                    self._open.setdefault(holder, {})[timeout] = asyncio.current_task()
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise KeyEnded from None
        finally:
            for holder in holders:
                if mine := self._open.get(holder):
                    mine.pop(timeout, None)
                    if not mine:
                        del self._open[holder]

    def end(self, holder: str) -> None:
        """End all connections of the key or the sign-in with that id, as soon as the event loop comes to them."""
        now = asyncio.get_running_loop().time()
        for timeout in self._open.get(holder, ()):
            if not timeout.expired():
                timeout.reschedule(now)

    def end_others(self, holder: str) -> None:
        """End all these connections but the one that the running task serves: its answer is still to be sent."""
        now, me = asyncio.get_running_loop().time(), asyncio.current_task()
        for timeout, task in self._open.get(holder, {}).items():
            if task is not me and not timeout.expired():
                timeout.reschedule(now)
