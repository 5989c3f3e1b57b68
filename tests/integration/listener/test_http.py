"""The listener against clients that send too much, too slowly, or what no client may send.

Beside each attack stands the same one with the bound lifted, where it succeeds.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from httptools import HttpRequestParser

from controlplane.listener import bounds
from controlplane.listener.http import BoundedHttp
from controlplane.listener.memory import Memory
from controlplane.listener.serve import ListenerSettings
from tests.support.server.listener import answer_ok, listening
from tests.support.turns import most_in_one_turn

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
BEGIN = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the body."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        if not message["more_body"]:
            break
    await answer_ok(send, bytes(body))


def lift(monkeypatch: pytest.MonkeyPatch, *names: str, to: float = 1 << 40) -> None:
    """Set bounds of HTTP to something that nobody reaches, or to something that is reached soon."""
    for name in names:
        monkeypatch.setattr(f"controlplane.listener.http.{name}", to)


# -- what no client may send ----------------------------------------

REFUSED = {
    "length and chunks": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
    "the same length twice": (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "a length with a sign": (POST + b"Content-Length: +3\r\n\r\nabc", 400),
    "a coding that is unknown": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
    "chunks that are not the last coding": (POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
    "a folded header": (BEGIN + b"A: b\r\n c: d\r\n\r\n", 400),
    "a line that ends with LF": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "a header that ends with LF": (BEGIN + b"A: b\nC: d\r\n\r\n", 400),
    "a chunk that ends with LF": (CHUNKED + b"1\na\n0\n\n", 400),
    "a size that is no number": (CHUNKED + b"z\r\na\r\n0\r\n\r\n", 400),
    "a size beyond all bounds": (CHUNKED + b"fffffffffffffffff\r\n", 400),
    "a space before the colon": (BEGIN + b"A : b\r\n\r\n", 400),
    "a NUL in a header": (BEGIN + b"A: b\0c\r\n\r\n", 400),
    "a NUL in the URL": (b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a CR alone": (BEGIN + b"\rA: b\r\n\r\n", 400),
    "two hosts": (BEGIN + b"Host: y\r\n\r\n", 400),
    "a method that is unknown": (b"STEAL / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a URL that is none": (b"GET a/b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", 405),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "HTTP/3.7": (b"GET / HTTP/3.7\r\nHost: x\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400),
    "a WebSocket by POST": (POST + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 405),
    "a WebSocket without a key": (BEGIN + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 400),
    "a WebSocket of an old version": (
        BEGIN + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 8\r\n\r\n",
        400,
    ),
}


@pytest.mark.attack(
    "edge",
    "Smuggle a request past a proxy, or speak another protocol: two lengths, folded and malformed headers, HTTP/2, TLS",
    "A refusal in the API's own form, and the connection is closed",
)
@pytest.mark.parametrize("name", REFUSED)
async def test_what_no_client_may_send_is_refused(name: str) -> None:
    """What two servers could read differently is read by none."""
    request, status = REFUSED[name]
    async with listening(echo) as place:
        client = await place.dial()
        await client.send(request + GET)
        got, head, body = await client.answer()
        rest = await client.end()
    assert (got, rest) == (status, b"")
    assert set(json.loads(body)) == {"code", "message"}
    assert b"\r\nX-Request-ID: " in head
    assert b"\r\nConnection: close\r\n" in head


async def test_a_lenient_parser_would_take_length_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table above can fail."""

    class Lenient(HttpRequestParser):  # type: ignore[misc]
        def set_dangerous_leniencies(self, **leniencies: bool) -> None:
            super().set_dangerous_leniencies(**leniencies, lenient_chunked_length=True)

    monkeypatch.setattr("uvicorn.protocols.http.httptools_impl.httptools.HttpRequestParser", Lenient)
    async with listening(echo) as place:
        client = await place.dial()
        await client.send(REFUSED["length and chunks"][0] + GET)
        assert (await client.answer())[0] == 200


