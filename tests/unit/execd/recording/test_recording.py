"""Recorded runs in execd, over a real link: what is kept for how long, who reads it, and what bounds it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from controlplane.errors import AgentError, LinkLost
from controlplane.link.link import Link
from controlplane.link.stream import Stream
from execd.dispatch import Replies
from execd.errors import ExecdError
from execd.recording import recording as bounds
from execd.recording import serve
from execd.recording.cut import MAX_PIECE_BYTES, Cutter
from execd.recording.recording import Budget, Recording
from execd.recording.serve import Recordings
from execd.wire.aio import Data
from execd.wire.frames import Channel
from execd.wire.messages import (
    ContextDone,
    ContextError,
    ContextPrompt,
    ContextResult,
    ContextRun,
    Done,
    ProcessExited,
    ProcessStart,
    ProcessStarted,
    RunEnd,
    RunFind,
    RunRecord,
    RunResume,
    RunState,
    SandboxClaim,
    SessionRun,
)
from tests.support.agent.execd_link import ControlPlaneEnd, control_plane_of
from tests.support.virtual_time import virtual_time

Script = Callable[[Replies], Awaitable[None]]
EXITED = ProcessExited("exit", 0)
PATIENCE_S = 20.0


class Sandbox:
    """Recorded runs that do what scripts say. The link to them may be lost."""

    def __init__(self, end: ControlPlaneEnd, recordings: Recordings, scripts: dict[str, Script]) -> None:
        self.recordings = recordings
        self.ended: list[str] = []  # the runs that are over, however they ended
        self.link: Link
        self._end = end
        self._scripts = scripts

    async def dial(self) -> None:
        """Wait for a new link."""
        self.link = await self._end.next_link()

    async def lose_link(self) -> None:
        """As when the control plane is killed and started again."""
        await self.link.aclose()
        await self.dial()

    async def record(self, script: Script, *, run_id: str = "r", keep_s: int = 60, lines: bool = False) -> Stream:
        """Begin a run."""
        self._scripts[run_id] = script
        start = ProcessStart(run_id, argv=("x",))
        return await self.link.open(RunRecord(run_id, keep_s, start, lines=lines))

    async def resume(self, after: int, run_id: str = "r") -> Stream:
        """Go on after an item."""
        stream = await self.link.open(RunResume(run_id, after))
        await stream.expect(RunState)
        stream.number = after
        return stream


@contextlib.asynccontextmanager
async def recording() -> AsyncIterator[Sandbox]:
    """Serve recorded runs."""
    scripts: dict[str, Script] = {}

    async def run(replies: Replies, request: ProcessStart | ContextRun | SessionRun) -> None:
        try:
            await scripts[request.id](replies)
        finally:
            sandbox.ended.append(request.id)

    recordings = Recordings({ProcessStart: run, ContextRun: run, SessionRun: run})
    async with control_plane_of(recordings.handlers()) as end:
        sandbox = Sandbox(end, recordings, scripts)
        await sandbox.dial()
        yield sandbox


async def read(stream: Stream, count: int = 1 << 30) -> list[object]:
    """Return so many items, or all: output as bytes."""
    items: list[object] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(items) < count and (item := await stream.receive()) is not None:
            items.append(item.data if isinstance(item, Data) else item)
    return items


async def until(condition: Callable[[], object]) -> None:
    """Return when *condition* holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)


def counting(count: int, size: int = 1) -> Script:
    """Write numbers, each *size* bytes long, and end."""

    async def script(replies: Replies) -> None:
        await replies.send(ProcessStarted(1))
        for number in range(2, count + 2):
            await replies.write(b"%*d" % (size, number), Channel.STDOUT)
        await replies.send(EXITED)

    return script


async def endless(replies: Replies) -> None:
    """Write without end."""
    while True:
        await replies.write(b"x" * 60_000, Channel.STDOUT)
        await asyncio.sleep(0)


async def silent(replies: Replies) -> None:
    """Say that it has begun, and nothing more."""
    await replies.send(ProcessStarted(1))
    await asyncio.Event().wait()


# -- reading ----------------------------------------


async def test_a_reader_gets_all_from_where_it_wants() -> None:
    """Also again, and after the end."""
    async with recording() as sandbox:
        stream = await sandbox.record(counting(4))
        whole = [ProcessStarted(1), b"2", b"3", b"4", b"5", EXITED]
        assert await read(stream) == whole
        assert stream.number == 6
        for after in range(7):
            assert await read(await sandbox.resume(after)) == whole[after:]


