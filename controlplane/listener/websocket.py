"""WebSocket with bounds: uvicorn's protocol on `websockets`, fed a few frames at a time.

The library bounds the size of a message, but not the number of fragments, and keeps pongs that the client does not
read; uvicorn queues all messages that have arrived. Here a turn has a few frames, and the next turn begins after the
application has taken their messages, and the client its pongs.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import CloseCode
from websockets.http11 import Request
from websockets.protocol import State

from controlplane.listener.bounds import HANDSHAKE_S, LINGER_BYTES, LINGER_S, MAX_FRAGMENTS, TURN_EVENTS
from controlplane.listener.extensions import HOLD
from controlplane.listener.flow import Unread
from controlplane.listener.frames import FrameMeter, TooManyFragments
from controlplane.listener.refusal import Refusal
from controlplane.listener.shared import shared_of


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shared = shared_of(config)
        self.conn.debug = False  # the library would log each header, keys among them
        self._meter = FrameMeter()
        self._input = b""  # not parsed yet
        self._turn_is_due = False
        self._is_slow = False  # the last turn ended by the number of its frames
        self._owes_pongs = False
        self._taken_bytes = 0  # of messages that the application handles
        self._kept_bytes = 0  # by the application, of earlier messages
        self._began_at = self.loop.time()
        self._refused_at = 0.0
        self._linger_bytes = 0

    # -- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection over from HTTP."""
        super().connection_made(transport)
        self._unread = Unread(self.transport)

    def begin(self, head: bytes, rest: bytes) -> None:
        """Take the head of the handshake request and the bytes after it."""
        self.conn.receive_data(head)
        self.handle_events()
        if not self.handshake_initiated:
            error = self.conn.handshake_exc
            self._refuse(Refusal(400, "INVALID_REQUEST", f"not a WebSocket handshake: {error}"))
        elif rest:
            self.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release what the connection holds."""
        self._shared.connections.remove(self)
        self._shared.memory.hold(self, 0)
        self._input = b""
        super().connection_lost(exc)

    def check(self, now: float) -> None:
        """Enforce the time limits; *now* is the event loop's time."""
        self._shared.connections.stall(self, has_stalled=self._unread.check(now))
        if self.transport.is_closing():
            return
        if self._refused_at:
            if now - self._refused_at > LINGER_S:
                self.transport.abort()
        elif not self.handshake_complete and now - self._began_at > HANDSHAKE_S:
            self._refuse(Refusal(503, "WEBSOCKET_TIMEOUT", f"no answer to the handshake within {HANDSHAKE_S} s"))

    def make_room(self) -> None:
        """End this stalled connection at once; a WebSocket is never idle."""
        self.transport.abort()

    def give_up(self) -> None:
        """End the connection: all clients together hold too much memory, and this one has held some for longest."""
        self._fail(CloseCode.TRY_AGAIN_LATER, "too many messages arrive at once")

    def keepalive_timeout(self) -> None:
        """Wait longer for a pong that the client cannot have sent, or that the server has not read."""
        if self.read_paused or self.transport.get_write_buffer_size():
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()
        else:
            super().keepalive_timeout()

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a handshake."""
        self.handshake_complete = self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": CloseCode.ABNORMAL_CLOSURE})
        self._linger(refusal.answer())

    def _fail(self, code: CloseCode, reason: str) -> None:
        """End the connection, and tell the client the reason."""
        if self.transport.is_closing() or self._refused_at:
            return
        if self.conn.state is State.OPEN:
            self.conn.fail(code, reason)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.close_sent = True
        self._linger(b"".join(self.conn.data_to_send()))

    def _linger(self, last: bytes) -> None:
        """Send the last bytes and read for a moment: with unread input, the system would drop them."""
        self._input = b""
        self._shared.memory.hold(self, 0)
        self._refused_at = self.loop.time()
        self.transport.write(last)
        with contextlib.suppress(OSError):  # the client has gone
            self.transport.write_eof()
        self._set_reading()

    # -- turns

    def data_received(self, data: bytes) -> None:
        """Take input from the socket."""
        if self._refused_at:
            self._linger_bytes += len(data)
            if self._linger_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        self._input = self._input + data if self._input else data
        if self._turn_is_due:
            self._set_reading()
        else:
            self._take_turn()

    def _wake(self) -> None:
        """Continue with the waiting input."""
        if self._input and not self._turn_is_due:
            self._plan_turn()
        self._set_reading()

    def _plan_turn(self) -> None:
        self._turn_is_due = True
        if self._is_slow:
            self._shared.lane.put(self._take_turn)
        else:
            self.loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Parse a few frames."""
        self._turn_is_due = False
        if self._owes_pongs and not self.transport.get_write_buffer_size():
            self._owes_pongs = False
        if self._input and not self._must_wait():
            try:
                end, frames = self._meter.cut(self._input)
                self._is_slow = frames == TURN_EVENTS
            except TooManyFragments:
                self._fail(CloseCode.POLICY_VIOLATION, f"a message has more than {MAX_FRAGMENTS} fragments")
                return
            piece, self._input = self._input[:end], self._input[end:]
            super().data_received(piece)
            if self.transport.is_closing() or self._refused_at:
                return
        self._account()
        if self._input and not self._must_wait():
            self._plan_turn()
        self._set_reading()

    def _must_wait(self) -> bool:
        """Return whether the application must first take messages, or the client pongs."""
        if self.close_sent:
            return False
        is_unread = self._owes_pongs and not self.writable.is_set()
        return not self.handshake_complete or is_unread or not self.queue.empty()

    def _set_reading(self) -> None:
        """Read while no input waits."""
        must_pause = not self._refused_at and (bool(self._input) or self._must_wait())
        if must_pause != self.read_paused and not self.transport.is_closing():
            self.read_paused = must_pause
            (self.transport.pause_reading if must_pause else self.transport.resume_reading)()

    def _account(self) -> None:
        held = len(self._input) + self._meter.pending_bytes + self._taken_bytes + self._kept_bytes
        self._shared.memory.hold(self, 0 if self._refused_at else held)

    def _keep(self, size: int) -> None:
        """Note that the application keeps *size* bytes of messages."""
        self._kept_bytes = size
        self._account()

    # -- messages

    def handle_connect(self, event: Request) -> None:
        """Answer the handshake request. The library calls this."""
        response = self.conn.accept(event)
        if response.status_code == 101:
            super().handle_connect(event)
            self.scope["extensions"] = cast(
                "dict[str, dict[object, object]]", {**(self.scope["extensions"] or {}), HOLD: self._keep}
            )
            return
        self.handshake_initiated = True
        text = f"not a WebSocket handshake: {self.conn.handshake_exc}"
        self._refuse(Refusal(response.status_code, "INVALID_REQUEST", text))

    def handle_ping(self) -> None:
        """Note that the client gets a pong, which the library has prepared."""
        self._owes_pongs = True
        super().handle_ping()

    def handle_parser_exception(self) -> None:
        """Note that the client broke the protocol; the library has prepared a close frame."""
        close = self.conn.close_sent
        code, reason = (close.code, close.reason) if close is not None else (CloseCode.PROTOCOL_ERROR, "")
        self._fail(CloseCode(code), reason)

    def send_receive_event_to_app(self) -> None:
        """Give a whole message to the application."""
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "bytes":
            self._give({"type": "websocket.receive", "bytes": data}, len(data))
            return
        try:
            self._give({"type": "websocket.receive", "text": data.decode()}, len(data))
        except UnicodeDecodeError:
            self._fail(CloseCode.INVALID_DATA, "a text message must be UTF-8")

    def _give(self, event: Any, size: int) -> None:
        self.queue.put_nowait(event)
        self._taken_bytes += size

    def resume_writing(self) -> None:
        """Continue after the client has read most of what was sent. The transport calls this."""
        super().resume_writing()
        self._owes_pongs = False
        self._wake()

    # -- the application

    async def receive(self) -> Any:
        """Return the next event. The call means that the application has handled the messages before."""
        if self.queue.empty():
            self._taken_bytes = 0
            self._account()
        event = await self.queue.get()
        if self.queue.empty():
            self._wake()
        return event

    async def send(self, message: Any) -> None:
        """Send the application's message. An answer to the handshake lets the connection read on."""
        await super().send(message)
        if message["type"] in ("websocket.accept", "websocket.close"):
            self._wake()
