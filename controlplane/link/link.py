"""A link: one WebSocket to one execd, around the multiplexer of `execd.wire`."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import NamedTuple

import msgspec
from websockets.asyncio.connection import Connection as WebSocket
from websockets.exceptions import ConnectionClosed

from controlplane.errors import AgentError, Conflict, LinkLost
from controlplane.link.actor import actor
from controlplane.link.stream import RecordedStream, Stream, T, translate
from controlplane.link.websocket import breach_of
from execd.wire.aio import Data, Endpoint
from execd.wire.connection import Connection, Role
from execd.wire.errors import RemoteProtocolError, WireError
from execd.wire.messages import (
    ACTIVITY_SINCE,
    GENERATION,
    RECORDS_SINCE,
    ActivityNote,
    ActivityRead,
    Hello,
    ProcessOutput,
    ProcessState,
    Request,
    RequestBy,
    RunEnd,
    RunFind,
    RunRecord,
    RunResume,
)

CLOSE_TIMEOUT_S = 2.0
# execd keeps half of this of a process's output; a hijacked execd may send without end.
MAX_OUTPUT_BYTES = 4 << 20

_HELLO = Hello(generation=GENERATION, version=version("sandlot"))


class LinkStatistics(msgspec.Struct, frozen=True):
    """The totals of one link at a moment."""

    streams: int
    bytes_in: int
    bytes_out: int
    watches: int = 0  # streams on which the server watches the activity, which is no use of the sandbox


class Link:
    """The link to one execd. `accept.py` creates it; `directory.py` finds it."""

    def __init__(self, sandbox_id: str, websocket: WebSocket) -> None:
        self.sandbox_id = sandbox_id
        self.watches = 0  # see `LinkStatistics`
        self._websocket = websocket
        self._endpoint = Endpoint(Connection(Role.CONTROL_PLANE, _HELLO))

    async def run(self) -> None:
        """Carry bytes until the peer is gone, then return.

        Raises:
            RemoteProtocolError: execd broke the protocol. The caller must fail that sandbox, and nothing else.
        """
        try:
            await self._endpoint.run(self._websocket)
        except RemoteProtocolError:
            self._websocket.transport.abort()  # a closing handshake would give a flood ten seconds more
            raise
        except ConnectionClosed as error:
            if (breach := breach_of(error)) is not None:
                raise breach from error

    async def wait_hello(self) -> Hello:
        """Return execd's hello, the readiness signal. Cancellation is safe.

        Raises:
            LinkLost: the link was lost before.
        """
        try:
            return await self._endpoint.wait_hello()
        except WireError as error:
            raise translate(error) from error

    async def open(self, request: Request) -> Stream:
        """Open a stream with a request. A cancelled call leaves no stream behind.

        Raises:
            LinkLost: the link is gone.
            CapacityExhausted: too many streams are open.
            InvalidRequest: the request is larger than any message may be.
            AgentError, Conflict: the agent is of an earlier release, which does not know this request.
        """
        is_read = isinstance(request, RunRecord | RunResume)
        if is_read or isinstance(request, RunFind | RunEnd):
            self._check_records()
        elif isinstance(request, ActivityRead | ActivityNote):
            self._check_activity()
        if (name := actor()) and self.tells_actors and not isinstance(request, RequestBy):
            request = RequestBy(name, request)
        try:
            stream = await self._endpoint.open(request)
            return RecordedStream(stream) if is_read else Stream(stream)
        except WireError as error:
            raise translate(error) from error

    async def call(self, request: Request, kind: type[T]) -> T:
        """Open a stream, and return its single reply. Raises what `open` and `Stream.receive` raise."""
        async with await self.open(request) as stream:
            stream.end()  # the end travels with the request
            return await stream.expect_only(kind)

    @property
    def tells_actors(self) -> bool:
        """Whether the agent keeps an activity, which names who acts."""
        return self._endpoint.connection.generation >= ACTIVITY_SINCE

    def _check_records(self) -> None:
        if self._endpoint.connection.generation < RECORDS_SINCE:
            text = "the agent of this sandbox is of an earlier release, which records no runs"
            cure = "create a new sandbox, or leave out Sandlot-Keep (keep_s)"
            raise AgentError(f"{text}: {cure}", code="request.unsupported")

    def _check_activity(self) -> None:
        if not self.tells_actors:
            text = "the agent of this sandbox is of an earlier release, which keeps no activity: create a new sandbox"
            raise Conflict(text, code="activity.unsupported")

    def statistics(self) -> LinkStatistics:
        """Return the totals of this link so far."""
        endpoint = self._endpoint
        return LinkStatistics(endpoint.stream_count, endpoint.bytes_in, endpoint.bytes_out, self.watches)

    async def aclose(self) -> None:
        """Close the link. Its streams end with LinkLost; a live execd connects again."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._websocket.close()
        except TimeoutError:  # the peer does not read
            self._websocket.transport.abort()


class KeptOutput(NamedTuple):
    """The kept output of a process as text, and its end: the number of bytes that the process has printed in all."""

    data: bytes
    end: int


async def read_output(link: Link, process_id: str, offset: int = 0) -> KeptOutput:
    """Return the kept output of a process from byte *offset* on, at most MAX_OUTPUT_BYTES of it.

    Raises what `Stream.receive` raises, and LinkLost if execd sends anything else.
    """
    output = bytearray()
    async with await link.open(ProcessOutput(id=process_id, offset=offset, as_text=True)) as stream:
        stream.end()
        state = await stream.expect(ProcessState)
        while len(output) < MAX_OUTPUT_BYTES and (piece := await stream.receive()) is not None:
            if not isinstance(piece, Data):
                raise LinkLost(f"execd answered with {type(piece).__name__} where output was due")
            output += piece.data
    return KeptOutput(bytes(output[:MAX_OUTPUT_BYTES]), state.output_end)
