"""Ports of a sandbox: HTTP and WebSocket, forwarded to a service inside over the link, streaming both ways.

A request is a TCP connection of its own inside the sandbox. What a client sends reaches the service as it is, cookies
and Authorization included; only what belongs to us, or to one hop, stays behind.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

import h11
import structlog
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send
from websockets.client import ClientProtocol
from websockets.datastructures import Headers as WebSocketHeaders
from websockets.exceptions import InvalidHandshake
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Response as Handshake
from websockets.protocol import State
from websockets.uri import WebSocketURI

from controlplane.api.addresses import address_of, target_of
from controlplane.api.auth import API_KEY_HEADER, TOKEN_HEADERS, Checks
from controlplane.api.problems import error_answer
from controlplane.api.schema import port_number
from controlplane.errors import SandlotError
from controlplane.link.stream import Stream
from execd.wire.aio import Data
from execd.wire.messages import Done, PortConnect

if TYPE_CHECKING:
    from controlplane.link.relay import Relay

log = structlog.get_logger()

OPERATION = "port.forward"
MAX_HEAD_BYTES = 256 * 1024  # of an answer: cookies and policies grow large
MAX_MESSAGE_BYTES = 64 << 20  # of a WebSocket: ASGI knows whole messages only
GOODBYE_S = 2.0  # a service gets so long to close its WebSocket after the client has

# RFC 9110, section 7.6.1: these speak of one connection, not of the request.
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding "
    b"upgrade".split()
)
_OURS = TOKEN_HEADERS | {API_KEY_HEADER}
_FORWARDED = frozenset((b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-prefix"))

RawHeaders = list[tuple[bytes, bytes]]


class Ports:
    """The ASGI application behind `/sandboxes/{sandbox_id}/proxy/{port}`, for HTTP and WebSocket."""

    def __init__(self, relay: Relay, credentials: Checks) -> None:
        self._relay = relay
        self._credentials = credentials

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        sandbox_id = scope["path_params"]["sandbox_id"]
        stream: Stream | None = None
        has_begun = False

        async def send_on(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            port = port_number(scope["path_params"]["port"])
            # Its own END is the end of the request, so the stream stays open for input.
            stream = await self._relay.open(sandbox_id, PortConnect(port), with_input=True)
            await stream.expect(Done)
            serve = _forward if scope["type"] == "http" else _relay_websocket
            await serve(scope, receive, send_on, stream, self._headers(scope, sandbox_id))
        except SandlotError as error:
            if has_begun:  # leaving an answer incomplete makes the server drop the connection
                log.warning("port.broken", error=error.message)
            else:
                await error_answer(error, OPERATION)(scope, receive, send)
        finally:
            if stream is not None:
                stream.close()

    def _headers(self, scope: Scope, sandbox_id: str) -> RawHeaders:
        """Return the headers of a request as the service is to see them."""
        headers = [
            (name, value)
            for name, value in _end_to_end(scope["headers"])
            if name not in _OURS
            and name not in _FORWARDED
            and name != b"expect"  # the server has answered that
            and not (name == b"authorization" and self._is_ours(sandbox_id, value))
        ]
        came = Headers(raw=scope["headers"])
        client = scope["client"][0] if scope.get("client") else ""
        forwarded = {
            "X-Forwarded-For": ", ".join(filter(None, (came.get("x-forwarded-for"), client))),
            "X-Forwarded-Host": came.get("x-forwarded-host") or came.get("host", ""),
            "X-Forwarded-Proto": came.get("x-forwarded-proto") or scope["scheme"].replace("ws", "http"),
            "X-Forwarded-Prefix": address_of(scope).prefix,
        }
        return headers + [(name.encode(), value.encode("latin-1")) for name, value in forwarded.items() if value]

    def _is_ours(self, sandbox_id: str, authorization: bytes) -> bool:
        secret = authorization[7:].strip().decode("latin-1") if authorization[:7].lower() == b"bearer " else ""
        return self._credentials.is_api_key(secret) or self._credentials.is_sandbox_token(sandbox_id, secret)


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    headers = list(headers)
    named = {
        word.strip().lower() for name, value in headers if name.lower() == b"connection" for word in value.split(b",")
    }
    return [(name, value) for name, value in headers if name.lower() not in HOP_BY_HOP | named]


# -- HTTP ----------------------------------------


async def _forward(scope: Scope, receive: Receive, send: Send, stream: Stream, headers: RawHeaders) -> None:
    """Forward one request and its answer, side by side: a service may answer before it has read all.

    Raises:
        SandlotError: it came to no answer.
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
        raise SandlotError(f"the request cannot be forwarded: {error}", code="request.body") from error
    try:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(_ask(service, receive, stream, head))
            await _answer(scope, send, stream, service)
            asking.cancel()
    except* _ClientGone:
        log.debug("port.abandoned")
    except* SandlotError as errors:
        raise errors.exceptions[0] from None  # there is never more than one: the first ends the other task


