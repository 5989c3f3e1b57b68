"""HTTP to a service in a sandbox: one request and its answer, over a stream of the link.

Nobody has reviewed the code of the service. Its answers are bounded here, and an answer that no server may give becomes
an error of this one request: the server below would take the answer for a bug of ours.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import h11
import structlog
from starlette.types import Receive, Scope, Send

from controlplane.api.edge.addresses import target_of
from controlplane.api.edge.responses import OF_SERVICE
from controlplane.api.ports.headers import PortView, RawHeaders, end_to_end
from controlplane.errors import SandlotError, ServiceError
from controlplane.link.stream import Stream
from controlplane.turns import Turn
from execd.wire.aio import Data

log = structlog.get_logger()

MAX_HEAD_BYTES = 64 << 10  # of an answer, and of its trailers: most clients take less
MAX_HEAD_LINES = 1000  # a head is parsed in one turn of the event loop: 1000 lines take some 5 ms
MAX_INFORMATIONAL = 1000  # answers before the answer, such as one 102 every ten seconds
# One chunk costs as much as a kilobyte, however small it is.
CHUNKS_A_TURN = 64
# Chunks that have arrived together are passed on as one, up to this size.
MAX_JOINED_BYTES = 64 << 10

_END_OF_HEAD = re.compile(rb"\n\r?\n")
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110, section 5.5, allows none in a value
_NO_BODY = frozenset((204, 304))
_LAST_STATUS = 599


class ClientGone(Exception):
    """The client closed its connection before the end of the answer."""


async def forward(scope: Scope, receive: Receive, send: Send, stream: Stream, headers: RawHeaders) -> None:
    """Forward one request and its answer, side by side: a service may answer before it has read all.

    Raises:
        SandlotError: it came to no answer, or to one that breaks off.
    """
    service = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    if any(name == b"transfer-encoding" for name, _ in scope["headers"]):
        headers = [(name, value) for name, value in headers if name != b"content-length"]
        headers.append((b"Transfer-Encoding", b"chunked"))
    headers.append((b"Connection", b"close"))
    try:
        request = h11.Request(method=scope["method"], target=target_of(scope), headers=headers)
        head = service.send(request) or b""
    except h11.LocalProtocolError as error:
        raise ServiceError(f"the request cannot be forwarded: {reason_of(error)}", code="request.body") from None
    try:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(_ask(service, receive, stream, head))
            await _answer(scope, send, _Answer(stream, service))
            asking.cancel()
    except* ClientGone:
        log.debug("port.abandoned")
    except* SandlotError as errors:
        raise errors.exceptions[0] from None  # there is never more than one: the first ends the other task


def reason_of(error: Exception) -> str:
    """Return what a library found wrong, without what it quotes: that may be anything, in any length."""
    return str(error).partition(":")[0][:100]


async def is_taken(stream: Stream, data: bytes) -> bool:
    """Send data, and return whether the service still reads. The reader of the stream learns why it does not."""
    try:
        await stream.write(data)
    except SandlotError:
        return False
    return True


async def _ask(service: h11.Connection, receive: Receive, stream: Stream, head: bytes) -> None:
    """Send the request; then, and until cancelled, watch whether the client is still there."""
    is_whole = not await is_taken(stream, head)
    turn = Turn()
    while (message := await receive())["type"] != "http.disconnect":
        await turn.spend(len(message.get("body", b"")))
        if is_whole:
            continue
        pieces = [service.send(h11.Data(data=message["body"])) or b""] if message.get("body") else []
        if not message.get("more_body", False):
            is_whole = True
            pieces.append(service.send(h11.EndOfMessage()) or b"")
        if (data := b"".join(pieces)) and not await is_taken(stream, data):
            is_whole = True
    raise ClientGone


async def _answer(scope: Scope, send: Send, answer: _Answer) -> None:
    """Pass the service's answer on. Raises ServiceError when that breaks off, or never begins."""
    informational = 0
    pieces: list[bytes] = []
    size = 0
    async for event in answer.events():
        match event:
            case h11.InformationalResponse():
                informational += 1
                if informational > MAX_INFORMATIONAL:
                    raise _broken(f"it sends more than {MAX_INFORMATIONAL} informational answers")
            case h11.Response():
                headers = PortView(scope).headers(_checked(event))
                begin = {"type": "http.response.start", "status": event.status_code, "headers": headers}
                await send({**begin, OF_SERVICE: True})
            case h11.Data():
                pieces.append(event.data)
                size += len(event.data)
            case h11.EndOfMessage():
                await send({"type": "http.response.body", "body": b"".join(pieces), "more_body": False})
                return
        if size >= MAX_JOINED_BYTES or (size and event is h11.NEED_DATA):
            await send({"type": "http.response.body", "body": b"".join(pieces), "more_body": True})
            pieces.clear()
            size = 0
    raise _broken("it closed the connection without an answer")


