"""All connections of a listener: their number, which of them make room for new ones, and their time limits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from controlplane.listener.bounds import MAX_REFUSED, SWEEP_S


class Connection(Protocol):
    """A connection by one of the bounded protocols, HTTP or WebSocket."""

    def check(self, now: float) -> None:
        """Enforce the time limits; *now* is the event loop's time."""

    def make_room(self) -> None:
        """End this idle or stalled connection at once."""


class ConnectionTable:
    """The connections of one listener.

    At the limit, an idle connection makes room for a new one: the oldest of the address that has most of them.
    Connections without any request go first, and connections whose clients take nothing of an answer go last. So a
    client that opens connections and sends or reads nothing loses them, and a client with a request is served. The
    server refuses a new connection only if all are at work.
    """

    def __init__(self, most: int, most_of_one: int, is_trusted: Callable[[str], bool]) -> None:
        """Allow *most* connections, and *most_of_one* from one address; 0 is no limit. A trusted proxy has no limit."""
        self._most = most
        self._most_of_one = most_of_one
        self._is_trusted = is_trusted
        self._all: dict[Connection, str] = {}  # with the addresses
        self._of_address: Counter[str] = Counter()
        self._silent = _Idle()  # before their first request
        self._idle = _Idle()  # after one
        self._stalled = _Idle()  # in the middle of an answer
        self._refused: dict[Connection, None] = {}  # that read their refusal; the oldest first
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._all)

    def admit(self, connection: Connection, address: str) -> bool:
        """Count a new, idle connection. Return False without room: the caller must refuse and end the connection."""
        if not self._has_room(address):
            return self._refuse(connection)
        self._all[connection] = address
        self._of_address[address] += 1
        self.rest(connection, is_new=True)
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a closed connection."""
        self._refused.pop(connection, None)
        if (address := self._all.pop(connection, None)) is None:
            return
        self._forget_idle(connection, address)
        self._stalled.discard(connection, address)
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]

    def replace(self, old: Connection, new: Connection) -> None:
        """Count *new* instead of *old* for a connection that changes its protocol, and is at work."""
        if (address := self._all.pop(old, None)) is not None:
            self._forget_idle(old, address)
            self._stalled.discard(old, address)
            self._all[new] = address

    def rest(self, connection: Connection, *, is_new: bool) -> None:
        """Mark a connection as idle: it may have to make room."""
        if (address := self._all.get(connection)) is not None:
            (self._silent if is_new else self._idle).add(connection, address)

    def work(self, connection: Connection) -> None:
        """Mark a connection as at work: a request has begun."""
        if (address := self._all.get(connection)) is not None:
            self._forget_idle(connection, address)

    def stall(self, connection: Connection, *, has_stalled: bool) -> None:
        """Mark whether the client of a connection takes nothing of its answer."""
        if (address := self._all.get(connection)) is not None:
            if has_stalled:
                self._stalled.add(connection, address)
            else:
                self._stalled.discard(connection, address)

    def watch(self) -> None:
        """Start to enforce the time limits of all connections, until `close`."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [*self._all, *self._refused]:
            connection.check(now)
        self._timer = loop.call_later(SWEEP_S, self.watch)

    def close(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()

    def _has_room(self, address: str) -> bool:
        """Return whether an address may have one more connection, after making room if possible."""
        if self._most_of_one and self._of_address[address] >= self._most_of_one and not self._is_trusted(address):
            oldest = (kind.oldest_of(address) for kind in (self._silent, self._idle, self._stalled))
            return self._make_room(next(filter(None, oldest), None))
        if self._most and len(self._all) >= self._most:
            oldest = (kind.oldest() for kind in (self._silent, self._idle, self._stalled))
            return self._make_room(next(filter(None, oldest), None))
        return True

    def _refuse(self, connection: Connection) -> bool:
        self._refused[connection] = None
        if len(self._refused) > MAX_REFUSED:
            oldest = next(iter(self._refused))
            del self._refused[oldest]
            oldest.make_room()
        return False

    def _forget_idle(self, connection: Connection, address: str) -> None:
        self._silent.discard(connection, address)
        self._idle.discard(connection, address)

    def _make_room(self, oldest: Connection | None) -> bool:
        if oldest is None:
            return False
        self.remove(oldest)
        oldest.make_room()
        return True


class _Idle:
    """Connections by address, in the order of their arrival."""

    def __init__(self) -> None:
        self._of: dict[str, dict[Connection, None]] = {}

    def add(self, connection: Connection, address: str) -> None:
        """Add a connection at the end."""
        self._of.setdefault(address, {})[connection] = None

    def discard(self, connection: Connection, address: str) -> None:
        """Remove a connection, if it is here."""
        if (those := self._of.get(address)) is not None:
            those.pop(connection, None)
            if not those:
                del self._of[address]

    def oldest_of(self, address: str) -> Connection | None:
        """Return the oldest connection of an address."""
        return next(iter(self._of.get(address, ())), None)

    def oldest(self) -> Connection | None:
        """Return the oldest connection of the address that has most of them."""
        return self.oldest_of(max(self._of, key=lambda address: len(self._of[address]), default=""))
