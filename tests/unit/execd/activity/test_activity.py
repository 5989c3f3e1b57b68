"""The activity as requests pass it: what is told of each, and what is bounded."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from execd.activity.activity import MAX_LASTING, MAX_PIECE_BYTES, Activity
from execd.activity.told import Tap
from execd.errors import ExecdError
from execd.wire.frames import Channel
from execd.wire.messages import (
    ActivityBegun,
    ActivityDropped,
    ActivityEnded,
    ActivityItem,
    ActivityState,
    ContextDone,
    ContextInput,
    ContextPrompt,
    ContextRun,
    Done,
    FileRemove,
    Problem,
    ProcessExited,
    ProcessStart,
    ProcessStarted,
    Reply,
    RunOutput,
    SandboxClaim,
)

ROOT = Path(__file__).parents[4]
Handler = Callable[[Any, Any], Awaitable[None]]
CLAIM = SandboxClaim("s", activity="full")


class Replies:
    """Takes what handlers say."""

    is_broken = is_lost = False

    def __init__(self, room: int = 1 << 30) -> None:
        self.said: list[Reply] = []
        self.room = room

    async def receive(self) -> None:
        return None

    async def send(self, message: Reply) -> None:
        self.said.append(message)

    async def write(self, data: bytes | memoryview, channel: Channel) -> None:
        pass

    def write_nowait(self, data: bytes | memoryview, channel: Channel) -> int:
        return min(len(data), self.room)

    def end(self) -> None:
        pass


async def nothing(_stream: Any, _request: Any) -> None:
    """Serve a request that has no replies."""


def items(activity: Activity) -> list[ActivityItem]:
    """Read all of it."""
    found: list[ActivityItem] = []
    after = 0
    while (item := activity._next(after)) is not None:
        found.append(item)
        after = item.number
    return found


def said(activity: Activity) -> list[object]:
    return [item.said for item in items(activity)]


def an_activity(keep: str = "full", **fields: Any) -> Activity:
    activity = Activity(lambda context_id: "python" if context_id == "a" else "", clock=lambda: 7.0)
    activity._take_settings(SandboxClaim("s", activity=keep, **fields))
    return activity


def run(*steps: object) -> Handler:
    """Return a handler that sends replies and output."""

    async def handler(stream: Any, _request: Any) -> None:
        for step in steps:
            if isinstance(step, bytes):
                await stream.write(step, Channel.STDOUT)
            elif isinstance(step, Exception):
                raise step
            else:
                await stream.send(step)

    return handler


async def test_output_is_cut_between_characters() -> None:
    """However it was written; a piece is not too large; what is no text is told too."""
    activity = an_activity()
    text = "\N{SNOWMAN}" * (MAX_PIECE_BYTES // 2)
    data = text.encode()
    cuts = [data[:1], data[1:5], data[5:100_001], data[100_001:], b"\xff\xfe", b"\xe2"]
    exited = ProcessExited("exit", 0)
    await activity.carry_out(run(ProcessStarted(1), *cuts, exited), Replies(), ProcessStart("p", shell="x"))
    outputs = [each.data for each in said(activity) if isinstance(each, RunOutput)]
    assert b"".join(outputs) == b"".join(cuts)
    assert all(len(each) <= MAX_PIECE_BYTES for each in outputs)
    for each in outputs[:-2]:
        each.decode()
    assert isinstance(said(activity)[-1], ActivityEnded)


async def test_output_in_small_pieces_becomes_few_entries() -> None:
    """Where nothing came between."""
    activity = an_activity()
    steps = [ProcessStarted(1), *[b"line\n"] * 10_000, ProcessExited("exit", 0)]
    await activity.carry_out(run(*steps), Replies(), ProcessStart("p", shell="x"))
    assert len(items(activity)) < 10


async def test_only_what_was_sent_is_told() -> None:
    """The rest is told when it is sent."""
    activity = an_activity()

    async def handler(stream: Any, _request: Any) -> None:
        assert stream.write_nowait(b"abcdef", Channel.STDERR) == 4
        await stream.write(b"ef", Channel.STDERR)

    await activity.carry_out(handler, Replies(room=4), ContextRun("a", "x"))
    outputs = [each for each in said(activity) if isinstance(each, RunOutput)]
    assert outputs == [RunOutput(Channel.STDERR, b"abcdef")]


async def test_many_paths_are_one_entry() -> None:
    """With the first apart, and not all of a very long list."""
    activity = an_activity()
    paths = tuple(f"/tmp/{number}" for number in range(5000))
    await activity.carry_out(run(Done()), Replies(), FileRemove(paths))
    begun = said(activity)[0]
    assert isinstance(begun, ActivityBegun)
    assert begun.path == "/tmp/0"
    assert begun.text.startswith("/tmp/0\n/tmp/1\n")
    assert len(begun.text) == 4096


async def test_a_long_id_is_cut() -> None:
    """A client may ask for a context of any name."""
    activity = Activity(lambda _: "python")
    activity._take_settings(CLAIM)
    await activity.carry_out(nothing, Replies(), ContextRun("x" * 10_000, "code"))
    begun = said(activity)[0]
    assert isinstance(begun, ActivityBegun)
    assert len(begun.context) == 256


async def test_what_goes_on_after_its_request_is_bounded() -> None:
    """The oldest are forgotten."""
    activity = an_activity()
    for number in range(MAX_LASTING + 10):
        request = ProcessStart(f"p{number}", shell="x", background=True)
        await activity.carry_out(run(ProcessStarted(1)), Replies(), request)
    assert len(activity._lasting) == MAX_LASTING
    assert activity.witness("p0", 1) is None
    assert activity.witness(f"p{MAX_LASTING}", 1) is not None


async def test_who_and_what_is_told() -> None:
    """And the language of the context."""
    activity = an_activity()
    await activity.carry_out(run(ContextDone("ok")), Replies(), ContextRun("a", "1+1"), "console admin", "run-1")
    begun, ended = items(activity)
    assert begun == ActivityItem(1, 7.0, "run-1", ActivityBegun("console admin", "code", "1+1", "python", "a"))
    assert ended == ActivityItem(2, 7.0, "run-1", ActivityEnded(ContextDone("ok")))


async def test_what_was_tried_under_another_meaning_is_not_told() -> None:
    """The control plane tries an id as that of a context, and then as that of a run."""
    activity = an_activity()
    for request in (ContextRun("gone", "x"), ContextInput("gone", "x")):
        with pytest.raises(ExecdError):
            await activity.carry_out(run(ExecdError("context.not_found", "?")), Replies(), request)
    assert said(activity) == []
    with pytest.raises(ExecdError):
        await activity.carry_out(run(ExecdError("context.refused", "no")), Replies(), ContextRun("gone", "x"))
    assert [type(each) for each in said(activity)] == [ActivityBegun, Problem]


async def test_a_handler_that_breaks_is_told() -> None:
    """As the client hears it."""
    activity = an_activity()
    with pytest.raises(ZeroDivisionError):
        await activity.carry_out(run(ZeroDivisionError("x")), Replies(), ContextRun("a", "x"))
    assert said(activity)[-1] == Problem("internal", "ZeroDivisionError: x")


@pytest.mark.parametrize(("is_lost", "code"), [(True, "link.lost"), (False, "client.gone")])
async def test_a_run_that_nobody_waits_for_is_told(is_lost: bool, code: str) -> None:
    """Why: its client or the whole link has gone."""
    activity = an_activity()
    replies = Replies()
    replies.is_lost = is_lost
    begun = asyncio.Event()

    async def handler(_stream: Any, _request: Any) -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    running = asyncio.ensure_future(activity.carry_out(handler, replies, ContextRun("a", "x")))
    await begun.wait()
    running.cancel()
    await asyncio.wait([running])
    ended = said(activity)[-1]
    assert isinstance(ended, Problem)
    assert ended.code == code


async def test_a_prompt_that_has_ended_takes_no_answer() -> None:
    """What is typed after it may have been for a password."""
    activity = an_activity()
    await activity.carry_out(run(ContextPrompt("name"), ContextDone("ok")), Replies(), ContextRun("a", "x"))
    await activity.carry_out(run(Done()), Replies(), ContextInput("a", "late-secret"))
    assert "late-secret" not in repr(said(activity))


async def test_a_claim_is_told_and_its_entrypoint_followed() -> None:
    """A second claim is a server that has connected again, and begins nothing."""
    activity = Activity()
    claim = SandboxClaim("s", env={"A": "secret"}, entrypoint=("sleep", "a b"), activity="full")

    async def handler(_stream: Any, _request: Any) -> None:
        if (witness := activity.witness("entrypoint", 42)) is not None and not witness.has_begun:
            raise AssertionError

    await activity.carry_out(handler, Replies(), claim, "key")
    witness = activity.witness("entrypoint", 42)
    assert witness is not None
    witness.output(b"hello\n")
    await activity.carry_out(handler, Replies(), claim)
    witness.ended(ProcessExited("exit", 3))
    assert said(activity) == [
        ActivityState("claimed"),
        ActivityBegun("key", "entrypoint", "sleep 'a b'", context="entrypoint", pid=42),
        RunOutput(1, b"hello\n"),
        ActivityState("linked"),
        ActivityEnded(ProcessExited("exit", 3)),
    ]
    assert "secret" not in repr(said(activity))


async def test_an_entrypoint_that_cannot_start_is_told() -> None:
    """The claim is refused."""
    activity = Activity()
    claim = SandboxClaim("s", entrypoint=("no-such",), activity="outline")
    with pytest.raises(ExecdError):
        await activity.carry_out(run(ExecdError("process.spawn_failed", "no such file")), Replies(), claim)
    assert said(activity)[-1] == Problem("process.spawn_failed", "no such file")


async def test_bounds_of_the_claim_hold() -> None:
    """And a claim of a server that keeps nothing ends the telling."""
    activity = an_activity(max_activity_entries=4)
    for _ in range(5):
        await activity.carry_out(run(ContextDone("ok")), Replies(), ContextRun("a", "x"))
    assert len(items(activity)) == 5
    assert items(activity)[0].said == ActivityDropped(1)
    activity._take_settings(SandboxClaim("s"))
    await activity.carry_out(run(ContextDone("ok")), Replies(), ContextRun("a", "x"))
    assert activity._ring.last == 10


def test_a_tap_has_all_that_handlers_use_of_a_stream() -> None:
    """Also what types do not say: a tap goes to handlers as the stream that it stands for."""
    source = ROOT / "execd"
    used = {
        name
        for path in source.rglob("*.py")
        if path.parent.name not in ("wire", "activity", "recording")
        and path.name not in ("dispatch.py", "deputy.py", "errors.py")
        for name in re.findall(r"\b_?stream\.([a-z_]+)", path.read_text())
    }
    assert {"send", "write", "receive"} <= used
    assert used <= {name for name in dir(Tap) if not name.startswith("_")} | {"receive"}
