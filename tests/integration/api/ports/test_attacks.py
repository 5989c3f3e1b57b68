"""Services that say what no server may say, or too much of it: each costs its own request, and nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable

import h11
import httpx
import pytest
import structlog
from starlette.types import Message
from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.utils import accept_key

from controlplane import turns
from controlplane.access.keys import Keys
from controlplane.api.ports import http, websocket
from controlplane.api.ports.forward import Ports
from controlplane.api.ports.sandbox_tokens import SandboxTokens
from controlplane.api.ports.websocket import MessageMemory, _IncomingMessage
from controlplane.link.relay import Relay
from execd.port.serve import Forwarding
from tests.support.server.api_server import API_KEY, SANDBOX_ID, Edge, serving_agent
from tests.support.server.port_services import opened, raw, token
from tests.support.turns import steps_of

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
OK_2 = OK + b"Content-Length: 2\r\n"
UNBOUNDED = 1 << 40


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    """A server with one sandbox, whose ports are those of this machine."""
    async with serving_agent(Forwarding().handlers()) as running:
        yield running


def answering(*pieces: bytes) -> contextlib.AbstractAsyncContextManager[int]:
    """Serve these bytes to every request, each piece by itself."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return raw(serve)


def conversing(said: bytes) -> contextlib.AbstractAsyncContextManager[int]:
    """Accept a WebSocket and say these bytes; leave when the other side says something."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = next(line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 3\r\n"
            b"Sec-WebSocket-Accept: " + accept_key(key.decode()).encode() + b"\r\n\r\n" + said
        )
        await writer.drain()
        await reader.read(1)

    return raw(serve)


def frame(data: bytes, *, opcode: int = 2, fin: bool = True) -> bytes:
    """Return a frame as a server sends it."""
    size = len(data)
    if size < 126:
        length = bytes([size])
    elif size < 1 << 16:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    return bytes([(0x80 if fin else 0) | opcode]) + length + data


IMPOSSIBLE = {
    "a status beyond 599": (b"HTTP/1.1 600 Odd\r\nContent-Length: 2\r\n\r\nok",),
    "the status 999": (b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok",),
    "a switch of protocols": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",),
    "a control character in a header": (OK + b"X: a\x01b\r\nContent-Length: 2\r\n\r\nok",),
    "a name that is none": (OK + b"X Y: a\r\nContent-Length: 2\r\n\r\nok",),
    "two lengths": (OK_2 + b"Content-Length: 3\r\n\r\nok",),
    "a length that is no number": (OK + b"Content-Length: -2\r\n\r\nok",),
    "an unknown coding": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",),
    "too many headers": (OK + b"a:b\r\n" * 1001 + b"\r\n",),
    "too many headers in small pieces": (OK, *[b"a:b\r\n"] * 1001, b"\r\n"),
    "too large a head": (OK + b"a: " + b"b" * (65 << 10) + b"\r\n\r\n",),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n",),
    "informational answers without end": (b"HTTP/1.1 102 Processing\r\n\r\n" * 1001,),
    "nothing": (),
}
BROKEN = {
    "less than its length": (OK + b"Content-Length: 10\r\n\r\nhalf",),
    "a chunk of no size": (CHUNKED + b"1\r\nx\r\nzz\r\n",),
    "an extension of a chunk without end": (CHUNKED + b"1\r\nx\r\n1;" + b"e" * (130 << 10),),
    "trailers without end": (CHUNKED + b"1\r\nx\r\n0\r\n" + b"a:b\r\n" * (30 << 10),),
}
POSSIBLE = {
    "a length of a 304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n", 304, b""),
    "a length of a 204": (b"HTTP/1.1 204 No Content\r\nContent-Length: 100\r\n\r\n", 204, b""),
    "a length beside chunks": (OK_2 + CHUNKED[len(OK) :] + b"2\r\nok\r\n0\r\n\r\n", 200, b"ok"),
    "one length twice": (OK_2 + b"Content-Length: 2\r\n\r\nok", 200, b"ok"),
    "more than its length": (OK_2 + b"\r\nok, and more", 200, b"ok"),
    "hints before the answer": (b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n" * 3 + OK_2 + b"\r\nok", 200, b"ok"),
    "many headers": (OK + b"a:b\r\n" * 990 + b"Content-Length: 2\r\n\r\nok", 200, b"ok"),
    "a body of many lines": (OK + b"Content-Length: 9000\r\n\r\n" + b"a\n\n" * 3000, 200, b"a\n\n" * 3000),
    "bare line feeds": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, b"ok"),
    "a status of its own": (b"HTTP/1.1 599 Odd\r\nContent-Length: 2\r\n\r\nok", 599, b"ok"),
}  # fmt: skip


@contextlib.contextmanager
def only_warnings(caplog: pytest.LogCaptureFixture) -> AsyncIterator[list[structlog.typing.EventDict]]:  # type: ignore[misc]
    """Inside, nothing crashes, and no line of a log holds a key or a token; yields what is logged."""
    with structlog.testing.capture_logs() as logged, caplog.at_level(logging.INFO):
        yield logged
    assert not [entry for entry in logged if entry["log_level"] in ("error", "critical")]
    assert not [record for record in caplog.records if record.exc_info]
    assert API_KEY not in f"{logged}{caplog.text}"


@pytest.mark.attack(
    "network",
    "a service answers with what no server may send: a status beyond 599, control characters, two lengths, "
    "headers or informational answers without end",
    "its caller gets 502, the log has one line without a secret, and nothing crashes",
)
@pytest.mark.parametrize("pieces", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
async def test_an_impossible_answer_is_a_502(
    edge: Edge, pieces: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Without the checks, the server below takes it for a bug of ours."""
    with only_warnings(caplog):
        async with answering(*pieces) as port, opened(edge, port) as client:
            response = await client.get("/", headers={"OPEN-SANDBOX-API-KEY": API_KEY})

    assert (response.status_code, response.json()["code"]) == (502, "BACKEND_RESPONSE_FAILED")


