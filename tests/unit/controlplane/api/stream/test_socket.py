"""The native stream's socket, with a client that floods it and does not read. `tests/integration` has a real agent."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections import deque
from typing import Any

import msgspec
import pytest
from starlette.types import Message
from starlette.websockets import WebSocket

from controlplane.access.audit import Audit
from controlplane.api.edge.audit import AuditLog
from controlplane.api.stream import messages as says
from controlplane.api.stream import socket
from controlplane.api.stream.messages import Codec
from controlplane.api.stream.socket import Streams, _Connection
from controlplane.api.stream.stream import CLIENT_WINDOW, INPUT_BYTES, Input
from tests.support.turns import steps_of

ENDPOINT = Streams(None, None, None, AuditLog(Audit(None, "off")))  # type: ignore[arg-type]
SCOPE = {"type": "websocket", "path": "/", "headers": [], "subprotocols": []}


class Flood:
    """A client that has sent its messages already."""

    def __init__(self, *messages: dict[str, Any], reads: bool) -> None:
        self.left = deque(msgspec.json.encode(message).decode() for message in messages)
        self.all_taken = asyncio.Event()
        self._reads = reads

    async def receive(self) -> Message:
        """Return the next message without waiting, then nothing more."""
        if not self.left:
            self.all_taken.set()
            await asyncio.Event().wait()
        return {"type": "websocket.receive", "text": self.left.popleft()}

    async def send(self, _: Message) -> None:
        """Take a message, or never."""
        if not self._reads:
            await asyncio.Event().wait()

    def serve(self) -> asyncio.Task[None]:
        """Begin to serve this client."""
        websocket = WebSocket(SCOPE, self.receive, self.send)  # type: ignore[arg-type]
        websocket.client_state = websocket.application_state = websocket.client_state.CONNECTED
        connection = _Connection(ENDPOINT, websocket, "0123456789abcdef", Codec(says.JSON))
        return asyncio.ensure_future(connection.serve())


def _bad_signals(count: int) -> list[dict[str, Any]]:
    """Return operations that fail at once."""
    operation = {"op": "signal", "id": "x", "signal": "none"}
    return [{"type": "open", "stream": number, "operation": operation} for number in range(1, count + 1)]


async def _until_idle() -> None:
    """Return when nothing can go on any more: every task waits for the client."""
    for _ in range(20_000):
        await asyncio.sleep(0)


@pytest.mark.attack(
    "edge",
    "a client opens streams on its WebSocket without end and reads no answer",
    "the server stops reading from it: at most 128 streams are held",
)
@pytest.mark.parametrize("is_bounded", [True, False])
async def test_who_does_not_read_is_not_heard(is_bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers wait in memory for a client that does not read them."""
    if not is_bounded:
        monkeypatch.setattr(socket, "MAX_STREAMS", 1 << 30)
    sent = 5_000
    client = Flood(*_bad_signals(sent), reads=False)
    monkeypatch.setattr(_Connection, "send", _deaf_to_hello(_Connection.send))
    serving = client.serve()
    await _until_idle()
    serving.cancel()
    await asyncio.wait([serving])

    taken = sent - len(client.left)
    assert (taken <= 2 * socket.MAX_STREAMS + 1) if is_bounded else (taken == sent)


def _deaf_to_hello(send: Any) -> Any:
    async def sending(self: _Connection, message: Any) -> None:
        if not isinstance(message, says.Hello):
            await send(self, message)

    return sending


@pytest.mark.attack(
    "edge",
    "a client sends messages on its WebSocket without a pause",
    "everybody else is served after every 256 messages",
)
@pytest.mark.parametrize("is_bounded", [True, False])
async def test_a_flood_serves_others(is_bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages are of no stream that is open: each is read and dropped."""
    if not is_bounded:
        monkeypatch.setattr("controlplane.turns.TURN_ITEMS", 1 << 30)
        monkeypatch.setattr("controlplane.turns.TURN_BYTES", 1 << 30)
    client = Flood(*[{"type": "credit", "stream": 7, "bytes": 1}] * 3_000, reads=True)
    with steps_of(lambda: -len(client.left)) as steps:
        serving = client.serve()
        await client.all_taken.wait()
    serving.cancel()
    await asyncio.wait([serving])

    assert (steps.largest <= 257) if is_bounded else (steps.largest >= 2_999)


@pytest.mark.attack(
    "edge",
    "a client fills the window of a stream with messages of one byte",
    "what waits costs as many bytes as were sent",
)
async def test_input_costs_what_it_weighs() -> None:
    """A list of pieces of one byte costs a hundred times as much."""

    def held_by(put: Any) -> int:
        tracemalloc.start()
        for _ in range(CLIENT_WINDOW):
            put(bytes(bytearray(b"x")))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return held

    waiting, listed = Input(), deque[tuple[bytes, int]]()

    assert held_by(waiting.put) < 2 * CLIENT_WINDOW
    assert held_by(lambda data: listed.append((data, len(data)))) > 20 * CLIENT_WINDOW


async def test_input_is_taken_in_pieces_up_to_its_end() -> None:
    """Bytes after the end are dropped, and the end is told again."""
    waiting = Input()
    reading = asyncio.ensure_future(waiting.get())
    await asyncio.sleep(0)
    waiting.put(b"a" * INPUT_BYTES)
    waiting.put(b"bc")
    waiting.end()
    waiting.end()
    waiting.put(b"late")

    assert await reading == b"a" * INPUT_BYTES
    assert [await waiting.get(), await waiting.get(), await waiting.get()] == [b"bc", b"", b""]
