"""The feed of one sandbox for all that watch it, and the watchers: nothing is lost unsaid, and nobody waits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from controlplane.activity import feed as feeds
from controlplane.activity.activities import MAX_WATCHERS, Activities, Watcher
from controlplane.activity.feed import Entry, Feed, Items
from controlplane.api.activity.activity import pieces
from controlplane.errors import AgentError, CapacityExhausted, Conflict
from controlplane.link.directory import Directory
from controlplane.tasks import Background
from execd.activity.activity import Activity
from execd.wire import messages
from execd.wire.messages import MAX_NUMBER, ActivityDropped, ActivityItem, ActivityState, RunOutput, SandboxClaim
from tests.support.agent.execd_link import control_plane_of

SANDBOX = "0123456789abcdef"
PATIENCE_S = 60.0
made: list[int] = []  # the numbers of the entries that were made


def view(item: ActivityItem, reason: str) -> dict[str, Any]:
    """Return what a test looks at; count how often entries are made."""
    made.append(item.number)
    if isinstance(item.said, ActivityDropped):
        return {"from": item.said.since, "to": item.number, "reason": reason}
    return {"seq": item.number}


def numbers(batch: list[Entry]) -> list[object]:
    return [
        entry.view["seq"] if "seq" in entry.view else (entry.since, entry.number, entry.view["reason"])
        for entry in batch
    ]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that is on its way."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.001)


class Sandbox:
    """An agent that keeps an activity, and the server's end of it."""

    def __init__(self, activity: Activity, activities: Activities, directory: Directory) -> None:
        self.activity = activity
        self.activities = activities
        self.directory = directory
        self.is_live = True

    def say(self, count: int = 1, size: int = 0) -> None:
        """Enter states, or output of a size."""
        for _ in range(count):
            if size:
                self.activity._ring.put(0.0, "op", RunOutput(1, b"x" * size))
                self.activity._changed.wake()
            else:
                self.activity.put("", ActivityState("x"))


@contextlib.asynccontextmanager
async def a_sandbox(**bounds: int) -> AsyncIterator[Sandbox]:
    activity = Activity()
    activity._take_settings(SandboxClaim(SANDBOX, activity="full", **bounds))
    async with control_plane_of(activity.handlers()) as end, Background() as background:
        directory = Directory()
        directory.put(await end.next_link())
        live: list[Sandbox] = []
        activities = Activities(directory, lambda _: live[0].is_live, view, background)
        live.append(Sandbox(activity, activities, directory))
        yield live[0]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with a_sandbox() as sandbox:
        yield sandbox


async def heard(watcher: Watcher, until: int) -> list[object]:
    """Read until the entry of a number."""
    found: list[object] = []
    last = 0
    async with asyncio.timeout(PATIENCE_S):
        while last < until:
            batch = await watcher.next()
            assert batch
            last = batch[-1].number
            found += numbers(batch)
    return found


async def test_a_watcher_gets_what_was_kept_and_what_comes(sandbox: Sandbox) -> None:
    """Each entry once, from the number on that it has."""
    sandbox.say(5)
    watcher = await sandbox.activities.watch(SANDBOX, 2)
    assert await heard(watcher, 5) == [3, 4, 5]
    waiting = asyncio.ensure_future(heard(watcher, 7))
    await asyncio.sleep(0)
    sandbox.say(2)
    assert await waiting == [6, 7]
    watcher.close()


async def test_ten_watchers_cost_one_stream_and_one_encoding(sandbox: Sandbox) -> None:
    """For what comes: what was kept before, each reads for itself."""
    watchers = [await sandbox.activities.watch(SANDBOX, 0) for _ in range(10)]
    hearing = [asyncio.ensure_future(heard(watcher, 100)) for watcher in watchers]
    link = sandbox.directory.get(SANDBOX)
    assert link is not None
    await until(lambda: link.watches == 1 and len(sandbox.activities._feeds) == 1)
    made.clear()
    sandbox.say(100)
    assert await asyncio.gather(*hearing) == [list(range(1, 101))] * 10
    assert made == list(range(1, 101))
    assert link.statistics().streams == 1
    for watcher in watchers:
        watcher.close()
    await until(lambda: not link.statistics().streams)
    assert (link.watches, sandbox.activities._feeds) == (0, {})


