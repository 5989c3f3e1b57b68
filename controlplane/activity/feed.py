"""The activity of one sandbox as it comes, for all that watch it: read once, and encoded once.

A feed keeps the last entries. Each watcher has a place of its own among them; one that falls behind all of them loses
some, is told so, and delays nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from controlplane.errors import AgentError, LinkLost
from controlplane.link.stream import Stream
from execd.wire.messages import (
    ActivityDropped,
    ActivityItem,
    RunOutput,
)

# What a feed keeps for its watchers.
KEPT_BYTES = 2 << 20
KEPT_ENTRIES = 4096
ENTRY_BYTES = 512  # the memory of an entry, beside its content
# What all watchers of a sandbox are told in a second, after a burst. A flood is faster than people can read.
BYTES_PER_S = 2 << 20
BURST_BYTES = 2 << 20
# A watcher takes at most so much at a time, and holds as much while its client does not read.
BATCH_BYTES = 256 << 10

SLOW, DROPPED = "slow", "dropped"  # why a watcher does not get entries: it did not read, the sandbox has not kept them

# Makes what clients get of an item, which a hijacked agent may have made up. The word says why entries are missing.
View = Callable[[ActivityItem, str], Any]


class Entry:
    """One entry, encoded when a watcher first needs it, and for all others."""

    __slots__ = ("_json", "_msgpack", "_sse", "number", "since", "size", "view")

    def __init__(self, item: ActivityItem, view: View, reason: str = DROPPED) -> None:
        """Make the entry of an item. *reason* is why entries are missing, where the item says that some are."""
        self.number = item.number
        self.since = item.said.since if isinstance(item.said, ActivityDropped) else item.number
        self.size = _size(item)
        self.view = view(item, reason)
        self._json = self._msgpack = self._sse = b""

    @property
    def json(self) -> bytes:
        """The entry as JSON."""
        self._json = self._json or msgspec.json.encode(self.view)
        return self._json

    @property
    def msgpack(self) -> bytes:
        """The entry as msgpack."""
        self._msgpack = self._msgpack or msgspec.msgpack.encode(self.view)
        return self._msgpack

    @property
    def sse(self) -> bytes:
        """The entry as a server-sent event."""
        self._sse = self._sse or b"id: %d\ndata: %b\n\n" % (self.number, self.json)
        return self._sse


class Items:
    """Checks what an agent says of an activity, and makes entries of it."""

    def __init__(self, view: View, after: int) -> None:
        self.after = after
        self._view = view

    def entry_of(self, item: object) -> Entry:
        """Return the next entry. Raises AgentError: the agent said what may not come now."""
        if isinstance(item, ActivityItem):
            entry = Entry(item, self._view)
            if entry.since == self.after + 1 <= entry.number:
                self.after = entry.number
                return entry
        raise AgentError("the agent told the activity of its sandbox out of order", code="internal")


class Feed:
    """The entries that come, from one number on."""

    def __init__(self, after: int) -> None:
        self.last = after
        self.is_over = False
        self.watchers = 0
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def first(self) -> int:
        """The number from which on entries are kept; `last + 1` if none is."""
        return self._entries[0].since if self._entries else self.last + 1

    async def follow(self, stream: Stream, items: Items) -> None:
        """Take entries from a stream for as long as there is one, no faster than people are told them.

        Raises:
            LinkLost, AgentError: the stream has ended, or the agent said what may not come.
        """
        pace = _Pace()
        while True:
            item = await stream.receive()
            if item is None:
                raise LinkLost("the agent has ended the activity of its sandbox")
            while item is not None:
                self._put(items.entry_of(item))
                pace.spend(self._entries[-1].size)
                item = stream.receive_nowait()
            self._wake()
            if (wait_s := pace.wait_s()) > 0:
                await asyncio.sleep(wait_s)

    def after(self, number: int) -> list[Entry]:
        """Return what is kept after a number, at most BATCH_BYTES; the caller looks for gaps."""
        batch: list[Entry] = []
        size = 0
        if number >= self.last:
            return batch
        place = len(self._entries)
        while place and self._entries[place - 1].number > number:
            place -= 1
        for at in range(place, len(self._entries)):
            entry = self._entries[at]
            batch.append(entry)
            size += entry.size
            if size >= BATCH_BYTES:
                break
        return batch

    async def changed(self) -> None:
        """Return after something has come, or nothing will any more."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        await waiting

    def close(self) -> None:
        """Note that nothing comes any more."""
        self.is_over = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    def _put(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._bytes += entry.size
        self.last = entry.number
        while self._bytes > KEPT_BYTES or len(self._entries) > KEPT_ENTRIES:
            if len(self._entries) == 1:
                break
            self._bytes -= self._entries.popleft().size


def without(since: int, to: int, view: View) -> Entry:
    """Return the entry that tells a slow watcher which entries it does not get."""
    return Entry(ActivityItem(to, 0.0, "", ActivityDropped(since)), view, SLOW)


class _Pace:
    """Says how long to wait so that not more than BYTES_PER_S are told, after a burst."""

    def __init__(self) -> None:
        self._left = float(BURST_BYTES)
        self._at = time.monotonic()

    def spend(self, size: int) -> None:
        """Note that something was told."""
        self._left -= size

    def wait_s(self) -> float:
        """Return how long to wait now; 0: not at all."""
        now = time.monotonic()
        self._left = min(BURST_BYTES, self._left + (now - self._at) * BYTES_PER_S)
        self._at = now
        return max(0.0, -self._left / BYTES_PER_S)


def _size(item: ActivityItem) -> int:
    """Return about how many bytes an entry takes, here and in a socket."""
    if isinstance(item.said, RunOutput):
        return ENTRY_BYTES + len(item.said.data)
    return ENTRY_BYTES + _size_of(item.op) + _size_of(item.said)


def _size_of(value: object) -> int:
    """Return the bytes of all texts in a value: a hijacked agent may put them anywhere."""
    match value:
        case str() | bytes():
            return value.__sizeof__()
        case dict():
            return sum(_size_of(key) + _size_of(each) for key, each in value.items())
        case tuple():
            return sum(map(_size_of, value))
        case msgspec.Struct():
            return sum(_size_of(getattr(value, name)) for name in value.__struct_fields__)
    return 0