async def test_what_was_never_said_or_is_not_kept_is_refused() -> None:
    """By clear errors; an id that was made up finds nothing."""
    async with recording() as sandbox:
        await read(await sandbox.record(counting(1)))
        for run_id, after, code in (("r", 4, "run.lost"), ("r", -1, "run.lost"), ("s" * 10_000, 0, "run.not_found")):
            with pytest.raises(AgentError) as refused:
                await sandbox.resume(after, run_id)
            assert refused.value.code == code
        with pytest.raises(AgentError) as refused:
            await (await sandbox.record(counting(1))).receive()
        assert refused.value.code == "run.duplicate"


async def test_a_lost_link_costs_nothing() -> None:
    """Wherever the reader is cut off: each item comes once."""
    async with recording() as sandbox:
        go_on = asyncio.Event()

        async def script(replies: Replies) -> None:
            await counting(5)(replies)
            go_on.set()

        stream = await sandbox.record(script)
        heard = await read(stream, 1)
        after = stream.number
        while after < 7:
            await sandbox.lose_link()
            stream = await sandbox.resume(after)
            heard += await read(stream, 1)
            after = stream.number
        assert heard == [ProcessStarted(1), b"2", b"3", b"4", b"5", b"6", EXITED]
        assert go_on.is_set()


async def test_the_newer_reader_takes_over() -> None:
    """The older one is told, also one that does not read."""
    async with recording() as sandbox:
        first = await sandbox.record(silent)
        assert await read(first, 1) == [ProcessStarted(1)]
        second = await sandbox.resume(1)
        with pytest.raises(AgentError) as taken:
            await first.receive()
        assert taken.value.code == "run.taken"
        flooded = await sandbox.record(endless, run_id="s")
        await until(lambda: sandbox.recordings._budget.total_bytes > bounds.MAX_UNSENT_BYTES)
        third = await sandbox.resume(0, "s")
        assert await read(third, 100) == [b"x" * 60_000] * 100
        with pytest.raises(AgentError) as taken:
            await read(flooded)
        assert taken.value.code == "run.taken"
        second.close()


async def test_errors_are_recorded_unless_they_are_all_there_is() -> None:
    """A run that cannot begin leaves nothing behind, and its id is free."""

    async def fail(replies: Replies) -> None:
        raise ExecdError("process.spawn_failed", "no such program")

    async def fail_later(replies: Replies) -> None:
        await replies.write(b"a", Channel.STDOUT)
        raise ExecdError("process.lost", "it is gone")

    async with recording() as sandbox:
        with pytest.raises(AgentError) as failed:
            await (await sandbox.record(fail)).receive()
        assert failed.value.code == "process.spawn_failed"
        with pytest.raises(AgentError) as unknown:
            await sandbox.resume(0)
        assert unknown.value.code == "run.not_found"
        stream = await sandbox.record(fail_later)
        for reader in (stream, await sandbox.resume(0)):
            if reader is not stream:
                assert await read(reader, 1) == [b"a"]
            with pytest.raises(AgentError) as failed:
                await read(reader)
            assert failed.value.code in ("process.lost", "run.taken")


@pytest.mark.parametrize("request_", [ProcessStart("r", background=True), ProcessStart("r", stdin=True)])
async def test_what_cannot_be_recorded_is_refused(request_: ProcessStart) -> None:
    """Background commands outlive their clients anyway, and input cannot be resumed."""
    async with recording() as sandbox:
        with pytest.raises(AgentError) as refused:
            await (await sandbox.link.open(RunRecord("r", 60, request_))).receive()
        assert refused.value.code == "request.invalid"


async def test_what_a_reader_must_know_to_go_on() -> None:
    """The place of a run, its limit, whether it raised or was counted, and how its outputs ended."""

    async def script(replies: Replies) -> None:
        await replies.write(b"a\nb\n", Channel.STDOUT)
        await replies.send(ContextResult("result", {"text/plain": "1"}, execution_count=7))
        await replies.write(b"no end", Channel.STDERR)
        await replies.send(ContextError("E", "v"))
        await replies.send(ContextPrompt("?"))
        await replies.send(ContextDone("error"))

    async with recording() as sandbox:
        sandbox._scripts["c"] = script
        stream = await sandbox.link.open(RunRecord("r", 60, ContextRun("c", "code", 3.0), lines=True))
        items = [
            *(Done(), b"a\n", b"b\n", ContextResult("result", {"text/plain": "1"}, execution_count=7)),
            *(ContextError("E", "v"), b"no end", ContextPrompt("?"), ContextDone("error")),
        ]
        assert await read(stream) == items
        lines = True
        for after, counted, raised in ((3, False, False), (4, True, False), (5, True, True)):
            reader = await sandbox.link.open(RunResume("r", after))
            state = RunState("context", "c", lines, 3.0, (b"a\n", b"b\n"), (), raised, counted)
            assert await reader.expect(RunState) == state
        reader = await sandbox.link.open(RunResume("r", 8))
        assert (await reader.expect(RunState)).is_over
        found = await sandbox.link.call(RunFind("r"), RunState)
        assert (found.kind, found.place) == ("context", "c")