class _ClientGone(Exception):
    """The client closed its connection before the end of the answer."""


async def _ask(service: h11.Connection, receive: Receive, stream: Stream, head: bytes) -> None:
    """Send the request; then, and until cancelled, watch whether the client is still there."""
    is_whole = not await _is_taken(stream, head)
    while (message := await receive())["type"] != "http.disconnect":
        if is_whole:
            continue
        pieces = [service.send(h11.Data(data=message["body"])) or b""] if message.get("body") else []
        if not message.get("more_body", False):
            is_whole = True
            pieces.append(service.send(h11.EndOfMessage()) or b"")
        if (data := b"".join(pieces)) and not await _is_taken(stream, data):
            is_whole = True
    raise _ClientGone


async def _is_taken(stream: Stream, data: bytes) -> bool:
    """Send; False when nobody reads on. Why not, and what the service said before that, is for the reader to find."""
    try:
        await stream.write(data)
    except SandlotError:
        return False
    return True


async def _answer(scope: Scope, send: Send, stream: Stream, service: h11.Connection) -> None:
    """Pass the service's answer on. Raises SandlotError when that breaks off, or never begins."""
    async for event in _events(stream, service):
        match event:
            case h11.Response():
                headers = [
                    (name, _redirect(scope, value) if name.lower() == b"location" else value)
                    for name, value in _end_to_end(event.headers.raw_items())
                ]
                await send({"type": "http.response.start", "status": event.status_code, "headers": headers})
            case h11.Data():
                await send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
            case h11.EndOfMessage():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            case _:
                pass  # an informational answer
    raise SandlotError("the service closed the connection without an answer", code="port.response")


async def _events(stream: Stream, service: h11.Connection) -> AsyncIterator[h11.Event]:
    try:
        while True:
            event = service.next_event()
            if event is h11.NEED_DATA:
                item = await stream.receive()
                service.receive_data(item.data if isinstance(item, Data) else b"")
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                return
            else:
                yield event  # type: ignore[misc]
                if isinstance(event, h11.EndOfMessage):
                    return
    except h11.RemoteProtocolError as error:
        raise SandlotError(f"the service does not speak HTTP: {error}", code="port.response") from error


def _redirect(scope: Scope, location: bytes) -> bytes:
    """Keep a redirect to an absolute path below the prefix; the service knows nothing of that."""
    prefix = address_of(scope).prefix.encode("latin-1")
    is_absolute_path = location.startswith(b"/") and not location.startswith(b"//")
    return prefix + location if is_absolute_path and not location.startswith(prefix + b"/") else location


# -- WebSocket ----------------------------------------


async def _relay_websocket(scope: Scope, receive: Receive, send: Send, stream: Stream, headers: RawHeaders) -> None:
    """Join a client's WebSocket with one to the service. The service's answer to the handshake decides.

    Raises:
        SandlotError: it came to no answer.
    """
    await receive()  # websocket.connect
    socket = _ServiceSocket(scope, stream, headers)
    refusal = await socket.shake_hands()
    if refusal is not None:
        await _refuse(send, refusal)
        return
    await send({"type": "websocket.accept", "subprotocol": socket.subprotocol, "headers": socket.extra_headers()})
    try:
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(socket.listen(receive))
            await socket.tell(send)
            listening.cancel()
    except* (_ClientGone, OSError):  # OSError is how ASGI says that nobody is there to be sent anything
        log.debug("port.abandoned")
    except* SandlotError as errors:
        log.warning("port.broken", error=str(errors.exceptions[0]))
        await send({"type": "websocket.close", "code": 1011, "reason": "the sandbox is not reachable any more"})


