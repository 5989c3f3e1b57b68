"""The event streams of `/command`, `/code` and `/session`: what events look like, and how they are sent.

Every event is one line of ASCII JSON, and a blank line after it. That is the form of the official agent, and the only
one that every official client reads: the code interpreter of Kotlin and Java parses each line as JSON. The JSON is
ASCII because some clients split lines at U+2028 and similar characters. `recording.py` adds `id:` and `data:` for
clients that ask to resume.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from json.encoder import encode_basestring_ascii
from typing import NamedTuple

import msgspec

from controlplane.api.edge.responses import NO_PIECES, Pump, Sink, StreamResponse
from controlplane.api.runs.large_json import LARGE_CHARS, json_pieces
from controlplane.api.runs.receipt import CodeFrameView, Receipt, frames_of
from controlplane.api.runs.replies import Ended, Lost, Prompt, Raised, Result
from controlplane.api.runs.run import FROM_START, Run
from controlplane.api.runs.text import Lines
from controlplane.link.stream import Stream
from execd.wire.aio import Data
from execd.wire.frames import Channel
from execd.wire.messages import Reply, RunState

PING_INTERVAL_S = 3.0
COMMAND_ERROR = "CommandExecError"  # the name by which clients know that the value is an exit code
OUT_OF_MEMORY = "killed by the kernel: out of memory"

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)


def event_stream(pump: Pump, *, close: Callable[[], None]) -> StreamResponse:
    """Return a response that streams events."""
    return StreamResponse(pump, close=close, headers=HEADERS)


# -- events ----------------------------------------


def init_event(run_id: str, context_id: str = "") -> bytes:
    """Return the first event of a run. Its text is the id of the run or, of a run of code, of its context.

    A run of code has its own id under `run_id`, which is ours: it interrupts, answers and resumes that run alone.
    """
    if context_id:
        return _event({"type": "init", "text": context_id, "run_id": run_id})
    return text_event("init", run_id)


def text_event(kind: str, text: str) -> bytes:
    """Return an event with a text: `stdout`, `stderr`, `init`, `ping`."""
    # By hand, and not by `json.dumps` of a dictionary: this is the one that comes by the thousand.
    return f'{{"type":"{kind}","text":{encode_basestring_ascii(text)},"timestamp":{_now_ms()}}}\n\n'.encode()


def complete_event(seconds: float, receipt: Receipt | None = None) -> bytes:
    """Return the event of a successful end. Clients ignore keys that they do not know, such as the receipt."""
    return _event({"type": "execution_complete", "execution_time": round(seconds * 1000)}, receipt)


def error_event(
    name: str,
    value: str,
    traceback: Sequence[str] = (),
    receipt: Receipt | None = None,
    frames: Sequence[CodeFrameView] = (),
) -> bytes:
    """Return the event of an error."""
    return _event(_error(name, value, traceback, frames), receipt)


def error_pieces(
    name: str, value: str, traceback: Sequence[str] = (), frames: Sequence[CodeFrameView] = ()
) -> Iterable[bytes]:
    """Return what `error_event` returns, without a receipt, in pieces."""
    return _pieces(_error(name, value, traceback, frames), len(value) + sum(map(len, traceback)))


def _error(name: str, value: str, traceback: Sequence[str], frames: Sequence[CodeFrameView]) -> dict[str, object]:
    error: dict[str, object] = {"ename": name, "evalue": value, "traceback": list(traceback)}
    if frames:
        error["frames"] = msgspec.to_builtins(frames)
    return {"type": "error", "error": error}


def failure_event(lost: Lost) -> bytes:
    """Return the event of a run or command that was broken off."""
    error = lost.error
    return error_event(type(error).__name__, error.public, [f"{error.code}: {error.public}"], lost.receipt)


def input_event(prompt: str, *, password: bool) -> bytes:
    """Return the event of a run that waits for a line of text."""
    return _event({"type": "input_request", "prompt": prompt, "password": password})


def count_event(count: int) -> bytes:
    """Return the event with the context's execution count."""
    return _event({"type": "execution_count", "execution_count": count})


def result_pieces(data: Mapping[str, str], display_id: str = "", *, update: bool = False) -> Iterable[bytes]:
    """Return a value, by MIME type, in pieces; plain text goes under the name that the clients look for.

    The id, and that it updates what was shown under that id, are ours.
    """
    return _pieces(_result(data, display_id, update=update), sum(map(len, data.values())))


def _result(data: Mapping[str, str], display_id: str, *, update: bool) -> dict[str, object]:
    results = {"text" if mime == "text/plain" else mime: content for mime, content in data.items()}
    event: dict[str, object] = {"type": "result", "results": results}
    if display_id:
        event |= {"display_id": display_id, "update": update}
    return event