def _checked(response: h11.Response) -> RawHeaders:
    """Return the headers of an answer that may be passed on. Raises ServiceError for what no server may send."""
    if response.status_code > _LAST_STATUS:
        raise _broken(f"there is no status {response.status_code}")
    raw = response.headers.raw_items()
    for name, value in raw:
        if _CONTROLS.search(value):
            raise _broken(f"its header {name.decode('latin-1')[:64]} has a control character")
    is_chunked = any(name.lower() == b"transfer-encoding" for name, _ in raw)
    if is_chunked or response.status_code in _NO_BODY:
        # Beside chunks a length means nothing (RFC 9112, section 6.3), and the server below waits for the body.
        raw = [(name, value) for name, value in raw if name.lower() != b"content-length"]
    return end_to_end(raw)


def _broken(why: str) -> ServiceError:
    return ServiceError(f"the service does not speak HTTP: {why}")


class _Answer:
    """The bytes of a service as events of h11."""

    def __init__(self, stream: Stream, service: h11.Connection) -> None:
        self._stream = stream
        self._service = service
        self._heads = _Heads()
        self._rest = b""  # arrived, and not given to h11 yet

    async def events(self) -> AsyncIterator[object]:
        """Yield the events up to the end of the answer, with NEED_DATA before each wait. Raises ServiceError."""
        turn = Turn(most_items=CHUNKS_A_TURN)
        try:
            while True:
                event = self._service.next_event()
                if isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                    return
                yield event
                if isinstance(event, h11.EndOfMessage):
                    return
                if event is h11.NEED_DATA:
                    await turn.spend(await self._receive())
                else:
                    await turn.spend(0)
        except h11.RemoteProtocolError as error:
            raise _broken(reason_of(error)) from None

    async def _receive(self) -> int:
        """Give h11 the next bytes, or the end; return how many."""
        if not self._rest:
            item = await self._stream.receive()
            if not isinstance(item, Data):
                self._service.receive_data(b"")
                return 0
            self._rest = item.data
        size = len(self._rest)
        if self._service.their_state is h11.SEND_RESPONSE:
            size = self._heads.cut(self._rest)
        data, self._rest = self._rest[:size], self._rest[size:]
        self._service.receive_data(data)
        return size


class _Heads:
    """Cuts what a service says into heads, so that none is parsed that is too large."""

    def __init__(self) -> None:
        self._tail = b""  # the last bytes before, which may belong to the end of a head
        self._lines = self._bytes = 0

    def cut(self, data: bytes) -> int:
        """Return how many of these bytes belong to the head that is arriving. Raises ServiceError: it is too large."""
        joined = self._tail + data
        match = _END_OF_HEAD.search(joined)
        end = match.end() if match else len(joined)
        size = end - len(self._tail)
        self._lines += joined.count(b"\n", len(self._tail), end)
        self._bytes += size
        if self._lines > MAX_HEAD_LINES or self._bytes > MAX_HEAD_BYTES:
            raise _broken(f"its answer has more than {MAX_HEAD_LINES} headers, or {MAX_HEAD_BYTES} bytes of them")
        self._tail = joined[-2:]
        if match is not None:
            self._tail, self._lines, self._bytes = b"", 0, 0
        return size
