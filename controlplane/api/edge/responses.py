"""Responses whose body is made while it is sent. Nothing is read faster than the client's socket takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from controlplane.errors import LinkLost, SandlotError
from controlplane.link.stream import Stream
from controlplane.turns import Turn
from execd.wire.aio import Data

log = structlog.get_logger()

# Data that has arrived is joined up to this size before a write: a write costs more than a copy.
MAX_WRITE_BYTES = 256 * 1024

# In the first message of an answer: a service in a sandbox wrote its headers.
OF_SERVICE = "sandlot.of_service"

NO_PIECES: Iterable[bytes] = ()

T = TypeVar("T")
Headers = Iterable[tuple[bytes, bytes]]


class Sink:
    """The body of a response that is being sent."""

    __slots__ = ("_send", "finished")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.finished = False

    async def write(self, data: bytes) -> None:
        """Send some of the body; waits while the client does not read."""
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def write_pieces(self, first: bytes, pieces: Iterable[bytes]) -> None:
        """Send some of the body piece by piece, each made when the client takes it. Others are served in between."""
        turn, data = Turn(), first
        for piece in pieces:
            data += piece
            if len(data) >= MAX_WRITE_BYTES:
                await self.write(data)
                data = b""
            await turn.spend(len(piece))
        await self.write(data)

    async def finish(self, data: bytes = b"") -> None:
        """Send the end of the body. The client does not wait for what a pump does after that."""
        self.finished = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})


# Writes a body to a sink and finishes it. Cancelled when the client has gone.
Pump = Callable[[Sink], Awaitable[None]]


class StreamResponse:
    """A response whose body comes from a pump. It is an ASGI application, as all of Starlette's responses are.

    Against Starlette's own StreamingResponse it saves a thread-safe task group and an iterator, and it notices that a
    client has gone while there is nothing to send.
    """

    def __init__(self, pump: Pump, *, close: Callable[[], None], status: int = 200, headers: Headers = ()) -> None:
        """Call *close* at the end, even if the pump never ran: it ends the stream that the pump reads."""
        self._pump = pump
        self._close = close
        self._status = status
        self._headers = list(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. An error after its beginning leaves the response incomplete: the server drops the connection."""
        sink = Sink(send)
        try:
            async with asyncio.TaskGroup() as group:
                watcher = group.create_task(_watch(receive, sink))
                try:
                    await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
                    await self._pump(sink)
                finally:
                    watcher.cancel()
        except* _ClientGone:
            log.debug("response.abandoned")
        except* SandlotError as errors:
            log.warning("response.broken", error=[str(error) for error in errors.exceptions])
        finally:
            self._close()


class _ClientGone(Exception):
    """The client closed its connection before the end of the response."""


async def _watch(receive: Receive, sink: Sink) -> None:
    await _left(receive)
    # The server says the same after a whole response.
    if not sink.finished:
        raise _ClientGone


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what *work* returns. Its body must have been read.

    Raises:
        ClientDisconnect: the client went before; the work has been cancelled.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait([working, leaving])


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def copy_data(stream: Stream, sink: Sink, *, size: int | None = None) -> None:
    """Send the data of a stream as the rest of a body: *size* bytes, or all there are.

    Raises:
        LinkLost: the agent sent something else, or not as much as the headers have promised.
    """
    while size is None or size > 0:
        data = await _receive_data(stream)
        if size is not None:
            size -= len(data)
            if size < 0 or not data:
                raise LinkLost("the agent sent a file of another size than it had announced")
        if size == 0:
            await sink.finish(data)  # the last bytes and the end in one write
        elif not data:
            break
        else:
            await sink.write(data)
    if not sink.finished:
        await sink.finish()
    if size is not None:
        await stream.receive()


async def _receive_data(stream: Stream) -> bytes:
    """Return what data is there, waiting for some; b"" at the end."""
    item = await stream.receive()
    pieces: list[bytes] = []
    size = 0
    while item is not None:
        if not isinstance(item, Data):
            raise LinkLost(f"the agent sent {type(item).__name__} among data")
        pieces.append(item.data)
        size += len(item.data)
        item = stream.receive_nowait() if size < MAX_WRITE_BYTES else None
    return b"".join(pieces)
