"""`/sandboxes/{id}/stream`: one WebSocket for all that a client does in a sandbox. Its messages: `messages.py`.

Each stream is a task that opens a stream to execd, says what comes of it in our messages, and ends. It waits for the
client's credit, where there is a window, and for the socket; then execd has to wait for it, and at last the program.
"""

from __future__ import annotations

import asyncio
import contextlib
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import structlog
from starlette.websockets import WebSocket, WebSocketDisconnect

from controlplane.api.edge.audit import AuditLog
from controlplane.api.edge.parameters import sandbox_id_of
from controlplane.api.edge.problems import error_answer
from controlplane.api.runs.large_json import LARGE_CHARS, encode
from controlplane.api.stream import messages as says
from controlplane.api.stream.messages import Codec, ServerMessage
from controlplane.api.stream.opened import OPENED
from controlplane.api.stream.requests import Operations
from controlplane.api.stream.stream import CLIENT_WINDOW, BrokenRule, ClientStream, failed
from controlplane.errors import CapacityExhausted, InvalidRequest, SandlotError
from controlplane.listener.extensions import HOLD
from controlplane.telemetry.tracing import SILENT, Tracer
from controlplane.turns import Turn
from execd.wire.messages import Done, RunEnd

if TYPE_CHECKING:
    from controlplane.activity.activities import Activities
    from controlplane.api.runs.runs import Runs
    from controlplane.link.relay import Relay

log = structlog.get_logger()

MAX_STREAMS = 64  # at once on one socket
UNACCEPTABLE = 1008  # close code: the client broke a rule
MAX_REASON_BYTES = 123


class Streams:
    """The endpoint."""

    def __init__(
        self, relay: Relay, runs: Runs, activities: Activities, audit: AuditLog, tracer: Tracer = SILENT
    ) -> None:
        self.relay = relay
        self.tracer = tracer
        self.audit = audit
        self.operations = Operations(relay, runs, activities)

    async def serve(self, websocket: WebSocket) -> None:
        """Serve a native stream. Without a subprotocol, it uses `sandlot.json.v1`."""
        sandbox_id = sandbox_id_of(websocket)
        try:
            offered = websocket.scope.get("subprotocols") or []
            chosen = next((name for name in offered if name in (says.JSON, says.MSGPACK)), None)
            if offered and chosen is None:
                raise InvalidRequest(f"the subprotocols are {says.JSON} and {says.MSGPACK}")
            await self.relay.link(sandbox_id)
        except SandlotError as error:
            await websocket.send_denial_response(error_answer(error, websocket.scope))
            return
        await websocket.accept(chosen)
        await _Connection(self, websocket, sandbox_id, Codec(chosen or says.JSON)).serve()


def _hold_nothing(_size: int) -> None:
    """Stand for a listener that does not count."""


