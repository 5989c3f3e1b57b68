"""Events of recorded runs: the same ids and events from wherever a client reads on, and the same text in the end."""

from __future__ import annotations

import asyncio
import json

from hypothesis import given
from hypothesis import strategies as st

from controlplane.api.runs import sse
from controlplane.api.runs.numbered import START, NumberedEvents, Position
from controlplane.api.runs.text import Lines
from execd.recording.recording import Budget, Recording
from execd.wire.aio import Data
from execd.wire.frames import Channel
from execd.wire.messages import RunOutput, RunState

PIECES = st.sampled_from([b"a", b"word ", b"\n", b"\n\n", b"\r", b"\r\n", "é".encode(), b"\xe6", b"\x97\xa5", b"\xff"])
CHANNELS = st.sampled_from([Channel.STDOUT, Channel.STDOUT, Channel.STDERR])
OUTPUTS = st.lists(st.tuples(st.lists(PIECES, min_size=1, max_size=6).map(b"".join), CHANNELS), max_size=30)


async def record(outputs: list[tuple[bytes, Channel]]) -> Recording:
    """Return the recording of a run that has written these outputs and ended."""
    recording = Recording(Budget(), 60, lambda: None, lines=True)
    for data, channel in outputs:
        await recording.write(data, channel)
    recording.end()
    return recording


def state_at(recording: Recording, after: int) -> RunState:
    """What execd tells a reader that goes on after an item."""
    tails = (recording.tails(channel, after) for channel in (Channel.STDOUT, Channel.STDERR))
    stdout, stderr = tails
    return RunState("process", "", lines=True, timeout_s=None, stdout=stdout, stderr=stderr)


def events_after(recording: Recording, after: Position) -> list[tuple[str, str, str]]:
    """Return id, kind and text of the events that a client gets that goes on there."""
    output = sse.RecordedOutput(state_at(recording, after.number))
    number = after.number
    numbered = NumberedEvents(lambda: number, after)
    events = []
    for item in list(recording._items)[after.number :]:
        number = item.number
        assert isinstance(item.said, RunOutput)
        text = numbered.number(output.feed([Data(item.said.channel, item.said.data)])).decode()
        for block in text.split("\n\n")[:-1]:
            head, data = block.split("\n")
            event = json.loads(data.removeprefix("data: "))
            events.append((head.removeprefix("id: "), event["type"], event["text"]))
    return events


def position(event_id: str) -> Position:
    number, _, more = event_id.partition(".")
    return Position(int(number), int(more or 0))


@given(OUTPUTS)
def test_a_client_that_reads_on_anywhere_gets_the_rest(outputs: list[tuple[bytes, Channel]]) -> None:
    """Ids and texts: none is lost, none comes twice, none is another one."""
    recording = asyncio.run(record(outputs))
    whole = events_after(recording, START)
    ids = [event_id for event_id, _, _ in whole]
    assert len(set(ids)) == len(ids)
    for at, event_id in enumerate(ids):
        assert events_after(recording, position(event_id)) == whole[at + 1 :]


@given(OUTPUTS)
def test_what_is_dropped_changes_nothing_of_the_rest(outputs: list[tuple[bytes, Channel]]) -> None:
    """What a reader must know of it is kept."""
    recording = asyncio.run(record(outputs))
    before = [state_at(recording, number) for number in range(len(recording._items) + 1)]
    recording._mark_sent(len(recording._items))
    for number, state in enumerate(before):
        assert state_at(recording, number) == state
        recording.drop_oldest()


def as_shown(texts: list[str]) -> str:
    """Return what a client shows: a newline between two texts, unless one stands there."""
    shown = ""
    for text in texts:
        shown += ("\n" if shown and shown[-1] not in "\r\n" and text[0] not in "\r\n" else "") + text
    return shown.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


@given(st.lists(st.lists(PIECES, min_size=1, max_size=6).map(b"".join), max_size=30))
def test_a_recorded_run_is_shown_as_any_other(outputs: list[bytes]) -> None:
    """The events are cut elsewhere; what a client shows is the same."""
    recording = asyncio.run(record([(data, Channel.STDOUT) for data in outputs]))
    lines = Lines()
    plain = [text for data in outputs for text in lines.feed(data)] + lines.flush()
    assert as_shown([text for _, _, text in events_after(recording, START)]) == as_shown(plain)