async def test_trailers_are_not_put_among_the_headers() -> None:
    """They come after all checks."""
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await echo(scope, receive, send)
        seen.extend(name for name, _ in scope["headers"])

    async with listening(app) as place:
        client = await place.dial()
        await client.send(CHUNKED + b"2\r\nab\r\n0\r\nOPEN-SANDBOX-API-KEY: stolen\r\n\r\n")
        assert (await client.answer())[2] == b"ab"
    assert seen == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize(
    "body", [b"Content-Length: 3\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
)
async def test_another_protocol_that_is_only_offered_is_not_spoken(body: bytes) -> None:
    """Java's own HTTP client offers h2c with its first request, whatever its method."""
    async with listening(echo) as place:
        client = await place.dial()
        await client.send(
            POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n" + body
        )
        status, head, got = await client.answer()
        assert (status, got, b"connection: close" in head) == (200, b"abc", True)
        assert await client.end() == b""


@pytest.mark.parametrize("size", [1, 3, 17, 1000])
async def test_requests_that_arrive_in_pieces_are_whole(size: int) -> None:
    """Pieces end anywhere, also in the middle of what ends a head."""
    stream = (
        GET + CHUNKED + b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nT: x\r\n\r\n" + POST + b"Content-Length: 4\r\n\r\nbody" + GET
    )
    async with listening(echo) as place:
        client = await place.dial()
        for at in range(0, len(stream), size):
            await client.send(stream[at : at + size])
            await asyncio.sleep(0)
        assert [(await client.answer())[2] for _ in range(4)] == [b"", b"hello!", b"body", b""]


async def test_a_head_of_the_largest_size_is_taken() -> None:
    """And so is a URL."""
    async with listening(echo) as place:
        client = await place.dial()
        await client.send(b"GET /?" + b"a" * (bounds.MAX_URL_BYTES - 2) + b" HTTP/1.1\r\nHost: x\r\n")
        await client.send(b"X: " + b"a" * (bounds.MAX_HEAD_BYTES - 100) + b"\r\n\r\n")
        assert (await client.answer())[0] == 200


# -- too much ----------------------------------------

ENDLESS = {
    "header lines": (BEGIN, b"a:b\r\n" * 1000, 431),
    "one header": (BEGIN + b"A: ", b"a" * 5000, 431),
    "a header's name": (BEGIN, b"a" * 5000, 431),
    "the URL": (b"GET /", b"a" * 5000, 414),
    "the query": (b"GET /?", b"a" * 5000, 414),
    "empty lines": (b"", b"\r\n" * 2500, 431),
    "chunk extensions": (CHUNKED + b"1;", b"a" * 5000, 400),
    "trailers": (CHUNKED + b"0\r\n", b"a:b\r\n" * 1000, 431),
    "a trailer": (CHUNKED + b"0\r\nA: ", b"a" * 5000, 400),
}
LIMITS = ("MAX_HEAD_BYTES", "MAX_URL_BYTES", "MAX_HEADER_LINES")


@pytest.mark.attack(
    "edge",
    "Send a head without end, with no key: header lines, one header, the URL, empty lines, chunk extensions, trailers",
    "431, 414 or 400 after 64 KiB or 256 lines, and the connection is closed",
)
@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("is_lifted", [False, True], ids=["bounded", "bound lifted"])
async def test_a_head_without_end(name: str, is_lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of the server is not the client's."""
    begin, piece, status = ENDLESS[name]
    if is_lifted:
        lift(monkeypatch, *LIMITS)
    async with listening(echo) as place:
        client = await place.dial()
        await client.send(begin)
        for _ in range(60):  # 300 KB
            await client.send(piece)
        if is_lifted:
            assert not client.reader.at_eof()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.reader.read(1), 0.3)
        else:
            assert (await client.answer())[0] == status
            assert await client.end() == b""


@pytest.mark.attack(
    "edge",
    "Send half of a request's head, then a byte from time to time",
    "408 after ten seconds, and the connection is closed",
)
@pytest.mark.parametrize("limit", [0.2, 1000])
async def test_a_head_that_is_slow(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte from time to time gives no more of it."""
    lift(monkeypatch, "HEAD_S", to=limit)
    async with listening(echo) as place:
        client = await place.dial()
        await client.send(BEGIN)
        for _ in range(10):
            await client.send(b"a")
            await asyncio.sleep(0.05)
        if limit < 1:
            assert (await client.answer())[0] == 408
            assert await client.end() == b""
        else:
            await client.send(b": b\r\n\r\n")
            assert (await client.answer())[0] == 200


@pytest.mark.attack(
    "edge",
    "Open a connection and say nothing, before or after a request",
    "The connection is closed after ten seconds, or 75 where it has been used",
)
@pytest.mark.parametrize("said", [b"", GET])
@pytest.mark.parametrize("limit", [0.2, 1000])
async def test_a_connection_that_is_idle(said: bytes, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is closed without a word: nothing was asked."""
    lift(monkeypatch, "IDLE_S" if said else "HEAD_S", to=limit)
    async with listening(echo) as place:
        client = await place.dial()
        if said:
            await client.send(said)
            assert (await client.answer())[0] == 200
        if limit < 1:
            assert await client.end() == b""
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.reader.read(1), 0.5)


@pytest.mark.attack(
    "edge",
    "Send requests without waiting for answers, as many as the server takes",
    "One is served at a time, the others stay with the client",
)
@pytest.mark.parametrize("is_lifted", [False, True], ids=["bounded", "bound lifted"])
async def test_a_pipeline_without_end(is_lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not served is not read, apart from what had been."""
    begun = []
    free = asyncio.Event()
    real = BoundedHttp.on_headers_complete

    def watched(self: BoundedHttp) -> None:
        begun.append(self)
        real(self)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await free.wait()
        await answer_ok(send)

    monkeypatch.setattr(BoundedHttp, "on_headers_complete", watched)
    if is_lifted:
        monkeypatch.setattr(BoundedHttp, "_must_wait", lambda self: False)
    async with listening(app) as place:
        client = await place.dial()
        await client.send(GET * 2000)
        for _ in range(200):
            await asyncio.sleep(0)
        if is_lifted:
            assert len(begun) > 50
        else:
            assert len(begun) == 1
            free.set()
            assert [(await client.answer())[0] for _ in range(2000)] == [200] * 2000
        free.set()


@pytest.mark.attack(
    "edge",
    "Send a body in chunks of one byte, with or without a key",
    "A turn of the event loop handles a bounded number of them, and others are served meanwhile",
)
@pytest.mark.parametrize("is_lifted", [False, True], ids=["bounded", "bound lifted"])
async def test_chunks_of_one_byte(is_lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The body still arrives."""
    if is_lifted:
        lift(monkeypatch, "TURN_EVENTS")
    most = most_in_one_turn(monkeypatch, BoundedHttp, "on_body")
    async with listening(echo) as place:
        client = await place.dial()
        await client.send(CHUNKED + b"1\r\na\r\n" * 10000 + b"0\r\n\r\n")
        assert (await client.answer())[2] == b"a" * 10000
    assert most() > 2 * bounds.TURN_EVENTS if is_lifted else most() <= bounds.TURN_EVENTS


# -- bodies ----------------------------------------


async def keep_all(scope: Any, receive: Any, send: Any) -> None:
    """Read a body whole, as the API does with JSON."""
    size = 0
    hold = scope["extensions"]["sandlot.hold"]
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        hold(size)
        if not message["more_body"]:
            break
    await answer_ok(send, b"%d" % size)


@pytest.mark.parametrize("limit", [1000, 1 << 20])
@pytest.mark.parametrize("framing", [b"Content-Length: 60000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nea60\r\n"])
async def test_a_body_is_parsed_in_pieces(framing: bytes, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it arrives at once, as one chunk or with its length."""
    monkeypatch.setattr("controlplane.listener.pieces.BODY_PIECE_BYTES", limit)
    pieces: list[int] = []
    on_body = BoundedHttp.on_body

    def count(self: BoundedHttp, body: bytes) -> None:
        pieces.append(len(body))
        on_body(self, body)

    monkeypatch.setattr(BoundedHttp, "on_body", count)
    async with listening(echo) as place:
        client = await place.dial()
        end = b"\r\n0\r\n\r\n" if b"chunked" in framing else b""
        await client.send(POST + framing + b"a" * 60_000 + end)
        assert (await client.answer())[2] == b"a" * 60_000
    assert (max(pieces) <= 1000) == (limit == 1000), pieces


@pytest.mark.attack(
    "edge", "Send half of a body, and no more", "408 after thirty seconds, and the connection is closed"
)
@pytest.mark.parametrize("app", [echo, keep_all])
@pytest.mark.parametrize("limit", [0.2, 1000])
async def test_a_body_that_stands_still(app: Any, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is streamed."""
    lift(monkeypatch, "STILL_S", to=limit)
    async with listening(app) as place:
        client = await place.dial()
        await client.send(POST + b"Content-Length: 100\r\n\r\nhalf")
        if limit < 1:
            assert (await client.answer())[0] == 408
            assert await client.end() == b""
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.reader.read(1), 0.5)


@pytest.mark.attack(
    "edge",
    "Send the body of an API call a few bytes at a time",
    "408 when it is slower than 1 KiB/s; an upload, which takes no memory, goes on",
)
@pytest.mark.parametrize(("app", "status"), [(keep_all, 408), (echo, 200)])
async def test_a_body_that_trickles(app: Any, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What streams is bounded by standing still alone: a person's line may be slow."""
    lift(monkeypatch, "STILL_S", to=0.2)
    async with listening(app) as place:
        client = await place.dial()
        await client.send(POST + b"Content-Length: 10\r\n\r\n")
        for _ in range(10):
            await client.send(b"a")
            await asyncio.sleep(0.05)
        assert (await client.answer())[0] == status


@pytest.mark.attack(
    "edge",
    "Send the body of a request that was refused for its key, a few bytes at a time",
    "The connection is closed when it is slower than 1 KiB/s",
)
@pytest.mark.parametrize("limit", [0.2, 1000])
async def test_the_rest_of_a_body_that_nobody_wants(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read, so that the client finds its answer, but not for ever."""
    lift(monkeypatch, "STILL_S", to=limit)

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await answer_ok(send)

    async with listening(refuse) as place:
        client = await place.dial()
        await client.send(POST + b"Content-Length: 100000\r\n\r\n")
        assert (await client.answer())[0] == 200
        for _ in range(10):
            await client.send(b"a")
            await asyncio.sleep(0.05)
        assert (await client.send(b"a") and not client.reader.at_eof()) is (limit > 1)


async def test_a_client_that_waits_for_us_is_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has asked whether it may send, or has sent more than is taken."""
    lift(monkeypatch, "STILL_S", to=0.1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.4)
        await receive()
        await asyncio.sleep(0.4)
        await echo(scope, receive, send)

    async with listening(app) as place:
        client = await place.dial()
        await client.send(POST + b"Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"a" * 1000000)
        assert (await client.answer())[0] == 200


@pytest.mark.attack(
    "edge",
    "Leave large bodies half-sent on many connections",
    "All together may hold 64 MiB; the connection that has held longest gets 503 with Retry-After",
)
@pytest.mark.parametrize("is_lifted", [False, True], ids=["bounded", "bound lifted"])
async def test_bodies_that_are_half_sent(is_lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick client in between gets its answer."""
    limit = 1 << 40 if is_lifted else 1 << 20
    monkeypatch.setattr("controlplane.listener.serve.Memory", lambda: Memory(limit))
    async with listening(keep_all) as place:
        slow = [await place.dial() for _ in range(8)]
        for client in slow:
            await client.send(POST + b"Content-Length: 1000000\r\n\r\n" + b"a" * 300000)
            await asyncio.sleep(0.02)
        quick = await place.dial()
        await quick.send(POST + b"Content-Length: 500000\r\n\r\n" + b"a" * 500000)
        status, _, body = await quick.answer()
        assert (status, body) == (200, b"500000")
        held = place.server.memory.total
        if is_lifted:
            assert held >= 8 * 300000
        else:
            assert held <= limit
            status, head, _ = await slow[0].answer()
            assert (status, b"\r\nRetry-After: 5\r\n" in head) == (503, True)


# -- answers that nobody reads ----------------------------------------


async def endless(scope: Any, receive: Any, send: Any) -> None:
    """Answer for as long as somebody reads."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"a" * 10000, "more_body": True})
        await asyncio.sleep(0)


async def large(scope: Any, receive: Any, send: Any) -> None:
    """Answer more than the kernel takes."""
    await answer_ok(send, b"a" * 10_000_000)


@pytest.mark.attack(
    "edge",
    "Ask for a large answer and read nothing of it",
    "The server keeps no more than it would send at once, and ends the connection after five minutes without progress",
)
@pytest.mark.parametrize("app", [endless, large])
@pytest.mark.parametrize("limit", [0.2, 1000])
async def test_an_answer_that_is_not_read(app: Any, limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads slowly is not ended: the limit is for nothing at all."""
    monkeypatch.setattr("controlplane.listener.flow.UNREAD_S", limit)
    monkeypatch.setattr("controlplane.listener.flow.CLOSING_S", limit)
    async with listening(app) as place:
        client = await place.dial()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(GET)
        for _ in range(100):
            await asyncio.sleep(0.02)
            if not place.server.connections:
                break
        assert len(place.server.connections) == (1 if limit > 1 else 0)


# -- connections ----------------------------------------

FEW = ListenerSettings(max_connections=4)
FEW_OF_ONE = ListenerSettings(max_connections_per_address=4)


@pytest.mark.attack(
    "edge",
    "Open connections without end and say nothing",
    "Beyond the limit the oldest idle one makes room, and a client that asks something is served",
)
@pytest.mark.parametrize("settings", [FEW, FEW_OF_ONE, ListenerSettings()], ids=["in all", "of one address", "lifted"])
async def test_idle_connections_make_room(settings: ListenerSettings) -> None:
    """So the limit locks nobody out."""
    async with listening(echo, settings) as place:
        idle = [await place.dial() for _ in range(20)]
        client = await place.dial()
        await client.send(GET)
        assert (await client.answer())[0] == 200
        is_lifted = settings == ListenerSettings()
        assert len(place.server.connections) == (21 if is_lifted else 4)
        if not is_lifted:
            assert await idle[0].end() == b""


@pytest.mark.attack(
    "edge",
    "Keep more connections busy than the limit allows",
    "A new one gets 503 with Retry-After; those at work, and those of trusted proxies, go on",
)
@pytest.mark.parametrize(
    ("settings", "is_refused"),
    [
        (FEW, True),
        (FEW_OF_ONE, True),
        (ListenerSettings(max_connections_per_address=4, trusted_proxies=("127.0.0.0/8",)), False),
        (ListenerSettings(), False),
    ],
)
async def test_busy_connections_stay(settings: ListenerSettings, is_refused: bool) -> None:
    """They have work to do, and whoever has given it would lose it."""
    free = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await free.wait()
        await answer_ok(send)

    async with listening(app, settings) as place:
        busy = [await place.dial() for _ in range(4)]
        for client in busy:
            await client.send(GET)
        await asyncio.sleep(0.05)
        client = await place.dial()
        await client.send(GET)
        if is_refused:
            status, head, _ = await client.answer()
            assert (status, b"\r\nRetry-After: 1\r\n" in head) == (503, True)
        free.set()
        assert [(await each.answer())[0] for each in busy] == [200] * 4
        if not is_refused:
            assert (await client.answer())[0] == 200


@pytest.mark.attack(
    "edge",
    "Hold every connection with an answer of which nothing is read",
    "At the limit, a connection whose client has taken nothing for ten seconds makes room",
)
@pytest.mark.parametrize("settings", [FEW, FEW_OF_ONE], ids=["in all", "of one address"])
@pytest.mark.parametrize("limit", [0.05, 1000], ids=["bounded", "bound lifted"])
async def test_stalled_connections_make_room(
    settings: ListenerSettings, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nobody is locked out by those who do not read."""
    monkeypatch.setattr("controlplane.listener.flow.STALLED_S", limit)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (endless if scope["path"] == "/endless" else echo)(scope, receive, send)

    async with listening(app, settings) as place:
        for _ in range(4):
            client = await place.dial()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await client.send(GET.replace(b"/", b"/endless", 1))
        await asyncio.sleep(0.5)
        client = await place.dial()
        await client.send(GET)
        assert (await client.answer())[0] == (200 if limit < 1 else 503)


@pytest.mark.attack(
    "edge",
    "Claim another address by X-Forwarded-For, from the server's own machine or elsewhere",
    "The header is believed from trusted proxies alone, and none is trusted by default",
)
@pytest.mark.parametrize(
    ("proxies", "client", "scheme"), [((), "127.0.0.1", "http"), (("127.0.0.1",), "192.0.2.7", "https")]
)
async def test_forwarded_addresses(proxies: tuple[str, ...], client: str, scheme: str) -> None:
    """The access log tells them."""
    scopes = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await answer_ok(send)

    async with listening(app, ListenerSettings(trusted_proxies=proxies)) as place:
        socket = await place.dial()
        await socket.send(BEGIN + b"X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n")
        await socket.send(b"X-Forwarded-Host: a.example\r\nX_Forwarded_For: 192.0.2.7\r\nForwarded: for=a\r\n\r\n")
        await socket.answer()
    assert (scopes[0]["client"][0], scopes[0]["scheme"]) == (client, scheme)
    names = {name.decode().replace("_", "-") for name, _ in scopes[0]["headers"]}
    told = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"}
    assert names & told == (told if proxies else set())


@pytest.mark.attack(
    "edge",
    "Go on sending after a refusal, or keep the connection open",
    "A refused connection is ended after two seconds or 256 KiB, whatever its client does",
)
@pytest.mark.parametrize("name", ["LINGER_S", "LINGER_BYTES"])
@pytest.mark.parametrize("is_lifted", [False, True], ids=["bounded", "bound lifted"])
async def test_input_after_a_refusal(name: str, is_lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """So much time and room is for its reader to find the answer."""
    lift(monkeypatch, "LINGER_S", "LINGER_BYTES")
    if not is_lifted:
        lift(monkeypatch, name, to=0.2 if name == "LINGER_S" else 100_000)
    async with listening(echo) as place:
        client = await place.dial()
        await client.send(b"nonsense\r\n\r\n")
        assert (await client.answer())[0] == 400
        for _ in range(50):
            client.writer.write(b"a" * 10_000)
            await asyncio.sleep(0.01)
        assert len(place.server.connections) == (1 if is_lifted else 0)


@pytest.mark.parametrize("size", [1, 65_536, 100_000, 262_144, 1_000_000])
async def test_a_chunk_of_any_size_is_taken(size: int) -> None:
    """However much of it one read of the socket brings."""
    async with listening(echo) as place:
        client = await place.dial()
        await client.send(CHUNKED + b"%x\r\n" % size + b"a" * size + b"\r\n0\r\n\r\n")
        status, _, body = await client.answer()
        assert (status, body) == (200, b"a" * size)


@pytest.mark.parametrize("body", ["length", "chunks"])
async def test_an_early_answer_on_a_connection_that_ends_is_not_lost(body: str) -> None:
    """A client that sends on meanwhile gets the answer and the end of the connection, and no reset."""

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await answer_ok(send, b"no")

    length = b"Content-Length: 2000000" if body == "length" else b"Transfer-Encoding: chunked"
    piece = b"a" * 100_000 if body == "length" else b"186a0\r\n" + b"a" * 100_000 + b"\r\n"
    async with listening(app) as place:
        client = await place.dial()
        client.writer.write(POST + b"Connection: close\r\n" + length + b"\r\n\r\n")
        assert (await client.answer())[0] == 200
        for _ in range(20):
            await client.send(piece)
            await asyncio.sleep(0)
        if body == "chunks":
            await client.send(b"0\r\n\r\n")
        assert await client.reader.read() == b""
        assert not place.server.connections


@pytest.mark.attack(
    "edge",
    "Ask something from hundreds of connections at once, with no key, over and over",
    "A round of the event loop handles a few of them, those of other addresses first; a new client is served meanwhile",
)
@pytest.mark.parametrize("is_lifted", [False, True], ids=["bounded", "bound lifted"])
async def test_requests_from_many_connections(is_lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes from another address waits for a few requests, not for all that have come before."""
    if is_lifted:
        monkeypatch.setattr("controlplane.listener.rounds.TURNS_A_ROUND", 1 << 40)
    served: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        served.append(scope["client"][0])
        await answer_ok(send)

    async with listening(app) as place:
        attackers = [await place.dial() for _ in range(100)]
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port, local_addr=("127.0.0.2", 0))
        for each in attackers:
            each.writer.write(GET)
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
        before = served.index("127.0.0.2")
        for each in attackers:
            assert (await each.answer())[0] == 200
        writer.close()
        await writer.wait_closed()
    assert len(served) == 101
    assert (before > 50) is is_lifted
