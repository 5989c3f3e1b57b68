"""The listener's WebSocket against clients that send frames no honest client sends, or not so many of them.

Beside each attack stands the same one with the bound lifted, where it succeeds.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from websockets.asyncio.client import connect

from controlplane.listener import bounds
from controlplane.listener.memory import Memory
from controlplane.listener.serve import make_server
from controlplane.listener.websocket import BoundedWebSocket
from tests.support.server.listener import BINARY, CLOSE, HANDSHAKE, PING, PONG, TEXT, Client, frame, listening
from tests.support.turns import most_in_one_turn

CONT = 0


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Send every message back."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def take(scope: Any, receive: Any, send: Any) -> None:
    """Take every message, and say nothing."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        pass


async def sleep(scope: Any, receive: Any, send: Any) -> None:
    """Take one message, and no other."""
    await receive()
    await send({"type": "websocket.accept"})
    await receive()
    await asyncio.Event().wait()


async def close_code(client: Client) -> int:
    """Return with what the server closes, past all other frames."""
    while True:
        opcode, data = await client.frame()
        if opcode == CLOSE:
            return int.from_bytes(data[:2], "big")


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
async def test_frames_that_arrive_in_pieces_are_whole(size: int) -> None:
    """Pieces end anywhere, also within the head of a frame."""
    large = bytes(range(256)) * 300
    stream = (
        frame(TEXT, b"hello")
        + frame(BINARY, b"a" * 300, fin=False)
        + frame(PING, b"p")
        + frame(CONT, b"", fin=False)
        + frame(CONT, b"b" * 200)
        + frame(BINARY)
        + frame(BINARY, large)
    )
    async with listening(echo) as place:
        client = await place.dial()
        await client.shake_hands()
        for at in range(0, len(stream), size):
            await client.send(stream[at : at + size])
        frames = [await client.frame() for _ in range(5)]
    assert (PONG, b"p") in frames
    assert [each for each in frames if each[0] != PONG] == [
        (TEXT, b"hello"),
        (BINARY, b"a" * 300 + b"b" * 200),
        (BINARY, b""),
        (BINARY, large),
    ]


