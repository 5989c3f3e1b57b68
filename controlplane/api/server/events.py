"""`/events`: what happens on the server, as a WebSocket or as server-sent events. Its messages: `messages.py`."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from importlib.metadata import version

import msgspec
import structlog
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from controlplane.api.edge.bodies import json_answer, utc
from controlplane.api.edge.guard import caller_of
from controlplane.api.edge.problems import error_answer
from controlplane.api.edge.responses import Sink, StreamResponse
from controlplane.api.edge.tickets import Tickets, TicketView
from controlplane.api.runs.sse import event_stream
from controlplane.api.server.messages import Hello, Skipped
from controlplane.errors import CapacityExhausted
from controlplane.lifecycle.events.bus import Bus, Heard, Listener, Message, Missed
from controlplane.turns import Turn

log = structlog.get_logger()

PING_INTERVAL_S = 15.0
PING = b": nothing happened\n\n"
TURN_MESSAGES = 16  # of one WebSocket in a turn of the event loop: a frame costs some µs, and many clients may listen
UNACCEPTABLE = 1008  # close code: the client broke a rule


class Events:
    """The endpoints."""

    def __init__(self, bus: Bus, tickets: Tickets) -> None:
        self._bus = bus
        self._tickets = tickets

    async def issue(self, request: Request) -> Response:
        """Create a ticket, which opens the WebSocket of the events once, without a key, for what this key sees."""
        ticket, expires = self._tickets.make_for_events(caller_of(request.scope))
        return json_answer(TicketView(ticket, utc(expires)), 201, {"Cache-Control": "no-store"})

    async def stream(self, request: Request) -> ASGIApp:
        """Stream what happens on the server, as server-sent events.

        A client hears of the sandboxes and snapshots that its key sees. Keys with the scope `read` or `admin` also hear
        of pools, images, the engine and the counters. `after`, or `Last-Event-ID`, is the id of the last event that the
        client has: the answer begins with the next one, or with `skipped` if that is gone. The same address takes a
        WebSocket, which events.asyncapi.yaml describes.
        """
        leaving = contextlib.ExitStack()
        listener = leaving.enter_context(self._bus.listening(caller_of(request.scope), _place(request)))
        return _Stream(listener, leaving).response()

    async def serve(self, websocket: WebSocket) -> None:
        """Serve a WebSocket, on which the client only listens."""
        try:
            with self._bus.listening(caller_of(websocket.scope), _place(websocket)) as listener:
                await websocket.accept()
                await _Socket(websocket, listener).serve()
        except CapacityExhausted as error:
            await websocket.send_denial_response(error_answer(error, websocket.scope))


class _Stream:
    """Server-sent events for one client."""

    def __init__(self, listener: Listener, leaving: contextlib.ExitStack) -> None:
        self._listener = listener
        self._leaving = leaving
        self._prefix = f"id: {listener.view.instance}.".encode()

    def response(self) -> StreamResponse:
        """Return the response, which leaves the bus at its end."""
        return event_stream(self._pump, close=self._leaving.close)

    async def _pump(self, sink: Sink) -> None:
        await sink.write(b"data: %b\n\n" % _hello(self._listener))
        while True:
            try:
                async with asyncio.timeout(PING_INTERVAL_S):
                    heard = await self._listener.next()
            except TimeoutError:
                await sink.write(PING)
            else:
                await sink.write(b"".join(map(self._event, heard)))

    def _event(self, heard: Heard) -> bytes:
        if isinstance(heard, Message):
            return b"%b%d\ndata: %b\n\n" % (self._prefix, heard.seq, heard.text)
        return b"data: %b\n\n" % _text(heard)


class _Socket:
    """One client's WebSocket."""

    def __init__(self, websocket: WebSocket, listener: Listener) -> None:
        self._websocket = websocket
        self._listener = listener

    async def serve(self) -> None:
        """Tell the client what happens until it leaves, or says anything."""
        telling = asyncio.ensure_future(self._tell())
        hearing = asyncio.ensure_future(self._websocket.receive())
        try:
            await asyncio.wait([telling, hearing], return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
            elif hearing.result()["type"] != "websocket.disconnect":
                telling.cancel()
                await self._websocket.close(UNACCEPTABLE, "this socket takes no messages")
        except (WebSocketDisconnect, RuntimeError, OSError):
            log.debug("events.left")
        finally:
            telling.cancel()
            hearing.cancel()
            await asyncio.wait([telling, hearing])

    async def _tell(self) -> None:
        await self._send(_hello(self._listener))
        turn = Turn(most_items=TURN_MESSAGES)
        while True:
            for heard in await self._listener.next():
                text = _text(heard)
                await self._send(text)
                await turn.spend(len(text))

    async def _send(self, text: bytes) -> None:
        await self._websocket.send_text(text.decode())


def _place(connection: HTTPConnection) -> str:
    """Return the id of the last event that a client has; "" if it has none."""
    return connection.query_params.get("after") or connection.headers.get("last-event-id", "")


def _hello(listener: Listener) -> bytes:
    view = listener.view
    return msgspec.json.encode(
        Hello(version=version("sandlot"), instance=view.instance, last=view.last, at=datetime.now(UTC))
    )


def _text(heard: Heard) -> bytes:
    return msgspec.json.encode(Skipped(heard.count)) if isinstance(heard, Missed) else heard.text
