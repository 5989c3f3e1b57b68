"""The event streams of `/command` and `/code`: what events look like, and how they are sent.

Every event is one line of ASCII JSON in one `data:` frame: clients split lines at U+2028 and its like.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from json.encoder import encode_basestring_ascii

import msgspec

from controlplane.api.output import Lines
from controlplane.api.schema import CodeFrameView, Receipt, receipt_of_lost
from controlplane.api.streaming import Pump, Sink, StreamResponse
from controlplane.errors import LinkLost, SandlotError
from controlplane.link.stream import Stream
from execd.wire.aio import Data
from execd.wire.frames import Channel
from execd.wire.messages import Reply

PING_INTERVAL_S = 3.0
COMMAND_ERROR = "CommandExecError"  # the name by which clients know that the value is an exit code
OUT_OF_MEMORY = "killed by the kernel: out of memory"
# Output that is there already is joined up to so many bytes before it is written.
MAX_BATCH_BYTES = 64 * 1024

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)


def event_stream(pump: Pump, *, close: Callable[[], None]) -> StreamResponse:
    """Return a response that streams events."""
    return StreamResponse(pump, close=close, headers=HEADERS)


# -- events ----------------------------------------


def init_event(run_id: str) -> bytes:
    """First of all: the id by which a run can be interrupted or asked about."""
    return text_event("init", run_id)


def text_event(kind: str, text: str) -> bytes:
    """An event that carries a text: `stdout`, `stderr`, `init`, `ping`."""
    # By hand, and not by `json.dumps` of a dictionary: this is the one that comes by the thousand.
    return f'data: {{"type":"{kind}","text":{encode_basestring_ascii(text)},"timestamp":{_now_ms()}}}\n\n'.encode()


def complete_event(seconds: float, receipt: Receipt | None = None) -> bytes:
    """It has ended, and well. The receipt, here and below, is ours; clients skip keys that they do not know."""
    return _event({"type": "execution_complete", "execution_time": round(seconds * 1000)}, receipt)


def error_event(
    name: str,
    value: str,
    traceback: Sequence[str] = (),
    receipt: Receipt | None = None,
    frames: Sequence[CodeFrameView] = (),
) -> bytes:
    """It has failed. The frames are ours, too."""
    error: dict[str, object] = {"ename": name, "evalue": value, "traceback": list(traceback)}
    if frames:
        error["frames"] = msgspec.to_builtins(frames)
    return _event({"type": "error", "error": error}, receipt)


def failure_event(error: SandlotError, stream: Stream) -> bytes:
    """What ran was broken off."""
    receipt = receipt_of_lost(stream) if isinstance(error, LinkLost) else None
    return error_event(type(error).__name__, error.message, [f"{error.code}: {error.message}"], receipt)


def input_event(prompt: str, *, password: bool) -> bytes:
    """The run waits for a line of text; ours."""
    return _event({"type": "input_request", "prompt": prompt, "password": password})


def count_event(count: int) -> bytes:
    """The how-manieth run of its context this is."""
    return _event({"type": "execution_count", "execution_count": count})


def result_event(data: Mapping[str, str], display_id: str = "", *, update: bool = False) -> bytes:
    """A value, by MIME type; plain text goes under the name that the clients look for.

    The id, and that it updates what was shown under that id, are ours.
    """
    results = {"text" if mime == "text/plain" else mime: content for mime, content in data.items()}
    event: dict[str, object] = {"type": "result", "results": results}
    if display_id:
        event |= {"display_id": display_id, "update": update}
    return _event(event)


def ping_event() -> bytes:
    """Nothing has happened, which is no reason to hang up."""
    return text_event("ping", "pong")


def _event(fields: dict[str, object], receipt: Receipt | None = None) -> bytes:
    fields["timestamp"] = _now_ms()
    if receipt is not None:
        fields["receipt"] = msgspec.to_builtins(receipt)
    return f"data: {json.dumps(fields, separators=(',', ':'))}\n\n".encode()


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


async def receive_batch(stream: Stream, sink: Sink) -> tuple[list[Data], Reply | None]:
    """Wait for what a run says next, with pings meanwhile. Returns all output that is there, then a message if one is.

    Both are empty at the end of the stream. Errors as in `Stream.receive`.
    """
    item = await _receive(stream, sink)
    pieces: list[tuple[int, list[bytes]]] = []  # neighbours of the same channel together
    size = 0
    while isinstance(item, Data):
        if not pieces or pieces[-1][0] != item.channel:
            pieces.append((item.channel, []))
        pieces[-1][1].append(item.data)
        size += len(item.data)
        item = stream.receive_nowait() if size < MAX_BATCH_BYTES else None
    return [Data(channel, b"".join(parts)) for channel, parts in pieces], item


async def _receive(stream: Stream, sink: Sink) -> Reply | Data | None:
    if (item := stream.receive_nowait()) is not None:
        return item
    while True:
        try:
            async with asyncio.timeout(PING_INTERVAL_S):
                return await stream.receive()
        except TimeoutError:
            await sink.write(ping_event())
