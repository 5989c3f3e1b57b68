"""A client's WebSocket joined with one to a service in a sandbox, over a stream of the link.

The service is code that nobody has reviewed: what it may send in fragments, in pings and in large messages is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send
from websockets.client import ClientProtocol
from websockets.datastructures import Headers as WebSocketHeaders
from websockets.exceptions import InvalidHandshake
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.http11 import Response as Handshake
from websockets.protocol import State
from websockets.uri import WebSocketURI

from controlplane.api.edge.addresses import target_of
from controlplane.api.edge.responses import OF_SERVICE
from controlplane.api.ports.headers import PortView, RawHeaders, end_to_end
from controlplane.api.ports.http import ClientGone, is_taken, reason_of
from controlplane.errors import SandlotError, ServiceError
from controlplane.link.stream import Stream
from controlplane.turns import Turn
from execd.wire.aio import Data

log = structlog.get_logger()

MAX_MESSAGE_BYTES = 64 << 20  # of a service: ASGI knows whole messages only
MAX_FRAGMENTS = 1 << 16  # of a message; a fragment costs memory even if it is empty
# What large messages of all services hold until their clients have taken them. One sandbox holds the largest at most.
MAX_HELD_BYTES = 2 * MAX_MESSAGE_BYTES
SMALL_MESSAGE_BYTES = 64 << 10  # not counted; what a stream's credit allows is more
# A message costs as much as a kilobyte, however small it is.
MESSAGES_A_TURN = 64
# Frames are parsed in one go, and 512 bytes may be 256 of them. In the middle of a large frame more is given.
MIN_SLICE_BYTES, MAX_SLICE_BYTES = 512, 4096
GOODBYE_S = 2.0  # a service gets so long to close its WebSocket after the client has
NO_ROOM = Close(CloseCode.TRY_AGAIN_LATER, "the server has no room for so many large messages at once")
_FIRST_FINAL_STATUS = 200
_SWITCHING = 101
_NOT_OF_AN_UPGRADE = frozenset((b"date", b"server", b"content-length"))


class MessageMemory:
    """The memory of the large messages of all services, until their clients have taken the messages.

    If there is no room for more, the sandbox that holds most gives up its largest message that is still arriving. So a
    service that holds little finds room, however many services fill the rest.
    """

    def __init__(self) -> None:
        self.total_bytes = 0
        self._by_sandbox: dict[str, set[_IncomingMessage]] = {}

    def hold(self, message: _IncomingMessage, size: int) -> bool:
        """Count *size* bytes more for a message; False, and nothing is counted, when its sandbox holds too much."""
        held = self._held_by(message.sandbox_id) + size
        if held > MAX_MESSAGE_BYTES:
            return False
        while self.total_bytes + size > MAX_HELD_BYTES:
            largest = max(self._by_sandbox, key=self._held_by)
            arriving = [each for each in self._by_sandbox[largest] if each.is_arriving]
            if self._held_by(largest) <= held or not arriving:
                return False
            max(arriving, key=lambda each: each.held_bytes).give_up()
        self._by_sandbox.setdefault(message.sandbox_id, set()).add(message)
        message.held_bytes += size
        self.total_bytes += size
        return True

    def release(self, message: _IncomingMessage) -> None:
        """Give back all that is counted for a message."""
        if message.held_bytes:
            self.total_bytes -= message.held_bytes
            message.held_bytes = 0
            messages = self._by_sandbox[message.sandbox_id]
            messages.discard(message)
            if not messages:
                del self._by_sandbox[message.sandbox_id]

    def _held_by(self, sandbox_id: str) -> int:
        return sum(message.held_bytes for message in self._by_sandbox.get(sandbox_id, ()))


async def relay_websocket(
    scope: Scope, receive: Receive, send: Send, stream: Stream, headers: RawHeaders, memory: MessageMemory
) -> None:
    """Join a client's WebSocket with one to the service. The service's answer to the handshake decides.

    Raises:
        SandlotError: it came to no answer.
    """
    await receive()  # websocket.connect
    socket = _ServiceSocket(scope, stream, headers, memory)
    refusal = await socket.shake_hands()
    if refusal is not None:
        await _refuse(send, refusal, PortView(scope))
        return
    await send({"type": "websocket.accept", "subprotocol": socket.subprotocol, "headers": socket.extra_headers()})
    try:
        async with asyncio.TaskGroup() as group:
            beside = [group.create_task(socket.listen(receive)), group.create_task(socket.wait_given_up())]
            await socket.tell(send)
            for task in beside:
                task.cancel()
    except* (ClientGone, OSError):  # ASGI raises OSError if the client has gone
        log.debug("port.abandoned")
    except* _NoRoom:
        log.warning("port.broken", error=NO_ROOM.reason)
        await _close(send, NO_ROOM)
    except* SandlotError as errors:
        log.warning("port.broken", error=str(errors.exceptions[0]))
        await send({"type": "websocket.close", "code": 1011, "reason": "the sandbox is not reachable any more"})
    finally:
        socket.close()


class _NoRoom(Exception):
    """A message was given up."""


class _ServiceSocket:
    """The WebSocket to the service, over a stream of the link."""

    def __init__(self, scope: Scope, stream: Stream, headers: RawHeaders, memory: MessageMemory) -> None:
        host = Headers(raw=scope["headers"]).get("host", "localhost")
        target = target_of(scope).decode("latin-1")
        path, _, query = target.partition("?")
        self._protocol = ClientProtocol(
            WebSocketURI(secure=False, host="localhost", port=80, path=path, query=query),
            subprotocols=scope["subprotocols"] or None,
            max_size=MAX_MESSAGE_BYTES,
        )
        self._view = PortView(scope)
        self._stream = stream
        self._writing = asyncio.Lock()
        self._request = self._protocol.connect()
        del self._request.headers["Host"]
        self._request.headers["Host"] = host
        for name, value in headers:
            if name != b"host" and not name.startswith(b"sec-websocket-"):
                self._request.headers[name.decode("latin-1")] = value.decode("latin-1")
        self._answered = WebSocketHeaders()
        self._frames: list[Frame] = []  # that have arrived
        self._rest = memoryview(b"")  # has arrived, and is not parsed yet
        self._slice_bytes = MIN_SLICE_BYTES
        self._message = _IncomingMessage(memory, scope["path_params"]["sandbox_id"])
        self._is_open = False
        self._is_left = False  # by the client
        self._closed = asyncio.Event()  # by both sides

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the service chose."""
        return self._protocol.subprotocol

    def close(self) -> None:
        """Free the memory of a message that has not been passed on."""
        self._message.drop()

    async def wait_given_up(self) -> None:
        """Raise _NoRoom when the message that is arriving has to make room for others."""
        await self._message.given_up.wait()
        raise _NoRoom

    def extra_headers(self) -> RawHeaders:
        """Return the headers of the service's answer that the client needs, mainly cookies."""
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self._answered.raw_items()]
        return [
            (name, value)
            for name, value in self._view.headers(end_to_end(raw))
            if not name.lower().startswith(b"sec-websocket-") and name.lower() not in _NOT_OF_AN_UPGRADE
        ]

    async def shake_hands(self) -> Handshake | None:
        """Return nothing when the service accepts, else its refusal. Raises SandlotError."""
        self._protocol.send_request(self._request)
        await self._flush()
        turn = Turn()
        while not (events := self._protocol.events_received()):
            if self._protocol.handshake_exc is not None:
                raise _no_websocket(reason_of(self._protocol.handshake_exc))
            await turn.spend(await self._receive())
        response, *frames = events
        if not isinstance(response, Handshake):
            raise _no_websocket("its answer is none")
        self._answered = response.headers
        self._frames = [frame for frame in frames if isinstance(frame, Frame)]
        error = self._protocol.handshake_exc
        if response.status_code == _SWITCHING and error is None:  # whatever frames have come with it
            self._is_open = True
            return None
        if response.status_code == _SWITCHING or not isinstance(error, InvalidHandshake):
            raise _no_websocket(reason_of(error) if error is not None else "it closed the connection")
        if response.status_code < _FIRST_FINAL_STATUS:
            raise _no_websocket(f"its answer is {response.status_code}")
        return response

    async def listen(self, receive: Receive) -> None:
        """Pass on what the client says. When it has closed, the service hears of it, and ClientGone is raised."""
        turn = Turn(most_items=MESSAGES_A_TURN)
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
                raise ClientGone
            data = message["bytes"] if (text := message.get("text")) is None else text.encode()
            await turn.spend(len(data))
            if self._protocol.state is not State.OPEN:
                continue
            if text is not None:
                self._protocol.send_text(data)
            else:
                self._protocol.send_binary(data)
            await self._flush()

    async def tell(self, send: Send) -> None:
        """Pass on what the service says, until it has closed."""
        turn = Turn(most_items=MESSAGES_A_TURN)
        while True:
            frames, self._frames = self._frames, []
            for frame in frames:
                await turn.spend(len(frame.data))
                if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) and not await self._pass_on(frame, send):
                    break
            await self._flush()  # pongs, and the echo of a close
            if self._protocol.close_expected() or self._protocol.state is State.CLOSED:
                self._closed.set()
                if not self._is_left:
                    await self._say_goodbye(send)
                return
            await self._receive()

    async def _pass_on(self, frame: Frame, send: Send) -> bool:
        """Take a frame of a message; send the message if it is whole. False when it is too much."""
        if self._fail_if(self._message.add(frame)):
            return False
        if frame.fin:
            message = self._message.take()
            if not self._is_left:
                await send(message)
                if self._message.held_bytes:
                    # Until the client has taken it, a large message counts: this waits for that, and says nothing.
                    del message
                    await send({"type": "websocket.send"})
            self._message.drop()
        return True

    async def _say_goodbye(self, send: Send) -> None:
        if self._protocol.close_sent is not None and self._protocol.close_rcvd is None:
            log.warning("port.broken", error=f"the service's WebSocket was closed: {self._protocol.close_sent.reason}")
        await _close(send, self._protocol.close_rcvd or self._protocol.close_sent)

    async def _receive(self) -> int:
        """Parse some of what has arrived, waiting for it; return how many bytes."""
        if not self._rest:
            item = await self._stream.receive()
            if not isinstance(item, Data):
                self._protocol.receive_eof()
                return 0
            self._rest = memoryview(item.data)
        size = 0
        while self._rest and not self._frames:
            piece, self._rest = self._rest[: self._slice_bytes], self._rest[self._slice_bytes :]
            self._protocol.receive_data(bytes(piece))
            size += len(piece)
            if not self._is_open:
                break  # what has come of it is the answer to the handshake
            self._frames = [event for event in self._protocol.events_received() if isinstance(event, Frame)]
            if self._frames:
                self._slice_bytes = MIN_SLICE_BYTES
            else:
                self._slice_bytes = min(2 * self._slice_bytes, MAX_SLICE_BYTES)
                self._fail_if(self._message.wait(len(piece)))
        return size

    def _fail_if(self, why: Close | None) -> bool:
        if why is not None:
            self._protocol.fail(why.code, why.reason)
        return why is not None

    async def _flush(self) -> None:
        async with self._writing:  # both directions write: pongs here, messages there
            if data := b"".join(self._protocol.data_to_send()):
                await is_taken(self._stream, data)