async def test_a_message_of_the_largest_size_is_taken() -> None:
    """In one frame or many; one byte more is refused with 1009."""
    most = bounds.MAX_MESSAGE_BYTES
    async with listening(take) as place:
        client = await place.dial()
        await client.shake_hands()
        await client.send(frame(BINARY, bytes(most)))
        await client.send(frame(BINARY, bytes(most // 2), fin=False) + frame(CONT, bytes(most // 2)))
        await client.send(frame(PING, b"?"))
        assert await client.frame() == (PONG, b"?")
        await client.send(frame(BINARY, bytes(most + 1))[:100])
        assert await close_code(client) == 1009


async def test_frames_that_came_with_the_handshake_are_not_lost() -> None:
    """A client that need not wait for the answer saves a round trip."""
    async with listening(echo) as place:
        client = await place.dial()
        await client.send(HANDSHAKE + frame(TEXT, b"early"))
        await client.reader.readuntil(b"\r\n\r\n")
        assert await client.frame() == (TEXT, b"early")


@pytest.mark.attack(
    "edge",
    "Offer compressed WebSocket messages, of which 16 KB become 16 MB",
    "Compression is not agreed on; a compressed message ends the connection",
)
@pytest.mark.parametrize("is_lifted", [False, True], ids=["bounded", "bound lifted"])
async def test_compressed_messages(is_lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handshake without it is what every client knows."""
    if is_lifted:

        def weak(*args: Any, **options: Any) -> Any:
            server = make_server(*args, **options)
            server.config.ws_per_message_deflate = True
            return server

        monkeypatch.setattr("tests.support.server.listener.make_server", weak)
    async with listening(take) as place, connect(f"ws://127.0.0.1:{place.port}/") as client:
        assert bool(client.protocol.extensions) is is_lifted
        await client.send("a" * 1_000_000)
        await client.ping()
    if not is_lifted:
        async with listening(take) as place:
            raw = await place.dial()
            await raw.shake_hands()
            await raw.send(frame(TEXT, b"\0" * 100, rsv1=True))
            assert await close_code(raw) == 1002


@pytest.mark.attack(
    "edge",
    "Send a WebSocket message in fragments without end, empty or of a byte",
    "After 4,096 fragments the connection is closed with 1008",
)
@pytest.mark.parametrize("is_lifted", [False, True], ids=["bounded", "bound lifted"])
@pytest.mark.parametrize("data", [b"", b"a"])
async def test_fragments_without_end(data: bytes, is_lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the largest message of an honest client has fewer."""
    if is_lifted:
        monkeypatch.setattr("controlplane.listener.frames.MAX_FRAGMENTS", 1 << 40)
        monkeypatch.setattr("controlplane.listener.websocket.TURN_EVENTS", 1 << 40)  # not in the slow lane
    async with listening(take) as place:
        client = await place.dial()
        await client.shake_hands()
        await client.send(frame(TEXT, data, fin=False) + frame(CONT, data, fin=False) * 5000)
        await client.send(frame(PING, b"?"))
        opcode, _ = await client.frame()
        assert opcode == (PONG if is_lifted else CLOSE)


FLOODS = {
    "messages of one byte": (frame(TEXT, b"1"), "handle_text"),
    "empty messages": (frame(BINARY), "handle_bytes"),
    "pings": (frame(PING), "handle_ping"),
    "pongs": (frame(PONG, b"unasked"), "handle_pong"),
}


@pytest.mark.attack(
    "edge",
    "Flood a WebSocket with messages of one byte or none, pings or pongs",
    "A turn of the event loop handles 64 frames of a connection, and others are served meanwhile",
)
@pytest.mark.parametrize("is_lifted", [False, True], ids=["bounded", "bound lifted"])
@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_of_small_frames(name: str, is_lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them arrive."""
    data, method = FLOODS[name]
    if is_lifted:
        monkeypatch.setattr("controlplane.listener.frames.TURN_EVENTS", 1 << 40)
    most = most_in_one_turn(monkeypatch, BoundedWebSocket, method)
    async with listening(take) as place:
        client = await place.dial()
        await client.shake_hands()
        await client.send(data * 2000)
        await client.send(frame(CLOSE, b"\x03\xe8"))
        assert await close_code(client) == 1000
    assert most() > bounds.TURN_EVENTS if is_lifted else most() <= bounds.TURN_EVENTS


@pytest.mark.attack(
    "edge",
    "Send pings and read no pongs",
    "The server stops reading when 64 KiB of pongs wait, and ends the connection after five minutes",
)
@pytest.mark.parametrize("is_lifted", [False, True], ids=["bounded", "bound lifted"])
async def test_pongs_that_nobody_reads(is_lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is in the kernel's buffers, beside that."""
    waiting = []
    real = BoundedWebSocket.handle_ping

    def watched(self: BoundedWebSocket) -> None:
        real(self)
        waiting.append(self.transport.get_write_buffer_size())

    monkeypatch.setattr(BoundedWebSocket, "handle_ping", watched)
    monkeypatch.setattr("controlplane.listener.rounds._PAUSE_RATIO", 0)
    monkeypatch.setattr("controlplane.listener.websocket.TURN_EVENTS", 1 << 40)  # not in the slow lane
    if is_lifted:
        monkeypatch.setattr(BoundedWebSocket, "_must_wait", lambda self: False)
    async with listening(take) as place:
        client = await place.dial()
        await client.shake_hands()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send_for_ever(frame(PING, b"a" * 125) * 1000, 12_000_000)
        assert max(waiting) > 300_000 if is_lifted else max(waiting) < 100_000


@pytest.mark.attack(
    "edge",
    "Send messages faster than the application takes them",
    "The server reads no more than a turn's messages ahead",
)
@pytest.mark.parametrize("is_lifted", [False, True], ids=["bounded", "bound lifted"])
async def test_messages_that_nobody_takes(is_lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sender waits."""
    sockets = []
    real = BoundedWebSocket.begin
    monkeypatch.setattr(BoundedWebSocket, "begin", lambda self, *rest: (sockets.append(self), real(self, *rest)))
    if is_lifted:
        monkeypatch.setattr(BoundedWebSocket, "_must_wait", lambda self: False)
    async with listening(sleep) as place:
        client = await place.dial()
        await client.shake_hands()
        await client.send_for_ever(frame(TEXT, b"a" * 1000) * 100, 20_000_000)
        queued = sockets[0].queue.qsize()
        assert queued > 1000 if is_lifted else queued <= 2 * bounds.TURN_EVENTS


@pytest.mark.attack(
    "edge",
    "Leave large messages half-sent on many WebSockets, or whole with an application that is slow",
    "All together may hold 64 MiB; the connection that has held longest is closed with 1013",
)
@pytest.mark.parametrize("is_lifted", [False, True], ids=["bounded", "bound lifted"])
@pytest.mark.parametrize("cut", [1, 0], ids=["half-sent", "whole"])
async def test_messages_that_stay_in_memory(cut: int, is_lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest may stay."""
    limit = 1 << 40 if is_lifted else 1 << 20
    monkeypatch.setattr("controlplane.listener.serve.Memory", lambda: Memory(limit))
    data = frame(BINARY, bytes(300_000))
    async with listening(sleep) as place:
        clients = [await place.dial() for _ in range(6)]
        for client in clients:
            await client.shake_hands()
            await client.send(data[: len(data) - cut])
            await asyncio.sleep(0.02)
        held = place.server.memory.total
        if is_lifted:
            assert held >= 6 * 299_000
        else:
            assert held <= limit
            assert await close_code(clients[0]) == 1013
            assert not clients[-1].reader.at_eof()


async def _never(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()


@pytest.mark.attack(
    "edge",
    "Ask for a WebSocket to a service that never answers",
    "503 after a minute, and the connection is closed",
)
@pytest.mark.parametrize("limit", [0.2, 1000])
async def test_a_handshake_that_is_not_answered(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits behind it has waited enough."""
    monkeypatch.setattr("controlplane.listener.websocket.HANDSHAKE_S", limit)
    async with listening(_never) as place:
        client = await place.dial()
        await client.send(HANDSHAKE)
        if limit < 1:
            assert (await client.answer())[0] == 503
            assert await client.end() == b""
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.reader.read(1), 0.5)


async def test_a_client_that_we_make_wait_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pong stands behind messages that the application does not take."""
    monkeypatch.setattr("controlplane.listener.serve.PING_S", 0.05)
    free = asyncio.Event()

    async def busy(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await free.wait()
        for _ in range(3):
            await send({"type": "websocket.send", "text": (await receive())["text"]})
        await receive()

    async with listening(busy) as place, connect(f"ws://127.0.0.1:{place.port}/") as client:
        for text in "abc":
            await client.send(text)
        await asyncio.sleep(0.4)
        free.set()
        assert [await client.recv() for _ in range(3)] == ["a", "b", "c"]


BROKEN = {
    "no UTF-8": frame(TEXT, b"\xff\xfe"),
    "no mask": b"\x81\x01a",
    "an unknown opcode": frame(3, b"a"),
    "a fragment of nothing": frame(CONT, b"a"),
    "a ping in fragments": frame(PING, b"a", fin=False),
    "a ping too long": frame(PING, b"a" * 126),
    "a length beyond all bounds": b"\x82\xff" + b"\xff" * 12,
    "a close that is none": frame(CLOSE, b"a"),
}


@pytest.mark.attack(
    "edge",
    "Break the rules of WebSocket in every way, with a token in the request",
    "The connection is closed with a code that says why, and no log has a line above debug for it",
)
@pytest.mark.parametrize("name", BROKEN)
async def test_broken_frames(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """What a client breaks is no news, and its traceback would tell what it knows."""
    caplog.set_level(logging.INFO)
    async with listening(echo) as place:
        client = await place.dial()
        await client.shake_hands()
        await client.send(BROKEN[name])
        assert await close_code(client) in {1002, 1007, 1009}
        assert await client.end() == b""
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def _hang_up(scope: Any, receive: Any, send: Any) -> None:
    """Close after the first message, as an endpoint does whose rules are broken."""
    await receive()
    await send({"type": "websocket.accept"})
    await receive()
    await send({"type": "websocket.close", "code": 1008})


@pytest.mark.attack(
    "edge",
    "Go on sending small messages after the server has closed a WebSocket",
    "The server reads no further ahead than before, until its patience ends",
)
@pytest.mark.parametrize("is_lifted", [False, True], ids=["bounded", "bound lifted"])
async def test_a_flood_after_the_end(is_lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading goes on then, to find the client's own close."""
    most = 0
    real = BoundedWebSocket._take_turn

    def watched(self: BoundedWebSocket) -> None:
        nonlocal most
        most = max(most, len(self._input))
        real(self)

    monkeypatch.setattr(BoundedWebSocket, "_take_turn", watched)
    if is_lifted:
        monkeypatch.setattr(BoundedWebSocket, "_set_reading", lambda self: self.transport.resume_reading())
        # A turn of one frame is slower than any client sends.
        monkeypatch.setattr("controlplane.listener.websocket.TURN_EVENTS", 1)
    async with listening(_hang_up) as place:
        client = await place.dial()
        await client.shake_hands()
        await client.send_for_ever(frame(TEXT, b"1") * 10000, 7_000_000)
    one_read = 256 << 10
    assert most > 4 * one_read if is_lifted else most <= 2 * one_read