@pytest.mark.attack(
    "network",
    "a service breaks its answer off, or goes on in extensions and trailers without end",
    "that one answer is broken off for its caller too, never passed off as whole",
)
@pytest.mark.parametrize("pieces", BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_answer_is_broken_off(
    edge: Edge, pieces: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with only_warnings(caplog) as logged:
        async with answering(*pieces) as port, opened(edge, port) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/")
            assert [entry["event"] for entry in logged if entry["log_level"] == "warning"] == ["port.broken"]


@pytest.mark.parametrize(("said", "status", "body"), POSSIBLE.values(), ids=POSSIBLE.keys())
@pytest.mark.parametrize("size", [1, 1 << 20], ids=["byte by byte", "at once"])
async def test_an_odd_answer_passes(
    edge: Edge, said: bytes, status: int, body: bytes, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The bounds are for those who attack: what is legal, or what every client copes with, is passed on."""
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    with only_warnings(caplog):
        async with answering(*pieces) as port, opened(edge, port) as client:
            response = await client.get("/")

    assert (response.status_code, response.content) == (status, body)


async def test_what_is_compressed_passes_untouched(edge: Edge) -> None:
    """A server that does not unpack cannot be filled by a bomb."""
    bomb = gzip.compress(bytes(50 << 20))
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    async with (
        answering(head + bomb) as port,
        opened(edge, port) as client,
        client.stream("GET", "/") as response,
    ):
        assert b"".join([piece async for piece in response.aiter_raw()]) == bomb


@pytest.mark.parametrize("what", ["too many headers", "informational answers without end"])
async def test_what_the_bounds_of_a_head_hold_back(edge: Edge, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other bounds, the same passes."""
    monkeypatch.setattr(http, "MAX_HEAD_LINES", UNBOUNDED)
    monkeypatch.setattr(http, "MAX_INFORMATIONAL", UNBOUNDED)
    rest = b"" if what == "too many headers" else OK + b"Content-Length: 0\r\n\r\n"
    async with answering(*IMPOSSIBLE[what], rest) as port, opened(edge, port) as client:
        assert (await client.get("/")).status_code == 200


async def test_what_the_check_of_an_answer_holds_back(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without it, a header with a control character crashes the request."""
    monkeypatch.setattr(http, "_checked", lambda response: response.headers.raw_items())
    with structlog.testing.capture_logs() as logged:
        async with answering(*IMPOSSIBLE["a control character in a header"]) as port, opened(edge, port) as client:
            with contextlib.suppress(httpx.RemoteProtocolError):
                await client.get("/")

    assert "request.crashed" in [entry["event"] for entry in logged]


# -- turns of the event loop ----------------------------------------


class Counted:
    """Counts calls of a method."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.calls = 0
        method = getattr(owner, name)

        def counting(*arguments: object) -> object:
            self.calls += 1
            return method(*arguments)

        monkeypatch.setattr(owner, name, counting)


async def _serve_once(
    edge: Edge, port: int, *, is_websocket: bool = False, until: Callable[[], bool] = lambda: False
) -> int:
    """Serve a client that takes everything at once, and leaves when *until* says so; return how much it was told."""
    told = 0
    left = asyncio.Event()

    async def receive() -> Message:
        nonlocal is_websocket
        if is_websocket:
            is_websocket = False
            return {"type": "websocket.connect"}
        await left.wait()
        return {"type": f"{scope['type']}.disconnect"}

    async def send(message: Message) -> None:
        nonlocal told
        told += 1
        if until():
            left.set()

    path = f"/v1/sandboxes/{SANDBOX_ID}/proxy/{port}/"
    scope = {
        "type": "websocket" if is_websocket else "http",
        "method": "GET",
        "scheme": "ws" if is_websocket else "http",
        "path": path,
        "raw_path": path.encode(),
        "path_params": {"sandbox_id": SANDBOX_ID, "port": str(port)},
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "subprotocols": [],
    }
    ports = Ports(
        Relay(edge.sandboxes.get, edge.directory), SandboxTokens(edge.credentials, edge.sandboxes.ids), Keys({})
    )  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        await ports(scope, receive, send)
    return told


MANY = 20_000
CLOSE = frame(b"\x03\xe8", opcode=8)
CHATTY = {
    "chunks of one byte": CHUNKED + b"1\r\nx\r\n" * MANY + b"0\r\n\r\n",
    "informational answers": b"HTTP/1.1 102 P\r\n\r\n" * 900 + OK + b"Content-Length: 0\r\n\r\n",
}


@pytest.mark.attack(
    "network",
    "a service answers in chunks of one byte, or with one informational answer after the other",
    "everybody else is served after every 64 of them",
)
@pytest.mark.parametrize("said", CHATTY.values(), ids=CHATTY.keys())
@pytest.mark.parametrize("is_bounded", [True, False])
async def test_a_chatty_answer_takes_turns(
    edge: Edge, said: bytes, is_bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the bound, all that has arrived is handled in one turn."""
    if not is_bounded:
        monkeypatch.setattr(http, "CHUNKS_A_TURN", UNBOUNDED)
        monkeypatch.setattr(turns, "TURN_BYTES", UNBOUNDED)
    events = Counted(monkeypatch, h11.Connection, "next_event")
    async with answering(said) as port:
        with steps_of(lambda: events.calls) as steps:
            await _serve_once(edge, port)

    assert events.calls > 900
    assert (steps.largest <= http.CHUNKS_A_TURN + 2) if is_bounded else (steps.largest > 500)


async def test_chunks_that_arrive_together_are_passed_on_together(edge: Edge) -> None:
    """A write costs more than a copy."""
    async with answering(CHATTY["chunks of one byte"]) as port:
        assert await _serve_once(edge, port) < MANY / 10


@pytest.mark.attack(
    "network",
    "a service sends WebSocket messages of one byte, as fast as it can",
    "everybody else is served after every 64 of them",
)
@pytest.mark.parametrize("is_bounded", [True, False])
async def test_small_messages_take_turns(edge: Edge, is_bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the bound, all that was parsed is passed on in one turn."""
    if not is_bounded:
        monkeypatch.setattr(websocket, "MESSAGES_A_TURN", UNBOUNDED)
        monkeypatch.setattr(websocket, "MIN_SLICE_BYTES", 1 << 16)
    sent = Counted(monkeypatch, websocket._IncomingMessage, "take")
    async with conversing(frame(b"x") * MANY + CLOSE) as port:
        with steps_of(lambda: sent.calls) as steps:
            await _serve_once(edge, port, is_websocket=True)

    assert sent.calls == MANY
    assert (steps.largest <= websocket.MESSAGES_A_TURN) if is_bounded else (steps.largest > 1000)


CROWDS = {
    "empty fragments": frame(b"", fin=False) + frame(b"", opcode=0, fin=False) * MANY,
    "fragments of one byte": frame(b"", fin=False) + frame(b"x", opcode=0, fin=False) * MANY,
    "pings": frame(b"", opcode=9) * MANY,
}


@pytest.mark.attack(
    "network",
    "a service sends fragments of a message without its end, or pings, as fast as it can",
    "everybody else is served after every few frames",
)
@pytest.mark.parametrize("said", CROWDS.values(), ids=CROWDS.keys())
@pytest.mark.parametrize("is_bounded", [True, False])
async def test_frames_are_parsed_in_turns(
    edge: Edge, said: bytes, is_bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the bound, all that has arrived is parsed at once."""
    if not is_bounded:
        monkeypatch.setattr(websocket, "MIN_SLICE_BYTES", 1 << 16)
    parsed = Counted(monkeypatch, ClientProtocol, "recv_frame")
    async with conversing(said + CLOSE) as port:
        with steps_of(lambda: parsed.calls) as steps:
            await _serve_once(edge, port, is_websocket=True)

    assert parsed.calls > MANY
    assert (steps.largest <= websocket.MAX_SLICE_BYTES // 2) if is_bounded else (steps.largest > 2_500)


# -- memory ----------------------------------------


@contextlib.asynccontextmanager
async def chatting_with(edge: Edge, port: int, *, receive_buffer: int = 1 << 18) -> AsyncIterator[ClientConnection]:
    """A client of a service's WebSocket."""
    url = f"{edge.proxy}/{port}/".replace("http", "ws")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(0)
        host, _, number = edge.address.partition(":")
        await asyncio.get_running_loop().sock_connect(connection, (host, int(number)))
        async with connect(url, sock=connection, additional_headers=token(edge), proxy=None, max_size=None) as client:
            yield client


async def _closing(client: ClientConnection) -> tuple[int | None, str | None]:
    with pytest.raises(ConnectionClosed):
        await client.recv()
    return client.close_code, client.close_reason


@pytest.mark.attack(
    "network",
    "a service sends a WebSocket message in more than 65,536 fragments, or of more than 64 MiB",
    "that WebSocket is closed with 1009",
)
@pytest.mark.parametrize("is_bounded", [True, False])
async def test_a_message_is_bounded(edge: Edge, is_bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both bounds are lower here, for the sake of time."""
    most = 1000 if is_bounded else 10_000
    monkeypatch.setattr(websocket, "MAX_FRAGMENTS", most)
    monkeypatch.setattr(websocket, "MAX_MESSAGE_BYTES", most)
    crowd = frame(b"", fin=False) + frame(b"", opcode=0, fin=False) * 2000 + frame(b"end", opcode=0)
    for said in (crowd, frame(b"x" * 2000)):
        async with conversing(said + CLOSE) as port, chatting_with(edge, port) as client:
            if is_bounded:
                assert (await _closing(client))[0] == 1009
            else:
                assert await client.recv() in (b"end", b"x" * 2000)


@pytest.mark.attack(
    "network",
    "the service of one sandbox begins large WebSocket messages on many connections, and finishes none",
    "they hold 64 MiB together; a connection for which there is no room is closed with 1013",
)
@pytest.mark.parametrize("is_bounded", [True, False])
async def test_large_messages_share_a_bound(edge: Edge, is_bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small messages pass all the while. The bound is lower here, for the sake of time."""
    size = 1 << 20
    if is_bounded:
        monkeypatch.setattr(websocket, "MAX_MESSAGE_BYTES", size)
    arrived = Held(monkeypatch)
    async with contextlib.AsyncExitStack() as stack:
        for number in (1, 2):
            port = await stack.enter_async_context(conversing(frame(b"x" * size)[: size // 2]))
            await stack.enter_async_context(chatting_with(edge, port))
            await arrived.reaches(number * (size // 2 - 4096))
        port = await stack.enter_async_context(conversing(frame(b"small") + frame(b"y" * size)))
        client = await stack.enter_async_context(chatting_with(edge, port))
        assert await client.recv() == b"small"
        if is_bounded:
            assert await _closing(client) == (1013, websocket.NO_ROOM.reason)
        else:
            assert await client.recv() == b"y" * size
            await arrived.falls_to(size)


async def test_a_message_counts_until_its_client_has_taken_it(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a client that does not read could have any number of them wait here."""
    data = os.urandom(16 << 20)  # more than the sockets on the way can hold, however it is packed
    arrived = Held(monkeypatch)
    async with conversing(frame(data)) as port, chatting_with(edge, port, receive_buffer=1 << 16) as client:
        client.transport.pause_reading()
        await arrived.reaches(len(data))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert arrived.total_bytes >= len(data)
        client.transport.resume_reading()
        assert await client.recv() == data
        await arrived.falls_to(0)


class Held:
    """What the large messages of all services hold together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.total_bytes = 0
        self._changed = asyncio.Condition()
        self._telling: set[asyncio.Future[None]] = set()
        for name in ("hold", "release"):
            monkeypatch.setattr(MessageMemory, name, self._watching(getattr(MessageMemory, name)))

    def _watching(self, method: Callable[..., object]) -> Callable[..., object]:
        def watching(memory: MessageMemory, *arguments: object) -> object:
            result = method(memory, *arguments)
            self.total_bytes = memory.total_bytes
            self._telling.add(asyncio.ensure_future(self._tell()))
            return result

        return watching

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(condition)

    async def reaches(self, size: int) -> None:
        """Return when so much is held."""
        await self._until(lambda: self.total_bytes >= size)

    async def falls_to(self, size: int) -> None:
        """Return when no more is held."""
        await self._until(lambda: self.total_bytes <= size)


def held_by(memory: MessageMemory, sandbox_id: str, size: int) -> _IncomingMessage | None:
    """Return a message that is arriving and holds so much; None when there is no room."""
    message = _IncomingMessage(memory, sandbox_id)
    return None if message.wait(size) else message


@pytest.mark.attack(
    "network",
    "services of many sandboxes hold as many large WebSocket messages as they can",
    "all together hold 128 MiB, and the largest are given up for a sandbox that holds less",
)
def test_whoever_holds_little_finds_room() -> None:
    """Messages that a client is taking cannot be given up; where all are such, there is no room."""
    most = websocket.MAX_MESSAGE_BYTES
    memory = MessageMemory()
    first, second = held_by(memory, "a", most), held_by(memory, "b", most)
    assert first is not None
    assert second is not None
    assert held_by(memory, "a", most // 2) is None

    third = held_by(memory, "c", most // 2)

    assert third is not None
    assert (first.given_up.is_set(), second.given_up.is_set()) in ((True, False), (False, True))
    assert first.held_bytes + second.held_bytes == most
    for number in range(100):
        assert held_by(memory, f"sandbox-{number}", most // 100)
    assert memory.total_bytes <= websocket.MAX_HELD_BYTES
    for message in [*memory._by_sandbox.values()]:
        for each in message:
            each.take()
    assert held_by(memory, "d", websocket.MAX_HELD_BYTES) is None


# -- the handshake ----------------------------------------

REFUSALS = {
    "a status that is not final": b"HTTP/1.1 102 Processing\r\n\r\n",
    "a status beyond 599": b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
    "a control character in a header": b"HTTP/1.1 403 No\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n",
    "a switch without the proof": b"HTTP/1.1 101 Switch\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "headers without end": b"HTTP/1.1 403 No\r\n" + b"a: b\r\n" * 10_000,
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
}  # fmt: skip


@pytest.mark.attack(
    "network",
    "a service answers the handshake of a WebSocket with what no server may send",
    "its caller gets 502, the log has one line without a secret, and nothing crashes",
)
@pytest.mark.parametrize("said", REFUSALS.values(), ids=REFUSALS.keys())
async def test_an_impossible_handshake_is_a_502(edge: Edge, said: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with only_warnings(caplog):
        async with answering(said) as port:
            with pytest.raises(InvalidStatus) as refused:
                async with chatting_with(edge, port):
                    pass

    assert refused.value.response.status_code == 502


@pytest.mark.attack(
    "network",
    "a service sends compressed WebSocket frames, which nobody has asked for",
    "the WebSocket is closed with 1002, and nothing is unpacked",
)
async def test_compressed_frames_are_refused(edge: Edge, caplog: pytest.LogCaptureFixture) -> None:
    with only_warnings(caplog):
        async with conversing(b"\xc2\x01x") as port, chatting_with(edge, port) as client:
            assert (await _closing(client))[0] == 1002