async def test_a_slow_watcher_is_told_what_it_misses_and_delays_nobody(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on with what the feed still has."""
    monkeypatch.setattr(feeds, "KEPT_ENTRIES", 10)
    slow = await sandbox.activities.watch(SANDBOX, 0)
    quick = await sandbox.activities.watch(SANDBOX, 0)
    both = asyncio.gather(heard(slow, 1), heard(quick, 1))
    await until(lambda: any(feed.watchers == 2 for feed in sandbox.activities._feeds.values()))
    sandbox.say(1)
    assert await both == [[1], [1]]
    for number in range(2, 52):
        sandbox.say(1)
        assert await heard(quick, number) == [number]
    assert await heard(slow, 51) == [(2, 41, "slow"), *range(42, 52)]
    slow.close()
    quick.close()


@pytest.mark.attack(
    "edge",
    "A client watches a sandbox from a number that it has not reached yet",
    "It hears what comes next, and so do all others who watch",
)
async def test_a_number_that_is_not_reached_delays_nobody(sandbox: Sandbox) -> None:
    """Such as one of an earlier sandbox, or the largest there is."""
    sandbox.say(2)
    ahead = await sandbox.activities.watch(SANDBOX, MAX_NUMBER)
    waiting = asyncio.ensure_future(heard(ahead, 4))
    await until(lambda: SANDBOX in sandbox.activities._feeds)
    watcher = await sandbox.activities.watch(SANDBOX, 0)
    assert await heard(watcher, 2) == [1, 2]
    hearing = asyncio.ensure_future(heard(watcher, 4))
    sandbox.say(2)
    async with asyncio.timeout(PATIENCE_S):
        assert [await hearing, await waiting] == [[3, 4]] * 2
    ahead.close()
    watcher.close()


async def test_what_the_sandbox_has_dropped_is_told(sandbox: Sandbox) -> None:
    """As a gap of its own kind."""
    async with a_sandbox(max_activity_entries=16) as small:
        small.say(20)
        watcher = await small.activities.watch(SANDBOX, 0)
        assert await heard(watcher, 20) == [(1, 4, "dropped"), *range(5, 21)]
        watcher.close()


async def test_a_flood_is_told_no_faster_than_people_read(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is dropped where it is, and that is told."""
    monkeypatch.setattr(feeds, "BURST_BYTES", 1 << 20)
    monkeypatch.setattr(feeds, "BYTES_PER_S", 8 << 20)
    watcher = await sandbox.activities.watch(SANDBOX, 0)
    began = time.monotonic()
    hearing = asyncio.ensure_future(heard(watcher, 800))
    for _ in range(80):
        sandbox.say(10, size=64 << 10)
        await asyncio.sleep(0.001)
    found = await hearing
    told = sum(isinstance(each, int) for each in found)
    # 128 a second; and at the begin the burst, and what was on its way. A slow machine gives it more time.
    assert told < 300 + 128 * (time.monotonic() - began)
    covered = [
        number for each in found for number in ([each] if isinstance(each, int) else range(each[0], each[1] + 1))
    ]
    assert covered == list(range(1, 801))
    watcher.close()


async def test_watchers_of_a_sandbox_are_bounded(sandbox: Sandbox) -> None:
    """And make room when they leave."""
    watchers = [await sandbox.activities.watch(SANDBOX, 0) for _ in range(MAX_WATCHERS)]
    with pytest.raises(CapacityExhausted):
        await sandbox.activities.watch(SANDBOX, 0)
    watchers.pop().close()
    watchers.append(await sandbox.activities.watch(SANDBOX, 0))
    for watcher in watchers:
        watcher.close()


async def test_the_end_of_the_sandbox_ends_its_watchers(sandbox: Sandbox) -> None:
    """After what it has said."""
    sandbox.say(1)
    watcher = await sandbox.activities.watch(SANDBOX, 0)
    assert await heard(watcher, 1) == [1]
    ending = asyncio.ensure_future(watcher.next())
    await asyncio.sleep(0.01)
    sandbox.is_live = False
    link = sandbox.directory.get(SANDBOX)
    assert link is not None
    await link.aclose()
    async with asyncio.timeout(PATIENCE_S):
        assert await ending == []
    watcher.close()


async def test_an_agent_of_an_earlier_release_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would break its link over the request."""
    monkeypatch.setattr(messages, "GENERATION", 2)
    monkeypatch.setattr("execd.server.GENERATION", 2)
    async with a_sandbox() as sandbox:
        with pytest.raises(Conflict, match="earlier release"):
            await sandbox.activities.watch(SANDBOX, 0)
        with pytest.raises(Conflict, match="earlier release"):
            await sandbox.activities.read_out(SANDBOX, 1)
        await sandbox.activities.note(SANDBOX, "pausing")  # does nothing
        link = sandbox.directory.get(SANDBOX)
        assert link is not None
        assert (link.watches, link.statistics().streams) == (0, 0)


async def test_an_agent_that_hangs_delays_no_note_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a note, and no more."""

    async def hang(_stream: Any, _request: Any) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr("controlplane.activity.activities.NOTE_TIMEOUT_S", 0.01)
    async with control_plane_of({messages.ActivityNote: hang}) as end, Background() as background:
        directory = Directory()
        directory.put(await end.next_link())
        async with asyncio.timeout(PATIENCE_S):
            await Activities(directory, lambda _: True, view, background).note(SANDBOX, "pausing")


@pytest.mark.parametrize(
    "item",
    [
        ActivityItem(1, 0.0, "", ActivityState("x")),
        ActivityItem(3, 0.0, "", ActivityState("x")),
        ActivityItem(2, 0.0, "", ActivityDropped(1)),
        ActivityItem(5, 0.0, "", ActivityDropped(6)),
        ActivityItem(5, 0.0, "", ActivityDropped(3)),
        messages.Done(),
    ],
)
def test_a_hijacked_agent_cannot_tell_out_of_order(item: object) -> None:
    """Numbers go on, or a gap says that they do not."""
    items = Items(view, 1)
    with pytest.raises(AgentError):
        items.entry_of(item)


def test_what_a_feed_keeps_is_bounded() -> None:
    """In bytes, and a batch too."""
    feed = Feed(0)
    items = Items(view, 0)
    for number in range(1, 101):
        feed._put(items.entry_of(ActivityItem(number, 0.0, "", RunOutput(1, b"x" * (128 << 10)))))
    assert feed._bytes <= feeds.KEPT_BYTES
    batch = feed.after(feed.first - 1)
    assert sum(entry.size for entry in batch) <= feeds.BATCH_BYTES + (129 << 10)
    assert feed.after(100) == []


FRAME = messages.CodeFrame("f" * 100_000, 1, "g" * 100_000, "c" * 100_000)
PATH = "p" * messages.MAX_PATH_CHARS
WORD = "w" * messages.MAX_WORD_CHARS
LARGE = (
    messages.ContextError("n" * 300_000, "v", ()),
    messages.ContextError("", "", (), (FRAME,) * 2),
    messages.ContextResult("k", {"m" * 100_000: "t" * 100_000}),
    messages.ActivityBegun(WORD, WORD, "", WORD, WORD, PATH, PATH),
    messages.ActivityEnded(message="m" * messages.MAX_SENTENCE_CHARS),
    messages.Problem("c" * 64, "m" * 1000),
    messages.ActivityState(WORD, "r" * messages.MAX_SENTENCE_CHARS),
)


@pytest.mark.parametrize("said", LARGE, ids=lambda said: type(said).__name__)
def test_every_text_of_a_hijacked_agent_counts(said: messages.ActivityItem) -> None:
    """What a feed keeps, and how fast it is told, is bounded by what entries take, whatever is large in them."""
    item = ActivityItem(1, 0.0, WORD, said)  # type: ignore[arg-type]
    assert Entry(item, view).size > len(messages.encode_message(item))


@pytest.mark.attack(
    "agent",
    "A hijacked agent answers a client who reads the activity of its sandbox with as much as it can",
    "The answer ends at 8 MiB, and its client reads on from there",
)
async def test_an_endless_activity_is_no_endless_answer() -> None:
    async def tell(stream: Any, request: messages.ActivityRead) -> None:
        await stream.send(messages.ActivityRange("full", 1, 1 << 40))
        for number in range(request.after + 1, 1 << 40):
            await stream.send(ActivityItem(number, 0.0, "", messages.ContextResult("result", {"a": "x" * (8 << 20)})))

    async with control_plane_of({messages.ActivityRead: tell}) as end, Background() as background:
        directory = Directory()
        directory.put(await end.next_link())
        activities = Activities(directory, lambda _: True, view, background)
        async with asyncio.timeout(PATIENCE_S):
            for after in (0, 1):
                watcher = await activities.watch(SANDBOX, after, follow=False)
                told = [piece async for piece in pieces(watcher, await watcher.kept(), 10)]
                watcher.close()
                page = json.loads(b"".join(told))
                assert (page["last"], [entry["seq"] for entry in page["entries"]]) == (1 << 40, [after + 1])


async def test_what_is_read_out_for_a_record_is_bounded(sandbox: Sandbox) -> None:
    """The newest entries are kept, as in a record."""
    sandbox.say(20, size=10_000)
    page = await sandbox.activities.read_out(SANDBOX, 45_000)
    assert [entry.number for entry in page.entries] == [17, 18, 19, 20]
    assert (page.first, page.last) == (1, 20)