# -- ends ----------------------------------------


async def test_nobody_reads_and_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is ended and forgotten. A reader that comes in time puts that off."""
    monkeypatch.setattr(bounds, "TICK_S", 0.05)
    async with recording() as sandbox:
        stream = await sandbox.record(silent, keep_s=1)
        await read(stream, 1)
        stream.close()
        await until(lambda: sandbox.ended)
        with pytest.raises(AgentError) as gone:
            await sandbox.resume(0)
        assert gone.value.code == "run.not_found"
        assert sandbox.recordings._budget.total_bytes == 0


def test_a_pause_does_not_count() -> None:
    """A sandbox that is paused jumps from one moment to a later one: that costs a tick, whatever its length."""
    with virtual_time() as loop:
        ended: list[float] = []

        async def begin() -> Recording:
            one = Recording(Budget(), 10, lambda: ended.append(loop.time()), lines=False)
            one._wait_for_a_reader()
            return one

        loop.run(begin())
        loop.advance(3600)
        for _ in range(8):
            loop.advance(1)
        assert not ended
        loop.advance(1)
        assert ended


async def test_a_client_ends_a_run() -> None:
    """Whoever reads is told; what it said is forgotten, and what it still says is dropped."""
    async with recording() as sandbox:
        stream = await sandbox.record(endless)
        await read(stream, 3)
        await sandbox.link.call(RunEnd("r"), Done)
        with pytest.raises(AgentError) as ended:
            await read(stream)
        assert ended.value.code == "run.not_found"
        await until(lambda: sandbox.ended == ["r"])
        assert sandbox.recordings._budget.total_bytes == 0
        assert not sandbox.recordings._budget.recordings


async def test_the_end_is_recorded_though_nobody_reads() -> None:
    """A run that has no more to say does not wait for a reader."""

    async def script(replies: Replies) -> None:
        while replies.write_nowait(b"x" * 50_000, Channel.STDOUT):
            pass
        await replies.send(ContextDone("timeout"))
        replies.end()

    async with recording() as sandbox:
        stream = await sandbox.record(script)
        await until(lambda: sandbox.ended)
        stream.close()
        items = await read(await sandbox.resume(0))
        assert items[-1] == ContextDone("timeout")
        assert set(items[:-1]) == {b"x" * 50_000}


# -- bounds ----------------------------------------


async def flood(sandbox: Sandbox, count: int) -> None:
    """Begin runs that write without end, and leave them: what H5 did to the server."""
    for number in range(count):
        stream = await sandbox.record(endless, run_id=f"r{number}")
        await read(stream, 76)  # 4.5 MB
        stream.close()


@pytest.mark.attack(
    "resources",
    "Recorded runs that write without end are begun by the dozen, and their readers leave",
    "What all recordings of the sandbox keep stays below the bound, on the sandbox's own account; the runs wait",
)
async def test_all_recordings_of_a_sandbox_share_a_bound() -> None:
    """And each run waits with its own share unread."""
    async with recording() as sandbox:
        await flood(sandbox, 12)
        budget = sandbox.recordings._budget
        assert budget.total_bytes < bounds.MAX_RECORDED_BYTES + 12 * 61_000
        assert len(budget.recordings) == 12
        for one in budget.recordings:
            assert one._unsent_bytes < bounds.MAX_UNSENT_BYTES + 61_000


@pytest.mark.attack(
    "resources",
    "Recorded runs print lines without an end, which wait for their end before they become items",
    "What waits counts like all else that is recorded, and is cut when there is no more room",
)
async def test_unfinished_lines_count_too() -> None:
    """Each of these runs could hold back a megabyte."""

    async def script(replies: Replies) -> None:
        await replies.send(ProcessStarted(1))
        await asyncio.sleep(0)  # what is sent makes room
        while replies.write_nowait(b"x" * 60_000, Channel.STDOUT):
            pass
        await asyncio.Event().wait()

    async with recording() as sandbox:
        for number in range(20):
            await read(await sandbox.record(script, run_id=f"r{number}", lines=True), 1)
        budget = sandbox.recordings._budget
        held = sum(one._cutter.held_bytes + one._unsent_bytes + one.sent_bytes for one in budget.recordings)
        assert budget.total_bytes == held < bounds.MAX_RECORDED_BYTES + 20 * 61_000
        for number in range(20):
            await sandbox.link.call(RunEnd(f"r{number}"), Done)
        assert budget.total_bytes == 0


async def test_the_claim_sets_the_bound() -> None:
    """A setting of the server, which reaches the agent with the claim; 0 leaves the agent's own number."""
    async with recording() as sandbox:
        for number, expected in ((1 << 20, 1 << 20), (0, 1 << 20)):
            sandbox.recordings.take_settings(SandboxClaim("s", max_recorded_bytes=number))
            assert sandbox.recordings._budget.max_bytes == expected
        await flood(sandbox, 4)
        assert sandbox.recordings._budget.total_bytes < (1 << 20) + 5 * 61_000


