"""What a run says, from a stream on which the test puts what the agent says."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

import pytest

from controlplane.api.runs import replies as module
from controlplane.api.runs.receipt import Receipt
from controlplane.api.runs.replies import Ended, Lost, Replies, Started
from controlplane.errors import AgentError, CapacityExhausted, LinkClosed, LinkLost
from controlplane.link.stream import RecordedStream, Stream
from execd.wire.aio import Data, StreamClosed, StreamLost, StreamReset
from execd.wire.errors import WireError
from execd.wire.frames import Channel
from execd.wire.messages import (
    ContextDone,
    ContextError,
    ContextPrompt,
    ContextResult,
    ContextState,
    Done,
    Problem,
    ProcessExited,
    ProcessStarted,
    RunItem,
    RunOutput,
)

OUT, ERR = Channel.STDOUT, Channel.STDERR
NOT_FOUND = StreamReset(Problem("context.not_found", "context default-python does not exist"))
END = None


class Wire:
    """The wire's end of a stream, on which everything has arrived already."""

    def __init__(self, *items: Any) -> None:
        self.items = deque(items)
        self.ended = False
        self.is_reset = False

    async def receive(self) -> Any:
        """Return the next item; raise it where it is an error."""
        if self.ended:
            return None
        if isinstance(self.items[0], WireError):
            raise self.items[0]
        return self.receive_nowait()

    def receive_nowait(self) -> Any:
        """Return the next item where that is no error."""
        if not self.items or isinstance(self.items[0], WireError):
            return None
        item = self.items.popleft()
        self.ended = item is END
        return item

    def end(self) -> None:
        """Both ends are done."""

    def reset(self, code: str, message: str) -> None:
        """The reader leaves."""
        self.is_reset = True


def stream_of(*items: Any, kind: type[Stream] = Stream) -> Stream:
    """Return a stream on which these items have arrived."""
    return kind(cast(Any, Wire(*items)))


def wire_of(stream: Stream) -> Wire:
    return cast(Wire, stream._stream)


def replies_of(*items: Any, kind: type[Stream] = Stream) -> Replies:
    return Replies(stream_of(*items, kind=kind))


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        (ProcessStarted(7), Started(7)),
        (ProcessStarted(0), Started(0)),
        (Done(), Started(None)),
        (ContextResult("result", {"text/plain": "4"}, 3), ContextResult("result", {"text/plain": "4"}, 3)),
        (ContextPrompt("name? "), ContextPrompt("name? ")),
        (ContextError("E", "v", ("t",)), ContextError("E", "v", ("t",))),
        (
            ProcessExited("signal", 137, 9, 0.1, 0.2000000004, 3, 4, ("memory",), "no"),
            Ended(Receipt("signal", 0.2, 0.1, 3, 4, 137, 9, "", ("memory",), "no")),
        ),
        (
            ContextDone("died", 5, 0.2, "it ended", "exit", 1),
            Ended(Receipt("died", 0.2, 0.0, 0, 0, 1, 0, "exit"), "it ended", 5),
        ),
    ],
)
async def test_each_reply_is_a_value(reply: Any, value: Any) -> None:
    """A reply that nothing comes before has no output."""
    assert await replies_of(reply, END).receive() == ([], value)


async def test_output_is_joined_with_its_neighbours_and_told_with_what_follows() -> None:
    """The order of stdout and stderr stays."""
    replies = replies_of(
        Data(OUT, b"a"), Data(OUT, b"b"), Data(ERR, b"c"), Data(OUT, b"d"), ProcessExited("exit", 0), END
    )

    output, said = await replies.receive()

    assert output == [Data(OUT, b"ab"), Data(ERR, b"c"), Data(OUT, b"d")]
    assert isinstance(said, Ended)