class _Connection:
    """One client's socket."""

    def __init__(self, endpoint: Streams, websocket: WebSocket, sandbox_id: str, codec: Codec) -> None:
        self.endpoint = endpoint
        self.sandbox_id = sandbox_id
        self.codec = codec
        self.is_text = codec.is_text
        self._websocket = websocket
        self.scope = websocket.scope
        self._streams: dict[int, ClientStream] = {}
        # Of all tasks, also those that have nothing left but their last message to say: a client that does not read
        # them is not heard any more.
        self._room = asyncio.Semaphore(2 * MAX_STREAMS)
        self._hearing, self._saying = Turn(), Turn()
        self._kept_bytes = 0
        self._hold = websocket.scope.get("extensions", {}).get(HOLD, _hold_nothing)

    async def serve(self) -> None:
        """Serve the socket until the client leaves or breaks a rule; then all its streams are cancelled."""
        try:
            await self.send(says.Hello(self.sandbox_id, version("sandlot"), CLIENT_WINDOW))
            async with asyncio.TaskGroup() as group:
                try:
                    while True:
                        await self._handle_next(group)
                finally:
                    for stream in list(self._streams.values()):
                        stream.cancel()
        except* (WebSocketDisconnect, OSError):
            log.debug("stream.left")
        except* BrokenRule as errors:
            with contextlib.suppress(RuntimeError, OSError):
                await self._websocket.close(UNACCEPTABLE, _reason(str(errors.exceptions[0])))

    async def send(self, message: ServerMessage | says.Hello) -> None:
        """Send a message; waits while the client does not read. Raises WebSocketDisconnect, OSError."""
        frame = await self._encode(message)
        try:
            if self.is_text:
                await self._websocket.send_text(frame.decode())
            else:
                await self._websocket.send_bytes(frame)
        except RuntimeError:  # another stream has just found out that the client has gone
            raise WebSocketDisconnect(1006) from None
        await self._saying.spend(len(frame))

    def keep(self, size: int) -> None:
        """Tell the listener that *size* bytes more (less, if negative) wait for a sandbox to take them."""
        self._kept_bytes += size
        self._hold(self._kept_bytes)

    async def _encode(self, message: ServerMessage | says.Hello) -> bytes:
        if self.is_text and isinstance(message, says.Result | says.Raised):
            texts = message.data.values() if isinstance(message, says.Result) else (message.value, *message.traceback)
            if (chars := sum(map(len, texts))) > LARGE_CHARS:
                return await encode(message, chars)
        return self.codec.encode(message)

    def forget(self, stream: ClientStream) -> None:
        """Free the number of a stream."""
        if self._streams.get(stream.number) is stream:
            del self._streams[stream.number]

    async def _handle_next(self, group: asyncio.TaskGroup) -> None:
        """Carry out the client's next message. An error of one stream ends that stream alone."""
        try:
            await self._handle(await self._receive(), group)
        except says.StreamRefused as refused:
            stream = self._streams.pop(refused.stream, None)
            if stream is None and not refused.is_open:
                return  # it has ended, and our word of that has crossed this message
            if stream is not None:
                if refused.is_open:
                    raise BrokenRule(f"stream {refused.stream} is open already") from None
                stream.cancel()
            error = InvalidRequest(str(refused), code="request.body")
            await self.send(failed(refused.stream, error))

    async def _receive(self) -> says.FromClient:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        frame = message.get("text") if self.is_text else message.get("bytes")
        if frame is None:
            raise BrokenRule(f"frames must be {'text' if self.is_text else 'binary'}")
        await self._hearing.spend(len(frame))
        try:
            return self.codec.decode(frame)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BrokenRule(str(error)) from None

    async def _handle(self, message: says.FromClient, group: asyncio.TaskGroup) -> None:
        stream = self._streams.get(message.stream)
        if isinstance(message, says.Open):
            if stream is not None:
                raise BrokenRule(f"stream {message.stream} is open already")
            if len(self._streams) >= MAX_STREAMS:
                error = CapacityExhausted(f"more than {MAX_STREAMS} streams at once")
                await self.send(failed(message.stream, error))
                return
            await self._room.acquire()
            stream = self._streams[message.stream] = ClientStream(
                self, message, OPENED[type(message.operation)], self.endpoint.audit
            )
            stream.task = group.create_task(stream.serve(self.endpoint.operations.carry_out, self.endpoint.tracer))
            stream.task.add_done_callback(lambda _: self._room.release())
        elif stream is None:
            return  # it has ended, and our word of that has crossed this message
        elif isinstance(message, says.ClientData):
            stream.take(message.data or message.text.encode())
        elif isinstance(message, says.End):
            stream.take_end()
        elif isinstance(message, says.Credit):
            stream.credit(message.bytes)
        else:
            self.forget(stream)
            stream.cancel()
            if stream.recorded_id:
                group.create_task(self._end(stream.recorded_id))

    async def _end(self, run_id: str) -> None:
        """End a recorded run, which its reader's leaving does not end."""
        with contextlib.suppress(SandlotError):  # it has ended by itself, or its sandbox has
            await self.endpoint.relay.call(self.sandbox_id, RunEnd(run_id), Done)


def _reason(text: str) -> str:
    """Return as much of a text as the close of a WebSocket can carry (RFC 6455, 5.5)."""
    return text.encode()[:MAX_REASON_BYTES].decode(errors="ignore")
