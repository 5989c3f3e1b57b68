"""The listener before an application of the test's own, and clients that say what no library would."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from controlplane.listener.serve import ListenerSettings, Server, make_server

Application = Callable[[Any, Any, Any], Awaitable[None]]
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
HANDSHAKE = (
    b"GET /socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Place:
    """A server that listens."""

    def __init__(self, port: int, server: Server) -> None:
        self.port = port
        self.server = server
        self._clients: list[Client] = []

    async def dial(self) -> Client:
        """Connect; the connection is closed at the end at the latest."""
        self._clients.append(Client(*await asyncio.open_connection("127.0.0.1", self.port)))
        return self._clients[-1]

    async def hang_up(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.writer.transport.abort()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()
        # What the server would wait for: connections whose clients it does not read from, and their applications.
        for connection in list(self.server.server_state.connections):
            connection.transport.abort()
        for task in list(self.server.server_state.tasks):
            task.cancel()
        for _ in range(100):
            if not self.server.server_state.connections and not self.server.server_state.tasks:
                break
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def listening(app: Application, settings: ListenerSettings | None = None) -> AsyncIterator[Place]:
    """Serve an application."""
    server = make_server(app, settings or ListenerSettings(), grace_s=1)
    listener = socket.create_server(("127.0.0.1", 0))
    await server.startup(sockets=[listener])
    place = Place(listener.getsockname()[1], server)
    try:
        yield place
    finally:
        await place.hang_up()
        await server.shutdown(sockets=[listener])


class Client:
    """A connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> bool:
        """Send; False when the server has hung up."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except OSError:
            return False
        return not self.reader.at_eof()

    async def send_for_ever(self, data: bytes, most: int) -> int:
        """Send the same again and again, until the server hangs up or takes no more; return how many bytes went."""
        sent = 0
        try:
            while sent < most:
                async with asyncio.timeout(1):
                    if not await self.send(data):
                        break
                sent += len(data)
        except TimeoutError:
            pass
        return sent

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Return status, head and body of one answer."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            body = await self.reader.readexactly(int(lines.get(b"content-length", 0)))
        return int(head[9:12]), head, body

    async def end(self) -> bytes:
        """Return what comes until the server hangs up. Raises TimeoutError when it does not within 10 s."""
        data = bytearray()
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(1 << 16):
                    data += piece
        return bytes(data)

    async def shake_hands(self) -> None:
        """Become a WebSocket."""
        await self.send(HANDSHAKE)
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in head, head

    async def frame(self) -> tuple[int, bytes]:
        """Return opcode and payload of the server's next frame."""
        async with asyncio.timeout(10):
            first, size = await self.reader.readexactly(2)
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2), "big")
            elif size == 127:
                size = int.from_bytes(await self.reader.readexactly(8), "big")
            return first & 15, await self.reader.readexactly(size)


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """Return a client's frame; masked, with zeros."""
    size = len(data)
    head = bytes([opcode | (0x80 if fin else 0) | (0x40 if rsv1 else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 1 << 16:
        head += b"\xfe" + struct.pack("!H", size)
    else:
        head += b"\xff" + struct.pack("!Q", size)
    return head + bytes(4) + data


async def answer_ok(send: Any, body: bytes = b"ok") -> None:
    """Send a whole answer."""
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
