"""HTTP/1.1 with bounds: uvicorn's httptools protocol, fed in pieces.

The parser has no limits, and cannot be stopped within a piece of input. So each piece ends at the end of a head or of a
chunk at the latest: no piece begins two requests, or contains two chunks. Input after a request waits, with reading
paused, until the answer is complete.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

import httptools
import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from controlplane.listener.bounds import (
    HEAD_S,
    IDLE_S,
    LINGER_BYTES,
    LINGER_S,
    MAX_HEAD_BYTES,
    MAX_HEADER_LINES,
    MAX_URL_BYTES,
    MIN_BODY_BYTES_PER_S,
    PIECE_BYTES,
    STILL_S,
    TURN_BYTES,
    TURN_EVENTS,
)
from controlplane.listener.extensions import HOLD, REQUEST_ID
from controlplane.listener.flow import Ending, Gate, Unread
from controlplane.listener.pieces import END, Pieces
from controlplane.listener.refusal import Refusal
from controlplane.listener.shared import shared_of
from controlplane.listener.websocket import BoundedWebSocket

log = structlog.get_logger()


class BoundedHttp(HttpToolsProtocol):
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
        self._input = b""  # parsed and then unparsed bytes
        self._parsed = 0  # bytes of the input; cutting them off in each turn would copy the rest again and again
        self._turn_is_due = False
        self._is_slow = False  # the last turn ended by the number of its events
        self._events = 0  # of this turn
        self._moved_at = self.loop.time()  # time of the last expected input
        self._refused_at = 0.0
        self._linger_bytes = 0
        self._ends = False  # whether the connection ends with the arriving message
        # Of the arriving message:
        self._refusal: Refusal | None = None  # raised in a callback
        self._is_whole = True
        self._head_bytes = 0
        self._head_began_at = 0.0
        self._header_lines = 0
        self._pieces = Pieces()
        self._framing_bytes = 0  # of chunk extensions or trailers in a row
        self._body_began_at = 0.0
        self._body_bytes = 0
        self._kept_bytes = 0  # by an application that does not stream this body

    # -- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to serve the connection, or refuse it if there are too many."""
        super().connection_made(transport)
        self.flow = self._gate = Gate(transport, self._wake)
        self._unread = Unread(transport)
        if not self._shared.connections.admit(self, self.client[0] if self.client else ""):
            self._refuse(Refusal(503, "TOO_MANY_CONNECTIONS", "too many connections; try again later", 1))

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
        elif self._input or self.flow.read_paused or self._client_waits_for_us():
            self._moved_at = now
        elif self._is_answered():
            self._check_idle(now)
        elif not self._is_whole:
            self._check_body(now)

    def make_room(self) -> None:
        """End this idle or stalled connection at once."""
        self.transport.abort()

    def give_up(self) -> None:
        """Refuse the request: all clients together hold too much memory, and this one has held some for longest."""
        self._refuse(Refusal(503, "TOO_MANY_BODIES", "too many requests arrive at once; try again later", 5))

    def _check_idle(self, now: float) -> None:
        if not self._is_whole:  # the rest of an answered request's body
            if now - self._moved_at > STILL_S or self._trickles(now):
                self.transport.abort()
        elif self._head_bytes:
            if now - self._head_began_at > HEAD_S:
                self._refuse(Refusal(408, "REQUEST_TIMEOUT", f"the head of a request must arrive within {HEAD_S} s"))
        elif now - self._moved_at > (IDLE_S if self.cycle else HEAD_S):
            self.transport.close()

    def _check_body(self, now: float) -> None:
        if self.cycle.response_started:
            return  # data flows both ways, and the answer decides the duration
        if now - self._moved_at > STILL_S:
            self._refuse(Refusal(408, "REQUEST_TIMEOUT", f"no data of the body has arrived for {STILL_S} s"))
        elif self._kept_bytes and self._trickles(now):
            slowest = MIN_BODY_BYTES_PER_S
            self._refuse(Refusal(408, "REQUEST_TIMEOUT", f"the body arrives with less than {slowest} bytes per second"))

    def _trickles(self, now: float) -> bool:
        return self._body_bytes < (now - self._body_began_at - STILL_S) * MIN_BODY_BYTES_PER_S

    def _client_waits_for_us(self) -> bool:
        return bool(self.cycle and self.cycle.waiting_for_100_continue)

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, refusal: Refusal) -> None:
        """Answer, if an answer can still be sent, and close the connection."""
        if self.transport.is_closing() or self._refused_at:
            return
        log.debug("listener.refused", status=refusal.status, code=refusal.code, client=self.client)
        self._shared.memory.hold(self, 0)
        self._input = b""
        cycle = self.cycle
        has_begun = cycle is not None and cycle.response_started and not cycle.response_complete
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        if has_begun:
            self.transport.abort()
            return
        self.transport.write(refusal.answer(self._request_id()))
        self._refused_at = self.loop.time()
        with contextlib.suppress(OSError):  # the client has gone
            self.transport.write_eof()
        self._gate.app_is_full = False
        self._gate.hold(input_waits=False)

    def _request_id(self) -> str:
        """Return the id that the application has given to the present request."""
        if self._is_answered():
            return ""
        extensions: dict[str, Any] = self.scope["extensions"] or {}
        return str(extensions.get(REQUEST_ID, ""))

    # -- turns

    def data_received(self, data: bytes) -> None:
        """Take input from the socket."""
        if self._refused_at:
            self._linger_bytes += len(data)
            if self._linger_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        self._moved_at = self.loop.time()
        self._input = self._input[self._parsed :] + data if self._input else data
        self._parsed = 0
        if self._turn_is_due:
            return
        if self._shared.rounds.has_room():
            self._take_turn()
        else:
            self._gate.hold(input_waits=True)
            self._plan_turn()

    def _wake(self) -> None:
        """Continue with the waiting input."""
        if self._input and not self._turn_is_due:
            self._plan_turn()

    def _plan_turn(self) -> None:
        self._turn_is_due = True
        if self._is_slow:
            self._shared.lane.put(self._take_turn)
        else:
            self._shared.rounds.put(self.client[0] if self.client else "", self._take_turn)

    def _take_turn(self) -> None:
        """Parse a bounded part of the input."""
        self._turn_is_due = False
        if self.transport.is_closing():
            return
        data, at, self._events = self._input, self._parsed, 0
        stop = min(len(data), at + TURN_BYTES)
        while at < stop and self._events < TURN_EVENTS and not self._must_wait():
            end = self._pieces.end_of(data, at)
            if not self._parse(data, at, end):
                return
            at = end
            self._events += 1
        self._input, self._parsed = (data, at) if at < len(data) else (b"", 0)
        self._gate.hold(input_waits=bool(self._input))
        self._account()
        self._is_slow = self._events >= TURN_EVENTS
        if self._input and not self._must_wait():
            self._plan_turn()

    def _must_wait(self) -> bool:
        """Return whether the application must first answer a request, or take the present part of a body."""
        if self.transport.is_closing():
            return True
        return not self._is_answered() and (self._is_whole or self._gate.app_is_full)

    def _parse(self, data: bytes, at: int, end: int) -> bool:
        """Feed a piece of *data* to the parser. Return False if the connection does not continue as HTTP."""
        try:
            self._count(end - at)
            self.parser.feed_data(memoryview(data)[at:end])
        except Refusal as refusal:
            self._refuse(refusal)
        except httptools.HttpParserUpgrade:
            return self._upgrade(data[end:])
        except httptools.HttpParserError as error:
            self._refuse(self._refusal or Refusal(400, "INVALID_REQUEST", f"not an HTTP request: {error}"))
        else:
            if self._framing_bytes <= MAX_HEAD_BYTES + PIECE_BYTES:
                return True
            self._refuse(Refusal(400, "INVALID_REQUEST", "too many bytes between the chunks of the body"))
        return False

    def _count(self, size: int) -> None:
        """Count a piece towards the head or the body. Raise Refusal if a head grows too large."""
        if self._pieces.body_left:
            self._pieces.body_left -= size
            self._body_bytes += size
        elif self._pieces.is_chunked:
            self._body_bytes += size
            self._framing_bytes += size  # unless the parser finds content in the piece: see `on_body`
        else:
            if not self._head_bytes:
                self._header_lines = 0
                self._head_began_at = self.loop.time()
            self._head_bytes += size
            if self._head_bytes > MAX_URL_BYTES + MAX_HEAD_BYTES:
                raise _too_large()

    def _account(self) -> None:
        cycle = self.cycle
        waiting = len(cycle.body) if cycle is not None and not cycle.response_complete else 0
        held = len(self._input) + waiting + self._kept_bytes
        self._shared.memory.hold(self, 0 if self._refused_at else held)

    def _keep(self, size: int) -> None:
        """Note that the application has *size* bytes of the body in memory, and waits for the rest."""
        self._kept_bytes = size
        self._account()

    # -- what the parser finds

    def on_message_begin(self) -> None:
        """Begin a request. The parser calls this."""
        super().on_message_begin()
        self.scope["extensions"] = cast("dict[str, dict[object, object]]", {HOLD: self._keep})

    def on_url(self, url: bytes) -> None:
        """Take the URL or a part of it. The parser calls this."""
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._stop(Refusal(414, "URI_TOO_LONG", f"the URL is longer than {MAX_URL_BYTES} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header or a trailer. The parser calls this."""
        self._events += 1
        self._header_lines += 1
        if self._header_lines > MAX_HEADER_LINES or self._head_bytes - len(self.url) > MAX_HEAD_BYTES:
            self._stop(_too_large())
        if not self._pieces.is_chunked:  # trailers come after all checks, so they are not put among the headers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the head and start the request. The parser calls this."""
        self._check_head()
        self._is_whole = False
        self._shared.connections.work(self)
        super().on_headers_complete()
        if self.parser.should_upgrade():
            if self._should_upgrade():
                return  # there is no cycle
            self.cycle.keep_alive = False
        self.cycle.transport = cast("asyncio.Transport", Ending(self.transport, self._end))

    def on_body(self, body: bytes) -> None:
        """Take a chunk or a part of the body. The parser calls this."""
        self._framing_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the body of the request. The parser calls this."""
        if self._has_hidden_body():
            return
        super().on_message_complete()
        self._is_whole = True
        self._pieces.begin_message()
        self._head_bytes = self._framing_bytes = 0
        if self._ends:
            self.transport.close()
        elif self._is_answered():
            self._rest()

    def _end(self) -> None:
        """Close the connection after the rest of an answered request's body."""
        if self._is_whole or not self._is_answered():
            self.transport.close()
        else:
            self._ends = True

    def on_response_complete(self) -> None:
        """Continue after an answer. The cycle calls this after the last byte was written."""
        self.server_state.total_requests += 1
        self._kept_bytes = 0
        if self.transport.is_closing():
            return
        self._rest()
        self._account()
        self.flow.resume_reading()
        self._wake()

    def _rest(self) -> None:
        self._moved_at = self.loop.time()
        self._shared.connections.rest(self, is_new=False)

    def _check_head(self) -> None:
        """Read the bounds of a message from its head, and refuse a head that others might read differently."""
        hosts = 0
        for name, value in self.headers:
            if name == b"content-length":
                self._pieces.body_left = int(value)
            elif name == b"transfer-encoding":
                self._pieces.is_chunked = True  # the parser takes no other one
            elif name == b"host":
                hosts += 1
        if hosts > 1:
            self._stop(Refusal(400, "INVALID_REQUEST", "the request has more than one Host header"))
        if self.parser.get_method() == b"CONNECT":
            self._stop(Refusal(405, "METHOD_NOT_ALLOWED", "this server is not a proxy: CONNECT is not possible"))
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            self._stop(Refusal(505, "INVALID_REQUEST", "the protocol must be HTTP/1.1 or HTTP/1.0"))
        self._pieces.begin_body()
        self._header_lines = self._body_bytes = self._kept_bytes = 0
        self._body_began_at = self.loop.time()

    def _stop(self, refusal: Refusal) -> None:
        """Refuse the request within a callback: the parser then reports an error of its own."""
        self._refusal = refusal
        raise refusal

    # -- upgrades

    def _has_hidden_body(self) -> bool:
        """Return whether the parser omits the body because the client offers another protocol."""
        return (
            self.parser.should_upgrade()
            and not self._should_upgrade()
            and bool(self._pieces.body_left or self._pieces.is_chunked)
        )

    def _go_on_without_upgrade(self) -> None:
        """Parse the body of a request that offers another protocol, as Java's own client does (h2c)."""
        if not self._has_hidden_body():
            return  # this request is the last one
        self.parser = httptools.HttpRequestParser(_Body(self))
        framing = (
            b"Transfer-Encoding: chunked" if self._pieces.is_chunked else b"Content-Length: %d" % self._pieces.body_left
        )
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + END)

    def _upgrade(self, rest: bytes) -> bool:
        """Continue as a WebSocket, and return False; for any other protocol, answer by HTTP and end the connection."""
        if not self._should_upgrade():
            self._go_on_without_upgrade()
            return True
        self._gate.hold(input_waits=False)
        self.connections.discard(self)
        socket = BoundedWebSocket(config=self.config, server_state=self.server_state, app_state=self.app_state)
        socket.connection_made(self.transport)
        self._shared.connections.replace(self, socket)
        self._shared.memory.hold(self, 0)
        lines = [b"%s %s HTTP/1.1" % (self.scope["method"].encode(), self.url)]
        lines += [b"%s: %s" % header for header in self.headers]
        self.transport.set_protocol(socket)
        socket.begin(b"\r\n".join(lines) + END, rest)
        return False


class _Body:
    """The callbacks of a parser that parses only the body."""

    def __init__(self, http: BoundedHttp) -> None:
        self.on_body = http.on_body
        self.on_message_complete = http.on_message_complete


def _too_large() -> Refusal:
    return Refusal(
        431,
        "HEADERS_TOO_LARGE",
        f"the headers are more than {MAX_HEAD_BYTES} bytes or {MAX_HEADER_LINES} lines",
    )
