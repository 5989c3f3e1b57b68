"""A client of the native stream, as a program would write one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect

from tests.support.server.live_server import LiveServer

PATIENCE_S = 60.0
JSON, MSGPACK = "sandlot.json.v1", "sandlot.msgpack.v1"


class StreamClient:
    """Sends operations, and sorts what comes by stream."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.is_text = socket.subprotocol != MSGPACK
        self._numbers = 0
        self._inboxes: dict[int, asyncio.Queue[dict[str, Any]]] = {}

    async def hello(self) -> dict[str, Any]:
        """The first message."""
        return self._decode(await self.socket.recv())

    async def send(self, **message: Any) -> None:
        """Send one message as it is."""
        encoded = msgspec.json.encode(message) if self.is_text else msgspec.msgpack.encode(message)
        await self.socket.send(encoded.decode() if self.is_text else encoded)

    async def open(self, op: str, *, window: int | None = None, **fields: Any) -> int:
        """Open a stream; return its number."""
        self._numbers += 1
        extra = {} if window is None else {"window": window}
        await self.send(type="open", stream=self._numbers, operation={"op": op, **fields}, **extra)
        return self._numbers

    async def next(self, stream: int) -> dict[str, Any]:
        """The next message of a stream."""
        inbox = self._inboxes.setdefault(stream, asyncio.Queue())
        while inbox.empty():
            async with asyncio.timeout(PATIENCE_S):
                message = self._decode(await self.socket.recv())
            self._inboxes.setdefault(message["stream"], asyncio.Queue()).put_nowait(message)
        return inbox.get_nowait()

    async def rest(self, stream: int) -> list[dict[str, Any]]:
        """All messages of a stream, up to its end."""
        messages = [await self.next(stream)]
        while messages[-1]["type"] not in ("done", "failed"):
            messages.append(await self.next(stream))
        return messages

    async def ask(self, op: str, **fields: Any) -> list[dict[str, Any]]:
        """Open a stream, return all its messages."""
        return await self.rest(await self.open(op, **fields))

    def _decode(self, frame: str | bytes) -> dict[str, Any]:
        assert isinstance(frame, str) == self.is_text
        decoded: dict[str, Any] = (
            msgspec.json.decode(frame) if isinstance(frame, str) else msgspec.msgpack.decode(frame)
        )
        return decoded


def output(messages: list[dict[str, Any]], channel: str = "stdout") -> Any:
    """What was written to a channel."""
    pieces = [
        message for message in messages if message["type"] == "data" and message.get("channel", "stdout") == channel
    ]
    if any("data" in piece for piece in pieces):
        return b"".join(piece["data"] for piece in pieces)
    return "".join(piece.get("text", "") for piece in pieces)


@contextlib.asynccontextmanager
async def streaming(
    url: str, *, subprotocol: str | None = JSON, headers: dict[str, str] | None = None
) -> AsyncIterator[StreamClient]:
    """Connect to the stream at that URL (ws://…/stream)."""
    async with connect(
        url,
        subprotocols=[subprotocol] if subprotocol else None,  # type: ignore[list-item]
        additional_headers=headers,
        proxy=None,
        compression=None,
        max_size=None,
    ) as socket:
        yield StreamClient(socket)


@contextlib.asynccontextmanager
async def connected(server: LiveServer, sandbox: str) -> AsyncIterator[StreamClient]:
    """Connect to the stream of a sandbox of a server."""
    url = f"{server.address.replace('http', 'ws')}/v1/sandboxes/{sandbox}/stream"
    async with streaming(url, headers={"OPEN-SANDBOX-API-KEY": server.key}) as client:
        assert (await client.hello())["sandbox"] == sandbox
        yield client


def of_type(messages: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Those of one kind."""
    return [message for message in messages if message["type"] == kind]
