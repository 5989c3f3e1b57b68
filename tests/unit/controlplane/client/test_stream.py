"""The client of the native stream, against servers that break off, flood and refuse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from controlplane.client import stream as module
from controlplane.client.answers import NoAnswer, Refused
from controlplane.client.server import Server
from controlplane.client.stream import SUBPROTOCOL, OperationFailed, connected
from controlplane.errors import LinkLost
from tests.support.server.api_server import API_KEY, serving

Answer = Callable[[ServerConnection, dict[str, Any]], Awaitable[None]]
PATIENCE_S = 60


@contextlib.asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[Server]:
    """Serve a native stream: *answer* is called for each message of the client."""

    async def handle(socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await send(socket, type="hello", sandbox="x", version="1", window=100)
            async for frame in socket:
                assert isinstance(frame, bytes)
                await answer(socket, msgspec.msgpack.decode(frame))

    async with serve(handle, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL]) as server:  # type: ignore[list-item]
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(PATIENCE_S):
            yield Server(f"http://127.0.0.1:{port}", "key")


async def send(socket: ServerConnection, **message: Any) -> None:
    await socket.send(msgspec.msgpack.encode(message))


async def test_input_waits_for_credit() -> None:
    """No more than the window is sent ahead; a failure lets the rest go."""
    taken: list[int] = []

    async def answer(socket: ServerConnection, message: dict[str, Any]) -> None:
        if message["type"] == "data":
            taken.append(len(message["data"]))
            if sum(taken) < 200:
                await send(socket, type="credit", stream=message["stream"], bytes=len(message["data"]))
            else:
                await send(socket, type="failed", stream=message["stream"], code="NO_SPACE", message="it is full")

    async with answering(answer) as server, connected(server, "x") as box:
        writing = await box.open("file.write", path="/x")
        for _ in range(10):
            await writing.send(b"x" * 50)
        with pytest.raises(OperationFailed, match="it is full"):
            await writing.all()
    assert sum(taken) == 200


async def test_a_message_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is too large ends the connection, and all that waits on it."""
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", 10_000)

    async def answer(socket: ServerConnection, message: dict[str, Any]) -> None:
        await send(socket, type="data", stream=message["stream"], data=b"x" * 20_000)

    async with answering(answer) as server, connected(server, "x") as box:
        one, other = await box.open("command", command="x"), await box.open("command", command="y")
        for each in (one, other):
            with pytest.raises(LinkLost, match="the connection to the server broke"):
                await each.all()


async def test_a_connection_that_breaks_off() -> None:
    async def answer(socket: ServerConnection, message: dict[str, Any]) -> None:
        await socket.close(1011, "no more")

    async with answering(answer) as server, connected(server, "x") as box:
        with pytest.raises(LinkLost, match="no more"):
            await box.ask("pty.list")


async def test_messages_that_are_none() -> None:
    async def answer(socket: ServerConnection, message: dict[str, Any]) -> None:
        await socket.send(b"\xc1")

    async with answering(answer) as server, connected(server, "x") as box:
        with pytest.raises(LinkLost):
            await box.ask("pty.list")


async def test_refusals_keep_their_words() -> None:
    """A sandbox that is not there; a server that is none."""
    async with serving() as edge:
        with pytest.raises(Refused, match="answers 404") as refused:
            async with connected(Server(edge.url, API_KEY), "no-such-sandbox"):
                pass
        assert refused.value.code == "DOCKER::SANDBOX_NOT_FOUND"
    with pytest.raises(NoAnswer):
        async with connected(Server(edge.url, API_KEY), "no-such-sandbox"):
            pass


async def test_an_operation_that_is_given_up_holds_no_other_up() -> None:
    """Although it has said more than waits for whoever takes it: the file on this side could not be written."""

    async def answer(socket: ServerConnection, message: dict[str, Any]) -> None:
        if message["type"] == "open":
            for _ in range(2 * module.MAX_WAITING if message["operation"]["op"] == "file.read" else 0):
                await send(socket, type="data", stream=message["stream"], data=b"x")
            await send(socket, type="done", stream=message["stream"])

    async with answering(answer) as server, connected(server, "x") as box:
        reading = await box.open("file.read", path="/x")
        while not reading._inbox.full():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.001)
        await reading.cancel()
        assert [message["type"] for message in await box.ask("pty.list")] == ["done"]