def ping_event() -> bytes:
    """Return the event of a silent run, which keeps the connection alive."""
    return text_event("ping", "pong")


def _event(fields: dict[str, object], receipt: Receipt | None = None) -> bytes:
    fields["timestamp"] = _now_ms()
    if receipt is not None:
        fields["receipt"] = msgspec.to_builtins(receipt)
    return f"{json.dumps(fields, separators=(',', ':'))}\n\n".encode()


def _pieces(fields: dict[str, object], chars: int) -> Iterable[bytes]:
    """Return what `_event` returns, in pieces of some LARGE_CHARS characters if there are *chars* of them."""
    return _large_event(fields) if chars > LARGE_CHARS else (_event(fields),)


def _large_event(fields: dict[str, object]) -> Iterator[bytes]:
    fields["timestamp"] = _now_ms()
    yield from json_pieces(fields)
    yield b"\n\n"


def _now_ms() -> int:
    return int(time.time() * 1000)


# -- the sending ----------------------------------------


class Output:
    """Turns the output of one run into events, stdout and stderr in the order in which they came."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines = {Channel.STDOUT: Lines(), Channel.STDERR: Lines()}

    def feed(self, batch: Iterable[Data]) -> bytes:
        """Return the events of some output."""
        frames: list[bytes] = []
        for channel, data in batch:
            kind = "stderr" if channel == Channel.STDERR else "stdout"
            lines = self._lines[Channel.STDERR if channel == Channel.STDERR else Channel.STDOUT]
            frames.extend(text_event(kind, text) for text in lines.feed(data))
        return b"".join(frames)

    def flush(self) -> bytes:
        """Return the events of what was held back."""
        return b"".join(
            text_event(channel.name.lower(), text) for channel, lines in self._lines.items() for text in lines.flush()
        )


class RecordedOutput(Output):
    """The same for a recorded run, whose output execd has cut into items. Each item is turned into events alone."""

    __slots__ = ()

    def __init__(self, state: RunState) -> None:
        """Begin where a reader of the run stands."""
        self._lines = {Channel.STDOUT: Lines(alone=0), Channel.STDERR: Lines(alone=0)}
        for channel, tails in ((Channel.STDOUT, state.stdout), (Channel.STDERR, state.stderr)):
            for tail in tails:
                self.feed([Data(channel, tail)])

    def feed(self, batch: Iterable[Data]) -> bytes:
        """Return the events of some output, all of it."""
        return super().feed(batch) + self.flush()


def output_of(stream: Stream, state: RunState = FROM_START) -> Output:
    """Return what turns the output of a run into events; of a recorded one, from where its reader stands."""
    return RecordedOutput(state) if stream.is_recorded else Output()


class Endings(NamedTuple):
    """How one kind of run tells its end: the last events of a run that has ended, and of one that was broken off."""

    ended: Callable[[Run, Ended, bool], bytes]  # the bool: an error event has come before
    lost: Callable[[Run, Lost], bytes]


async def tell(run: Run, endings: Endings, sink: Sink) -> None:
    """Tell a run as events, from where its reader stands to its end.

    Raises:
        LinkLost: the agent ended the run without saying how.
    """
    if run.is_from_start:
        await sink.write(init_event(run.id, run.place if run.kind == "context" else ""))
    replies, output, wait = run.replies, output_of(run.stream, run.state), partial(_wait, sink)
    has_raised, is_counted = run.state.raised, run.state.counted or run.kind != "context"
    while True:
        batch, said = await replies.receive(wait)
        events, pieces = output.feed(batch), NO_PIECES
        match said:
            case Ended():
                if said.execution_count and not is_counted:
                    events += count_event(said.execution_count)
                # Events and end in one write: most commands are over with it.
                await sink.finish(events + output.flush() + endings.ended(run, said, has_raised))
                await replies.drain()
                return
            case Lost():
                await sink.finish(events + output.flush() + endings.lost(run, said))
                return
            case Result():
                if said.execution_count and not is_counted:
                    is_counted = True
                    events += count_event(said.execution_count)
                pieces = result_pieces(said.data, said.display_id, update=said.update)
            case Prompt():
                events += output.flush() + input_event(said.prompt, password=said.password)
            case Raised():
                has_raised = True
                pieces = error_pieces(said.name, said.value, said.traceback, frames_of(said))
        if pieces is NO_PIECES:
            await sink.write(events)
        else:
            await sink.write_pieces(events, pieces)


async def _wait(sink: Sink, stream: Stream) -> Reply | Data | None:
    """Wait for what a stream says next, with pings meanwhile."""
    if (item := stream.receive_nowait()) is not None:
        return item
    while True:
        try:
            async with asyncio.timeout(PING_INTERVAL_S):
                return await stream.receive()
        except TimeoutError:
            await sink.write(ping_event())