async def test_a_batch_has_a_limit() -> None:
    """Output that reaches the limit is told at once; what follows waits for the next call."""
    half = b"x" * (module.MAX_BATCH_BYTES // 2)
    replies = replies_of(Data(OUT, half), Data(ERR, half), Data(OUT, b"more"), ProcessExited("exit", 0), END)

    first, nothing = await replies.receive()
    second, said = await replies.receive()

    assert (first, nothing) == ([Data(OUT, half), Data(ERR, half)], None)
    assert second == [Data(OUT, b"more")]
    assert isinstance(said, Ended)


async def test_a_single_piece_of_output_is_not_copied() -> None:
    """A command with much output would pay for each copy."""
    piece = b"x" * 1000
    output, _ = await replies_of(Data(OUT, piece), ProcessExited("exit", 0), END).receive()
    assert output[0].data is piece


@pytest.mark.parametrize("items", [(), (Data(OUT, b"a"),), (ProcessStarted(7),), (Data(OUT, b"a"), ProcessStarted(7))])
async def test_an_end_without_a_word_is_an_error(items: tuple[Any, ...]) -> None:
    """What has come before is told first."""
    replies = replies_of(*items, END)
    if items:
        await replies.receive()
    with pytest.raises(LinkLost, match="the agent ended a run without saying how"):
        await replies.receive()


async def test_a_lost_link_has_a_receipt_of_what_was_seen() -> None:
    """The output before it is told first."""
    replies = replies_of(Data(OUT, b"abc"), StreamLost("gone"))

    assert await replies.receive() == ([Data(OUT, b"abc")], None)
    output, said = await replies.receive()

    assert output == []
    assert isinstance(said, Lost)
    assert isinstance(said.error, LinkLost)
    assert said.receipt is not None
    assert (said.receipt.cause, said.receipt.output_bytes) == ("link_lost", 3)


@pytest.mark.parametrize(
    ("error", "kind"),
    [(NOT_FOUND, AgentError), (StreamClosed("we left"), LinkClosed), (StreamReset(Problem("x", "y")), AgentError)],
)
async def test_what_else_breaks_a_run_off_has_no_receipt(error: WireError, kind: type[Exception]) -> None:
    """The link is fine."""
    _, said = await replies_of(error).receive()
    assert isinstance(said, Lost)
    assert isinstance(said.error, kind)
    assert said.receipt is None


async def test_a_reply_that_was_not_asked_for_breaks_the_run_off() -> None:
    """The agent does not keep to the protocol; what it said before is told."""
    output, said = await replies_of(Data(OUT, b"a"), ContextState("x", "python"), END).receive()
    assert output == [Data(OUT, b"a")]
    assert isinstance(said, Lost)
    assert said.error.message == "execd said ContextState, which was not asked for"


async def test_a_recorded_run_is_told_item_by_item() -> None:
    """Each item has its number, so items are not joined."""
    items = [
        RunItem(1, Done()),
        RunItem(2, RunOutput(OUT, b"a")),
        RunItem(3, RunOutput(OUT, b"b")),
        RunItem(4, ContextDone("ok")),
    ]
    replies = replies_of(*items, END, kind=RecordedStream)

    told = [(await replies.receive(), replies.stream.number) for _ in items]

    assert told == [
        (([], Started(None)), 1),
        (([Data(OUT, b"a")], None), 2),
        (([Data(OUT, b"b")], None), 3),
        (([], Ended(Receipt("ok", 0.0, 0.0, 0, 0))), 4),
    ]


class Context:
    """Counts what is asked of the context of a run."""

    def __init__(self, *streams: Stream, fails: bool = False) -> None:
        self.streams = deque(streams)
        self.fails = fails
        self.asked: list[str] = []

    async def retry(self) -> Stream:
        """Begin the run again."""
        self.asked.append("retry")
        await asyncio.sleep(0)
        if self.fails:
            raise CapacityExhausted("too many contexts")
        return self.streams.popleft()

    def forget(self) -> None:
        """Note that the context has gone."""
        self.asked.append("forget")


async def test_a_default_context_that_has_gone_is_made_again_once() -> None:
    """The run goes on with the new stream, and the old one is closed."""
    gone, again = stream_of(NOT_FOUND), stream_of(Data(OUT, b"a"), ContextDone("ok"), END)
    context = Context(again)
    replies = Replies(gone, retry=context.retry, forget=context.forget)

    output, said = await replies.receive()

    assert (output, isinstance(said, Ended)) == ([Data(OUT, b"a")], True)
    assert context.asked == ["forget", "retry"]
    assert replies.stream is again
    assert wire_of(gone).is_reset
    assert not wire_of(again).is_reset


async def test_a_context_that_has_gone_twice_is_not_made_a_third_time() -> None:
    """The second refusal breaks the run off."""
    context = Context(stream_of(NOT_FOUND), stream_of(ContextDone("ok"), END))
    replies = Replies(stream_of(NOT_FOUND), retry=context.retry, forget=context.forget)

    _, said = await replies.receive()

    assert isinstance(said, Lost)
    assert context.asked.count("retry") == 1
    assert len(context.streams) == 1


async def test_a_named_context_is_not_made_again() -> None:
    """Its state has gone with it; but nobody takes the context for known any more."""
    context = Context()
    _, said = await Replies(stream_of(NOT_FOUND), forget=context.forget).receive()
    assert isinstance(said, Lost)
    assert context.asked == ["forget"]


async def test_a_retry_that_fails_tells_the_first_error() -> None:
    """The client did not ask for the retry."""
    context = Context(fails=True)
    _, said = await Replies(stream_of(NOT_FOUND), retry=context.retry, forget=context.forget).receive()
    assert isinstance(said, Lost)
    assert isinstance(said.error, AgentError)
    assert said.error.code == "context.not_found"


@pytest.mark.parametrize("error", [StreamReset(Problem("context.unsupported", "no")), StreamLost("gone")])
async def test_nothing_else_is_retried(error: WireError) -> None:
    """A run that has perhaps begun must not run twice."""
    context = Context(stream_of(ContextDone("ok"), END))
    _, said = await Replies(stream_of(error), retry=context.retry, forget=context.forget).receive()
    assert isinstance(said, Lost)
    assert context.asked == []


@pytest.mark.parametrize(("died_of", "asked"), [("signal", ["forget"]), ("", [])])
async def test_a_context_that_died_is_forgotten(died_of: str, asked: list[str]) -> None:
    """The next run of a default context makes a new one without being refused first."""
    context = Context()
    await Replies(stream_of(ContextDone("died", died_of=died_of), END), forget=context.forget).receive()
    assert context.asked == asked


async def test_the_outcome_of_a_run_is_its_end_alone() -> None:
    """What the run says before is dropped; then the stream is at its end."""
    replies = replies_of(Done(), Data(OUT, b"a"), ContextDone("ok", message="fine"), END)
    assert (await replies.outcome()).message == "fine"
    assert replies.stream._stream.ended


async def test_the_outcome_of_a_broken_run_is_the_error() -> None:
    """As the agent said it."""
    with pytest.raises(AgentError, match="does not exist"):
        await replies_of(Done(), NOT_FOUND).outcome()


async def test_the_wait_is_the_caller_s() -> None:
    """The renderer of events sends pings meanwhile."""
    waited = []

    async def wait(stream: Stream) -> Any:
        waited.append(stream)
        return await stream.receive()

    replies = replies_of(Data(OUT, b"a"), Data(OUT, b"b"), ProcessExited("exit", 0), END)
    await replies.receive(wait)

    assert waited == [replies.stream]