async def test_without_the_bound_the_flood_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack above can fail: with the bounds lifted, four times as much is kept."""
    monkeypatch.setattr(bounds, "MAX_RECORDED_BYTES", 1 << 40)
    async with recording() as sandbox:
        await flood(sandbox, 12)
        assert sandbox.recordings._budget.total_bytes > 4 * (8 << 20)


async def test_a_reader_is_served_though_others_have_filled_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run goes on as it reads: a full bound slows runs down that nobody reads, and no others."""
    monkeypatch.setattr(bounds, "MAX_RECORDED_BYTES", 1 << 20)
    async with recording() as sandbox:
        stream = await sandbox.record(endless, run_id="other")
        await read(stream, 1)
        stream.close()
        await until(lambda: sandbox.recordings._budget.total_bytes >= 1 << 20)
        stream = await sandbox.record(counting(100, size=50_000), lines=False)
        assert len(await read(stream)) == 102
        half = await sandbox.record(counting(100, size=50_000), run_id="half", lines=True)
        items = await read(half)  # a line that never ends is cut, or nobody could take it
        assert b"".join(item for item in items if isinstance(item, bytes)) == b"".join(
            b"%*d" % (50_000, number) for number in range(2, 102)
        )


async def test_a_run_waits_for_a_reader_that_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """So much is said ahead and no more; then it goes on."""
    monkeypatch.setattr(bounds, "MAX_UNSENT_BYTES", 10_000)
    async with recording() as sandbox:
        said = 0

        async def script(replies: Replies) -> None:
            nonlocal said
            for _ in range(200):
                await replies.write(b"x" * 5000, Channel.STDOUT)
                said += 1
            await replies.send(EXITED)

        stream = await sandbox.record(script)
        await read(stream, 1)
        stream.close()
        (one,) = sandbox.recordings._budget.recordings
        await until(lambda: one._unsent_bytes >= 10_000)
        ahead = said
        for _ in range(100):
            await asyncio.sleep(0)
        assert said == ahead < 200
        assert len(await read(await sandbox.resume(1))) == 200


async def test_what_was_sent_is_dropped_when_there_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is said to be lost, never skipped; and how it ended is still known."""
    monkeypatch.setattr(bounds, "KEPT_BYTES", 100_000)
    async with recording() as sandbox:
        await read(await sandbox.record(counting(100, size=5000)))
        with pytest.raises(AgentError) as lost:
            await sandbox.resume(0)
        assert lost.value.code == "run.lost"
        first = 102 - len(next(iter(sandbox.recordings._budget.recordings))._items)
        assert 75 < first < 85
        assert len(await read(await sandbox.resume(first))) == 102 - first
        reader = await sandbox.link.open(RunResume("r", first))
        state = await reader.expect(RunState)
        assert state.stdout == tuple(b"%8d" % number for number in range(first - 2, first + 1))


@pytest.mark.attack(
    "resources",
    "One sandbox begins recorded runs without end",
    "Those that are over make place; while the most go on, another is refused by name, and all others go on",
)
async def test_so_many_runs_are_recorded_at_once() -> None:
    """Ten thousand, one after the other, leave the last ones."""
    async with recording() as sandbox:
        for number in range(200):
            await read(await sandbox.record(counting(1), run_id=f"r{number}"))
        assert len(sandbox.recordings._runs) == serve.MAX_RUNS
        with pytest.raises(AgentError):
            await sandbox.resume(0, "r0")
        for number in range(serve.MAX_RUNS):
            await read(await sandbox.record(silent, run_id=f"s{number}"), 1)
        with pytest.raises(AgentError) as full:
            await (await sandbox.record(silent, run_id="more")).receive()
        assert full.value.code == "run.too_many"
        await sandbox.link.call(RunEnd("s0"), Done)
        await read(await sandbox.record(silent, run_id="more"), 1)


async def test_with_a_weaker_bound_runs_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack above can fail."""
    monkeypatch.setattr(serve, "MAX_RUNS", 1000)
    async with recording() as sandbox:
        for number in range(100):
            await read(await sandbox.record(silent, run_id=f"s{number}"), 1)
        assert len(sandbox.recordings._runs) == 100