class _ServiceSocket:
    """The WebSocket to the service, over a stream of the link."""

    def __init__(self, scope: Scope, stream: Stream, headers: RawHeaders) -> None:
        host = Headers(raw=scope["headers"]).get("host", "localhost")
        target = target_of(scope).decode("latin-1")
        path, _, query = target.partition("?")
        self._protocol = ClientProtocol(
            WebSocketURI(secure=False, host="localhost", port=80, path=path, query=query),
            subprotocols=scope["subprotocols"] or None,
            max_size=MAX_MESSAGE_BYTES,
        )
        self._stream = stream
        self._writing = asyncio.Lock()
        self._request = self._protocol.connect()
        del self._request.headers["Host"]
        self._request.headers["Host"] = host
        for name, value in headers:
            if name != b"host" and not name.startswith(b"sec-websocket-"):
                self._request.headers[name.decode("latin-1")] = value.decode("latin-1")
        self._answered = WebSocketHeaders()
        self._early: list[Frame] = []  # that came with the handshake
        self._is_left = False  # by the client
        self._closed = asyncio.Event()  # by both sides

    @property
    def subprotocol(self) -> str | None:
        """What the service chose."""
        return self._protocol.subprotocol

    def extra_headers(self) -> RawHeaders:
        """Headers of the service's answer that are for the client: cookies, above all."""
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self._answered.raw_items()]
        return [
            (name, value)
            for name, value in _end_to_end(raw)
            if not name.lower().startswith(b"sec-websocket-") and name.lower() not in (b"date", b"server")
        ]

    async def shake_hands(self) -> Handshake | None:
        """Return nothing when the service accepts, else its refusal. Raises SandlotError."""
        self._protocol.send_request(self._request)
        await self._flush()
        while not (events := self._protocol.events_received()):
            if self._protocol.handshake_exc is not None:
                raise SandlotError(f"no WebSocket there: {self._protocol.handshake_exc}", code="port.response")
            await self._receive()
        response, *frames = events
        if not isinstance(response, Handshake):
            raise SandlotError("no WebSocket there", code="port.response")
        self._answered = response.headers
        self._early = [frame for frame in frames if isinstance(frame, Frame)]
        if self._protocol.state is State.OPEN:
            return None
        if response.status_code == 101 or not isinstance(self._protocol.handshake_exc, InvalidHandshake):
            raise SandlotError(f"no WebSocket there: {self._protocol.handshake_exc}", code="port.response")
        return response

    async def listen(self, receive: Receive) -> None:
        """Pass on what the client says. When it has closed, the service hears of it, and _ClientGone is raised."""
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self._is_left = True
                if self._protocol.state is State.OPEN:
                    code = message.get("code", 1005)
                    self._protocol.send_close(None if code in (1005, 1006) else code, message.get("reason") or "")
                    await self._flush()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(GOODBYE_S):
                        await self._closed.wait()
                raise _ClientGone
            if self._protocol.state is not State.OPEN:
                continue
            if (text := message.get("text")) is not None:
                self._protocol.send_text(text.encode())
            else:
                self._protocol.send_binary(message["bytes"])
            await self._flush()

    async def tell(self, send: Send) -> None:
        """Pass on what the service says, until it has closed."""
        kind = Opcode.TEXT
        pieces: list[bytes] = []
        while True:
            for frame in self._frames():
                if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    continue
                kind = kind if frame.opcode is Opcode.CONT else frame.opcode
                pieces.append(bytes(frame.data))
                if frame.fin and not self._is_left:
                    await send(_message(kind, b"".join(pieces)))
                if frame.fin:
                    pieces.clear()
            await self._flush()  # pongs, and the echo of a close
            if self._protocol.close_expected() or self._protocol.state is State.CLOSED:
                self._closed.set()
                if self._is_left:
                    return
                await _close(send, self._protocol.close_rcvd or self._protocol.close_sent)
                return
            await self._receive()

    def _frames(self) -> list[Frame]:
        early, self._early = self._early, []
        return early + [event for event in self._protocol.events_received() if isinstance(event, Frame)]

    async def _receive(self) -> None:
        item = await self._stream.receive()
        if isinstance(item, Data):
            self._protocol.receive_data(item.data)
        else:
            self._protocol.receive_eof()

    async def _flush(self) -> None:
        async with self._writing:  # both directions write: pongs here, messages there
            if data := b"".join(self._protocol.data_to_send()):
                await _is_taken(self._stream, data)


def _message(kind: Opcode, data: bytes) -> Message:
    if kind is Opcode.TEXT:
        return {"type": "websocket.send", "text": data.decode(errors="replace")}
    return {"type": "websocket.send", "bytes": data}


async def _close(send: Send, close: Close | None) -> None:
    code = close.code if close is not None and close.code not in (1005, 1006) else 1000 if close else 1011
    reason = close.reason if close is not None else "the service broke the connection"
    await send({"type": "websocket.close", "code": code, "reason": reason})


async def _refuse(send: Send, refusal: Handshake) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in refusal.headers.raw_items()]
    await send(
        {
            "type": "websocket.http.response.start",
            "status": refusal.status_code,
            "headers": [(name, value) for name, value in _end_to_end(headers) if name.lower() != b"content-length"],
        }
    )
    await send({"type": "websocket.http.response.body", "body": bytes(refusal.body or b"")})
