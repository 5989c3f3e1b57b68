"""A link: one WebSocket to one execd, whoever dialled. The control plane's shell around the multiplexer."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

import msgspec
from websockets.asyncio.connection import Connection as WebSocket
from websockets.exceptions import ConnectionClosed

from controlplane.link.stream import Stream, T, translate
from controlplane.link.websocket import breach_of
from execd.wire.aio import Data, Endpoint
from execd.wire.connection import Connection, Role
from execd.wire.errors import RemoteProtocolError, WireError
from execd.wire.messages import GENERATION, Hello, ProcessOutput, ProcessState, Request

CLOSE_TIMEOUT_S = 2.0

_HELLO = Hello(generation=GENERATION, version=version("sandlot"))


class LinkStatistics(msgspec.Struct, frozen=True):
    """A snapshot of one link."""

    streams: int
    bytes_in: int
    bytes_out: int


class Link:
    """Requests to one execd. Made by `accept.py`; found through `directory.py`."""

    def __init__(self, sandbox_id: str, websocket: WebSocket) -> None:
        self.sandbox_id = sandbox_id
        self._websocket = websocket
        self._endpoint = Endpoint(Connection(Role.CONTROL_PLANE, _HELLO))

    async def run(self) -> None:
        """Carry bytes until the peer is gone; returns quietly then.

        Raises:
            RemoteProtocolError: execd broke the rules. The caller fails that sandbox, and nothing else.
        """
        try:
            await self._endpoint.run(self._websocket)
        except RemoteProtocolError:
            self._websocket.transport.abort()  # a goodbye would give a flood ten seconds more
            raise
        except ConnectionClosed as error:
            if (breach := breach_of(error)) is not None:
                raise breach from error

    async def wait_hello(self) -> Hello:
        """Return execd's hello, the readiness signal. Cancelling is safe.

        Raises:
            LinkLost: the link was lost before.
        """
        try:
            return await self._endpoint.wait_hello()
        except WireError as error:
            raise translate(error) from error

    async def open(self, request: Request) -> Stream:
        """Open a stream with a request.

        Cancelled, it leaves no stream behind.

        Raises:
            LinkLost: the link is gone.
            CapacityExhausted: too many streams are open.
            InvalidRequest: the request is larger than any message may be.
        """
        try:
            return Stream(await self._endpoint.open(request))
        except WireError as error:
            raise translate(error) from error

    async def call(self, request: Request, kind: type[T]) -> T:
        """Open a stream, return its single reply. Errors as in `Stream.receive`."""
        async with await self.open(request) as stream:
            stream.end()  # said now, it travels with the request
            return await stream.expect_only(kind)

    def statistics(self) -> LinkStatistics:
        """What went over this link so far."""
        return LinkStatistics(self._endpoint.stream_count, self._endpoint.bytes_in, self._endpoint.bytes_out)

    async def aclose(self) -> None:
        """Close the link. Streams end with LinkLost; execd will dial again if it lives."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._websocket.close()
        except TimeoutError:  # a peer that does not read does not hear a goodbye
            self._websocket.transport.abort()


async def read_output(link: Link, process_id: str) -> bytes:
    """Return what is kept of a process's output, at most execd's bound for it. Errors as in `Stream.receive`."""
    output = bytearray()
    async with await link.open(ProcessOutput(id=process_id)) as stream:
        stream.end()
        await stream.expect(ProcessState)
        while (piece := await stream.receive()) is not None:
            if isinstance(piece, Data):
                output += piece.data
    return bytes(output)