async def test_a_result_larger_than_any_message_is_refused_and_not_recorded() -> None:
    """As on a stream; an item that cannot be sent would block all readers for ever."""
    budget = Budget()
    one = Recording(budget, 60, lambda: None, lines=False)
    with pytest.raises(Exception, match="16777216"):
        await one.send(ContextResult("result", {"text/plain": "é" * (9 << 20)}))
    await one.send(ContextResult("result", {"text/plain": "e" * (9 << 20)}))
    assert 9 << 20 < budget.total_bytes < 10 << 20
    one.close()
    assert budget.total_bytes == 0
    await one.write(b"late", Channel.STDOUT)
    assert budget.total_bytes == 0


@pytest.mark.attack(
    "agent",
    "A hijacked agent answers with items of a recording in the wrong order",
    "The reader's stream ends with an error; no item is told under another's number",
)
async def test_numbers_have_no_gap() -> None:
    """Else a client would resume somewhere else than it stands."""
    async with recording() as sandbox:
        await read(await sandbox.record(counting(3)))
        stream = await sandbox.resume(0)
        stream.number = 2  # the reader stands where the agent does not
        with pytest.raises(LinkLost, match="item 1"):
            await stream.receive()


# -- where output is cut ----------------------------------------

TEXT = "Zeile\n日本語テキスト\r\n\n\rprogress 1\rprogress 2\r\nend 🎉".encode()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_output_is_cut_between_characters(size: int) -> None:
    """However it comes; nothing is lost."""
    cutter, pieces = Cutter(lines=False), []
    for at in range(0, len(TEXT), size):
        pieces += cutter.feed(TEXT[at : at + size], Channel.STDOUT)
    pieces += [piece for _, piece in cutter.flush()]
    assert b"".join(pieces) == TEXT
    assert all(piece.decode() for piece in pieces)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_output_is_cut_at_the_ends_of_lines(size: int) -> None:
    """The last line, which has no end, comes when nobody waits for it any more."""
    cutter, pieces = Cutter(lines=True), []
    for at in range(0, len(TEXT), size):
        pieces += cutter.feed(TEXT[at : at + size], Channel.STDOUT)
    assert all(piece.endswith((b"\n", b"\r")) for piece in pieces)
    assert cutter.held_bytes == len("end 🎉".encode())
    pieces += [piece for _, piece in cutter.flush()]
    assert b"".join(pieces) == TEXT


def test_lines_are_alone_at_first_and_share_items_later() -> None:
    """As many as the events of a run that is not recorded."""
    cutter = Cutter(lines=True)
    assert cutter.feed(b"a\n" * 1000, Channel.STDOUT) == [b"a\n"] * 100 + [b"a\n" * 900]
    assert cutter.feed(b"a\n" * 1000, Channel.STDOUT) == [b"a\n" * 1000]
    assert cutter.feed(b"a\n" * 3, Channel.STDERR) == [b"a\n"] * 3


def test_pieces_fit_into_a_frame() -> None:
    """With characters whole, where there are any."""
    pieces = Cutter(lines=False).feed("é".encode() * 100_000, Channel.STDOUT)
    assert max(map(len, pieces)) <= MAX_PIECE_BYTES
    assert "".join(piece.decode() for piece in pieces) == "é" * 100_000
    binary = bytes(range(256)) * 1000
    cutter = Cutter(lines=False)
    pieces = cutter.feed(binary, Channel.STDOUT) + [piece for _, piece in cutter.flush()]
    assert b"".join(pieces) == binary
