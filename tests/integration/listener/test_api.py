"""The API behind its listener: what both have to do together against a client that has a sandbox's token."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
import structlog

from controlplane.listener.memory import Memory
from tests.support.server.api_server import SANDBOX_ID, Edge, serving_agent
from tests.support.server.listener import BINARY, CLOSE, PING, TEXT, Client, frame


async def dial(edge: Edge) -> Client:
    """Connect."""
    host, _, port = edge.address.rpartition(":")
    return Client(*await asyncio.open_connection(host, int(port)))


def run_of_code(edge: Edge, size: int) -> bytes:
    """Return the head of a request to run code, with the sandbox's token."""
    lines = [
        f"POST /v1/sandboxes/{SANDBOX_ID}/proxy/44772/code HTTP/1.1",
        "Host: x",
        f"X-EXECD-ACCESS-TOKEN: {edge.token}",
        "X-Request-ID: asked-for",
        f"Content-Length: {size}",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def hang_up(*clients: Client) -> None:
    """Close connections."""
    for client in clients:
        client.writer.transport.abort()
    await asyncio.sleep(0.05)


@pytest.mark.attack(
    "edge",
    "Leave runs of code half-sent on many connections, with a sandbox's token",
    "Their bodies share a budget: the oldest gets 503 with its own request's id, and a quick request is answered",
)
@pytest.mark.parametrize("is_lifted", [False, True], ids=["bounded", "bound lifted"])
async def test_half_sent_runs_of_code(is_lifted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bodies are kept by the API, so it has to tell the listener of them."""
    memory = Memory(1 << 40 if is_lifted else 2 << 20)
    monkeypatch.setattr("controlplane.listener.serve.Memory", lambda: memory)
    async with serving_agent({}) as edge:
        clients = [await dial(edge) for _ in range(8)]
        for client in clients:
            await client.send(run_of_code(edge, 2_000_000) + b" " * 700_000)
            await asyncio.sleep(0.05)
        quick = await dial(edge)
        await quick.send(run_of_code(edge, 600_000) + b" " * 600_000)
        assert (await quick.answer())[0] == 400  # no JSON
        if is_lifted:
            assert memory.total >= 8 * 700_000
        else:
            assert memory.total <= 2 << 20
            status, head, body = await clients[0].answer()
            assert (status, json.loads(body)["code"]) == (503, "TOO_MANY_BODIES")
            assert b"\r\nX-Request-ID: asked-for\r\n" in head
        await hang_up(*clients, quick)


async def test_a_run_of_code_that_trickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended with 408, and its request's id."""
    monkeypatch.setattr("controlplane.listener.http.STILL_S", 0.2)
    async with serving_agent({}) as edge:
        client = await dial(edge)
        await client.send(run_of_code(edge, 2000))
        for _ in range(20):
            await client.send(b" ")
            await asyncio.sleep(0.03)
        status, head, _ = await client.answer()
        assert (status, b"\r\nX-Request-ID: asked-for\r\n" in head) == (408, True)
        await hang_up(client)


async def test_a_body_that_is_announced_too_large_is_refused_at_once() -> None:
    """Nobody has to send it first."""
    async with serving_agent({}) as edge:
        client = await dial(edge)
        await client.send(run_of_code(edge, 100_000_000) + b"{")
        status, _, body = await client.answer()
        assert (status, json.loads(body)["code"]) == (400, "INVALID_REQUEST_BODY")
        await hang_up(client)


RUDE = {
    "gone in the middle of a message": frame(TEXT, b'{"type":"open","stream":1')[:-5],
    "no message of ours": frame(TEXT, b"1") * 100,
    "the wrong kind": frame(BINARY, b"1") * 100,
    "no UTF-8": frame(TEXT, b"\xff"),
    "a flood of pings": frame(PING, b"a" * 100) * 1000,
    "no WebSocket": b"GET / HTTP/1.1\r\n\r\n",
    "closed twice": frame(CLOSE, b"\x03\xe8") * 2,
}


@pytest.mark.attack(
    "secrets",
    "Break off a WebSocket with a sandbox's token in every way, to have the server log what it crashed with",
    "No crash, and no line of any log has the token",
)
@pytest.mark.parametrize("name", RUDE)
async def test_no_log_tells_the_token_of_a_rude_client(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither ours nor uvicorn's, at any level."""
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as lines:
        async with serving_agent({}) as edge:
            client = await dial(edge)
            request = [
                f"GET /v1/sandboxes/{SANDBOX_ID}/stream HTTP/1.1",
                "Host: x",
                f"X-EXECD-ACCESS-TOKEN: {edge.token}",
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Version: 13",
            ]
            await client.send("\r\n".join(request).encode() + b"\r\n\r\n")
            assert b" 101 " in await client.reader.readuntil(b"\r\n\r\n")
            await client.send(RUDE[name])
            await asyncio.sleep(0.1)
            await hang_up(client)
            token = edge.token
    records = [record.getMessage() + str(record.exc_text or record.exc_info or "") for record in caplog.records]
    assert token not in repr(lines) + "".join(records)
    assert [line for line in lines if line["log_level"] in ("error", "critical")] == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert lines
