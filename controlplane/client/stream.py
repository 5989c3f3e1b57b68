"""The native stream of a sandbox, for the commands: one WebSocket, many operations at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NoReturn, Self

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException

from controlplane.client.address import is_local
from controlplane.client.answers import NoAnswer, Refused
from controlplane.client.server import KEY_HEADER, Json, Server, sandbox_path
from controlplane.errors import LinkLost, SandlotError

SUBPROTOCOL = "sandlot.msgpack.v1"
MAX_MESSAGE_BYTES = 64 << 20
MAX_WAITING = 64  # messages of one operation that nobody has taken yet; then the server waits
PIECE_BYTES = 32 << 10  # of input, sent at once
OPEN_TIMEOUT_S = 30.0


class OperationFailed(SandlotError):
    """An operation ended with an error; `code` is one of HTTP's codes."""


class Opened:
    """One operation: what it says, and what it is sent."""

    def __init__(self, connection: Connection, number: int, window: int) -> None:
        self._connection = connection
        self.number = number
        self._room = window
        self._has_room = asyncio.Event()
        self._inbox: asyncio.Queue[Json | None] = asyncio.Queue(MAX_WAITING)
        self.is_over = False

    async def next(self) -> Json:
        """Return the next message; the last one is `done`.

        Raises:
            OperationFailed: the operation failed.
            LinkLost: the connection broke.
        """
        message = await self._inbox.get()
        if message is None:
            self._connection.raise_lost()
        if message["type"] == "failed":
            raise OperationFailed(message["message"], code=message["code"])
        return message

    async def all(self) -> list[Json]:
        """Return all messages. Errors as in `next`."""
        messages = [await self.next()]
        while messages[-1]["type"] != "done":
            messages.append(await self.next())
        return messages

    async def send(self, data: bytes) -> None:
        """Send input, as fast as it is taken. After the end of the operation it is dropped."""
        for begin in range(0, len(data), PIECE_BYTES):
            piece = data[begin : begin + PIECE_BYTES]
            while self._room < len(piece) and not self.is_over:
                self._has_room.clear()
                await self._has_room.wait()
            if self.is_over:
                return
            self._room -= len(piece)
            await self._connection.send(type="data", stream=self.number, data=piece)

    async def end(self) -> None:
        """Say that no input follows."""
        if not self.is_over:
            await self._connection.send(type="end", stream=self.number)

    async def cancel(self) -> None:
        """End the operation; nothing more is heard of it."""
        self._connection.forget(self)
        while not self._inbox.empty():  # the connection may wait for room to put more there
            self._inbox.get_nowait()
        if not self.is_over:
            self.over()
            await self._connection.send(type="cancel", stream=self.number)

    async def take(self, message: Json | None) -> None:
        """Take a message of the server; None for a broken connection. Waits while nobody takes earlier ones."""
        if message is not None and message["type"] == "credit":
            self._room += message["bytes"]
            self._has_room.set()
            return
        if message is None or message["type"] in ("done", "failed"):
            self.over()
        await self._inbox.put(message)

    def over(self) -> None:
        """Note that the operation takes no more input."""
        self.is_over = True
        self._has_room.set()


class Connection:
    """A native stream that is open. `connected` opens one."""

    def __init__(self, socket: ClientConnection, hello: Json) -> None:
        self._socket = socket
        self._window: int = hello["window"]
        self._numbers = 0
        self._opened: dict[int, Opened] = {}
        self._lost = "the connection is closed"
        self._reading = asyncio.ensure_future(self._read())

    async def __aenter__(self) -> Self:
        """Return the connection."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection, which cancels all operations."""
        self._reading.cancel()
        await asyncio.wait([self._reading])
        with contextlib.suppress(WebSocketException, OSError):
            await self._socket.close()

    async def open(self, op: str, **fields: Any) -> Opened:
        """Begin an operation. Raises LinkLost."""
        self._numbers += 1
        opened = self._opened[self._numbers] = Opened(self, self._numbers, self._window)
        await self.send(type="open", stream=opened.number, operation={"op": op, **fields})
        return opened

    async def ask(self, op: str, **fields: Any) -> list[Json]:
        """Carry an operation out; return its messages. Errors as in `Opened.next`."""
        return await (await self.open(op, **fields)).all()

    async def send(self, **message: Any) -> None:
        """Send a message. Raises LinkLost."""
        try:
            await self._socket.send(msgspec.msgpack.encode(message))
        except (WebSocketException, OSError) as error:
            raise LinkLost(f"the connection to the server broke: {_reason(error)}") from None

    def forget(self, opened: Opened) -> None:
        """Drop an operation that was cancelled."""
        self._opened.pop(opened.number, None)

    def raise_lost(self) -> NoReturn:
        """Raise LinkLost with the reason."""
        raise LinkLost(f"the connection to the server broke: {self._lost}")

    async def _read(self) -> None:
        try:
            while True:
                frame = await self._socket.recv()
                message = msgspec.msgpack.decode(frame if isinstance(frame, bytes) else frame.encode())
                opened = self._opened.get(message["stream"])
                if opened is None:
                    continue
                if message["type"] in ("done", "failed"):
                    del self._opened[opened.number]
                await opened.take(message)
        except (WebSocketException, OSError, msgspec.MsgspecError, KeyError, TypeError) as error:
            self._lost = _reason(error)
        for opened in list(self._opened.values()):
            await opened.take(None)


@contextlib.asynccontextmanager
async def connected(server: Server, sandbox_id: str) -> AsyncIterator[Connection]:
    """Open the native stream of a sandbox for the block. Raises NoAnswer, Refused, LinkLost."""
    address = f"{server.address.replace('http', 'ws', 1)}{sandbox_path(sandbox_id, '/stream')}"
    try:
        socket = await connect(
            address,
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
            additional_headers={KEY_HEADER: server.key},
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            open_timeout=OPEN_TIMEOUT_S,
            proxy=None if is_local(server.address) else True,
        )
        hello = msgspec.msgpack.decode(await socket.recv())  # type: ignore[arg-type]
    except InvalidStatus as error:
        raise _refusal(server, error) from None
    except (InvalidHandshake, WebSocketException, OSError, TimeoutError, msgspec.MsgspecError) as error:
        raise NoAnswer(f"{server.address} does not answer as a Sandlot server does: {_reason(error)}") from None
    async with Connection(socket, hello) as connection:
        yield connection


def _refusal(server: Server, error: InvalidStatus) -> Refused:
    response = error.response
    try:
        problem = msgspec.json.decode(response.body or b"")
        return Refused(server.address, response.status_code, str(problem["code"]), str(problem["message"]))
    except (msgspec.MsgspecError, KeyError, TypeError):
        return Refused(server.address, response.status_code, "", response.reason_phrase)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
