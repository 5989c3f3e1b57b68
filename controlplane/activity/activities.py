"""The activities of all sandboxes: read for a range, or watched as they come.

Neither counts as a use of the sandbox. A watcher reads what the sandbox has kept on a stream of its own, as fast as its
client takes it; then it joins the feed of the sandbox, which is one for all of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

import structlog

from controlplane.activity.feed import BATCH_BYTES, Entry, Feed, Items, View, without
from controlplane.errors import CapacityExhausted, LinkLost, SandlotError
from controlplane.link.directory import Directory
from controlplane.link.link import Link
from controlplane.link.stream import Stream
from controlplane.tasks import Background
from execd.wire.messages import ActivityNote, ActivityRange, ActivityRead, Done

log = structlog.get_logger()

MAX_WATCHERS = 64  # of one sandbox, and readers of ranges: each may hold a stream's window
RELINK_TIMEOUT_S = 5.0  # execd connects again within a second after a restart of the server
NEXT_TRY_S = 0.2  # after a link that was lost at once
NOTE_TIMEOUT_S = 1.0  # an agent answers within a millisecond; what it is told is not worth a longer wait
HISTORY_TRIES = 3  # to catch up with a feed that is ahead; then the watcher does without the rest


class Page(NamedTuple):
    """The newest part of an activity, and what the sandbox keeps now."""

    keep: str
    first: int
    last: int
    entries: list[Entry]


class Activities:
    """Reads the activities of sandboxes.

    Args:
        directory: Has the links.
        is_live: Returns whether a sandbox exists and is not about to end.
        view: Makes what clients get of an entry.
        background: Owns the feeds.
    """

    def __init__(
        self, directory: Directory, is_live: Callable[[str], bool], view: View, background: Background
    ) -> None:
        self.view = view
        self._directory = directory
        self._is_live = is_live
        self._background = background
        self._feeds: dict[str, Feed] = {}
        self._following: dict[str, asyncio.Task[None]] = {}
        self._watchers: Counter[str] = Counter()

    async def read_out(self, sandbox_id: str, most_bytes: int) -> Page:
        """Return the newest entries, which take at most *most_bytes* together.

        Raises:
            LinkLost: the agent is not connected, and did not come back in time.
            Conflict: the agent is of a release that keeps no activity.
            AgentError: the agent broke the rules.
        """
        reading = await self.open(sandbox_id, ActivityRead())
        try:
            kept = await reading.stream.expect(ActivityRange)
            entries: deque[Entry] = deque()
            items, size = Items(self.view, 0), 0
            while (item := await reading.stream.receive()) is not None:
                entries.append(items.entry_of(item))
                size += entries[-1].size
                while size > most_bytes:
                    size -= entries.popleft().size
        finally:
            reading.close()
        return Page(kept.keep, kept.first, kept.last, list(entries))

    async def watch(self, sandbox_id: str, after: int, *, follow: bool = True) -> Watcher:
        """Return a watcher that begins with the entry after a number. Raises as `read_out`, and CapacityExhausted."""
        if self._watchers[sandbox_id] >= MAX_WATCHERS:
            raise CapacityExhausted(f"{MAX_WATCHERS} clients watch sandbox {sandbox_id} already; end one of them")
        self._watchers[sandbox_id] += 1
        watcher = Watcher(self, sandbox_id, after, follow=follow)
        try:
            await watcher.open()
        except BaseException:
            watcher.close()
            raise
        return watcher

    def is_watched(self, sandbox_id: str) -> bool:
        """Return whether a client watches the activity of a sandbox."""
        return self._watchers.get(sandbox_id, 0) > 0

    async def note(self, sandbox_id: str, state: str, reason: str = "") -> bool:
        """Have a sandbox enter a state that its agent cannot know. Return whether the agent answers. Never raises."""
        link = self._directory.get(sandbox_id)
        if link is None or not link.tells_actors:
            return False
        link.watches += 1
        try:
            async with asyncio.timeout(NOTE_TIMEOUT_S):
                await link.call(ActivityNote(state, reason), Done)
        except (SandlotError, TimeoutError):
            return False
        else:
            return True
        finally:
            link.watches -= 1

    # -- for watchers

    async def open(self, sandbox_id: str, request: ActivityRead) -> Reading:
        """Begin to read an activity. Raises LinkLost, Conflict."""
        link = self._directory.get(sandbox_id)
        if link is None:
            link = await self._directory.wait(sandbox_id, timeout_s=RELINK_TIMEOUT_S)
        stream = await link.open(request)
        stream.end()
        return Reading(link, stream)

    def join(self, sandbox_id: str, after: int) -> Feed:
        """Return the feed of a sandbox; the first to join has it begin after a number. `leave` must follow."""
        feed = self._feeds.get(sandbox_id)
        if feed is None or feed.is_over:
            feed = self._feeds[sandbox_id] = Feed(after)
            following = self._follow(sandbox_id, feed)
            self._following[sandbox_id] = self._background.start(following, name="activity.follow")
        feed.watchers += 1
        return feed

    def leave(self, sandbox_id: str, feed: Feed) -> None:
        """Leave a feed. The last one to leave ends it."""
        feed.watchers -= 1
        if not feed.watchers and self._feeds.get(sandbox_id) is feed:
            del self._feeds[sandbox_id]
            self._following.pop(sandbox_id).cancel()

    def forget(self, sandbox_id: str) -> None:
        """Note that a watcher has gone."""
        self._watchers[sandbox_id] -= 1
        if not self._watchers[sandbox_id]:
            del self._watchers[sandbox_id]

    async def _follow(self, sandbox_id: str, feed: Feed) -> None:
        """Fill a feed for as long as the sandbox lives, over every link that it has."""
        try:
            while True:
                try:
                    await self._fill(feed, sandbox_id)
                except LinkLost:
                    if not self._is_live(sandbox_id):
                        return
                    await asyncio.sleep(NEXT_TRY_S)
        except SandlotError as error:
            log.warning("activity.lost", sandbox=sandbox_id, error=error.message)
        finally:
            feed.close()

    async def _fill(self, feed: Feed, sandbox_id: str) -> None:
        reading = await self.open(sandbox_id, ActivityRead(feed.last, follow=True))
        try:
            kept = await reading.stream.expect(ActivityRange)
            if kept.last < feed.last:  # one watcher alone has asked for what is not there yet, before it knew that
                feed.last = kept.last
                raise LinkLost("the activity is shorter than it was thought to be")
            await feed.follow(reading.stream, Items(self.view, feed.last))
        finally:
            reading.close()


class Reading:
    """A stream on which an activity is read, which is no use of the sandbox."""

    def __init__(self, link: Link, stream: Stream) -> None:
        self.stream = stream
        self._link = link
        link.watches += 1

    def close(self) -> None:
        """Stop."""
        self._link.watches -= 1
        self.stream.close()


class Watcher:
    """One client that watches: what the sandbox has kept first, then the feed."""

    def __init__(self, activities: Activities, sandbox_id: str, after: int, *, follow: bool) -> None:
        self._activities = activities
        self._sandbox_id = sandbox_id
        self._items = Items(activities.view, after)
        self._is_following = follow
        self._history: Reading | None = None
        self._feed: Feed | None = None
        self._tries = 0
        self._is_closed = False

    async def open(self) -> None:
        """Begin to read what was kept. Raises as `Activities.read_out`."""
        self._tries += 1
        self._history = await self._activities.open(self._sandbox_id, ActivityRead(self._items.after))

    async def kept(self) -> ActivityRange:
        """Return what the sandbox keeps, before the first entry is asked for. Raises LinkLost, AgentError."""
        if self._history is None:
            raise LinkLost("what was kept has been read")
        kept = await self._history.stream.expect(ActivityRange)
        self._items.after = min(self._items.after, kept.last)
        return kept

    def close(self) -> None:
        """Stop."""
        if not self._is_closed:
            self._is_closed = True
            self._close_history()
            self._leave()
            self._activities.forget(self._sandbox_id)

    async def next(self) -> list[Entry]:
        """Return what comes next, waiting for something; nothing at the end. Cancelling is safe and loses nothing.

        Raises:
            LinkLost, AgentError: it cannot be read any further.
        """
        while True:
            if self._history is not None:
                if batch := await self._next_of_history(self._history.stream):
                    return batch
                self._close_history()
                if not self._is_following:
                    return []
            elif self._feed is None:
                self._feed = self._activities.join(self._sandbox_id, self._items.after)
                if self._feed.first > self._items.after + 1 and self._tries < HISTORY_TRIES:
                    self._leave()
                    await self.open()
            elif batch := self._feed.after(self._items.after):
                return self._told(batch)
            elif self._feed.is_over:
                return []
            else:
                await self._feed.changed()

    async def _next_of_history(self, stream: Stream) -> list[Entry]:
        """Return entries that the sandbox has kept; none at their end, or when its link was lost."""
        batch: list[Entry] = []
        size = 0
        try:
            item = await stream.receive()
            if isinstance(item, ActivityRange):  # the first that comes
                self._items.after = min(self._items.after, item.last)
                item = await stream.receive()
            while item is not None:
                batch.append(self._items.entry_of(item))
                size += batch[-1].size
                item = stream.receive_nowait() if size < BATCH_BYTES else None
        except LinkLost:
            if not batch and not self._is_following:
                raise
        return batch

    def _told(self, batch: list[Entry]) -> list[Entry]:
        """Return entries of the feed, and before them what this watcher does not get."""
        if (due := self._items.after + 1) < batch[0].since:
            batch.insert(0, without(due, batch[0].since - 1, self._activities.view))
        self._items.after = batch[-1].number
        return batch

    def _leave(self) -> None:
        if self._feed is not None:
            self._activities.leave(self._sandbox_id, self._feed)
            self._feed = None

    def _close_history(self) -> None:
        if self._history is not None:
            self._history.close()
            self._history = None