class _IncomingMessage:
    """The message of a service that is arriving, in fragments, or that its client is taking."""

    def __init__(self, memory: MessageMemory, sandbox_id: str) -> None:
        self.sandbox_id = sandbox_id
        self.held_bytes = 0  # counted in the memory
        self.is_arriving = True
        self.given_up = asyncio.Event()
        self._memory = memory
        self._kind = Opcode.TEXT
        self._pieces: list[bytes] = []
        self._size = 0
        self._waiting = 0  # bytes of the frame that is arriving

    def wait(self, size: int) -> Close | None:
        """Take more bytes of an incomplete frame. Return what `add` returns."""
        self._waiting += size
        return self._hold()

    def add(self, frame: Frame) -> Close | None:
        """Take a frame. Returns why the connection has to be closed, if that is too much."""
        if frame.opcode is not Opcode.CONT:
            self._kind = frame.opcode
        if len(self._pieces) == MAX_FRAGMENTS:
            return Close(CloseCode.MESSAGE_TOO_BIG, f"a message in more than {MAX_FRAGMENTS} fragments")
        self._pieces.append(bytes(frame.data))
        self._size += len(frame.data)
        self._waiting = 0
        return self._hold()

    def _hold(self) -> Close | None:
        size = self._size + self._waiting
        more = size - self.held_bytes
        if size <= SMALL_MESSAGE_BYTES or more <= 0:
            return None
        return None if not self.given_up.is_set() and self._memory.hold(self, more) else NO_ROOM

    def take(self) -> Message:
        """Return the message; what it holds is held until `drop`."""
        self.is_arriving = False
        data = b"".join(self._pieces)
        self._pieces.clear()
        if self._kind is Opcode.TEXT:
            return {"type": "websocket.send", "text": data.decode(errors="replace")}
        return {"type": "websocket.send", "bytes": data}

    def drop(self) -> None:
        """Forget it, give back what it holds, and be ready for the next one."""
        self.is_arriving = True
        self._pieces.clear()
        self._size = self._waiting = 0
        self._memory.release(self)

    def give_up(self) -> None:
        """Make room for others."""
        self.given_up.set()
        self.drop()


def _no_websocket(why: str) -> ServiceError:
    return ServiceError(f"no WebSocket there: {why}")


async def _close(send: Send, close: Close | None) -> None:
    code = close.code if close is not None and close.code not in (1005, 1006) else 1000 if close else 1011
    reason = close.reason if close is not None else "the service broke the connection"
    await send({"type": "websocket.close", "code": code, "reason": reason})


async def _refuse(send: Send, refusal: Handshake, view: PortView) -> None:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in refusal.headers.raw_items()]
    headers = view.headers(end_to_end(raw))
    await send(
        {
            "type": "websocket.http.response.start",
            "status": refusal.status_code,
            "headers": [(name, value) for name, value in headers if name.lower() != b"content-length"],
            OF_SERVICE: True,
        }
    )
    await send({"type": "websocket.http.response.body", "body": bytes(refusal.body or b"")})
