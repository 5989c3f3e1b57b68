"""Terminals over WebSocket, `/pty`, as in the official agent's PTY.md.

The server sends binary frames, whose first byte is the kind: 0x01 stdout, 0x02 stderr (only without a PTY), 0x03
replay, which begins with the offset of its output (8 bytes, big-endian). The server's text frames are JSON:
`connected`, `exit`, `error`, `pong`. The client sends binary frames with 0x00 and input, or JSON: `stdin`, `signal`,
`resize`, `ping`.
`specs/terminal.asyncapi.yaml` is made from this file.
"""

from __future__ import annotations

import asyncio
import signal
import uuid
from typing import TYPE_CHECKING, Literal

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect

from controlplane.api.edge.bodies import json_answer, read_optional_json
from controlplane.api.edge.parameters import clean_env, flag, integer, no_nul, sandbox_id_of
from controlplane.api.edge.problems import error_answer, problem_of
from controlplane.api.execd.schema import OpenTerminalRequest, SessionView, TerminalView
from controlplane.errors import AgentError, InvalidRequest, LinkLost, SandlotError
from controlplane.link.stream import Stream
from controlplane.turns import Turn
from execd.wire.aio import Data
from execd.wire.frames import Channel
from execd.wire.messages import (
    Done,
    ProcessExited,
    PtyAttach,
    PtyClose,
    PtyList,
    PtyOpen,
    PtyResize,
    PtySignal,
    PtyState,
)

if TYPE_CHECKING:
    from controlplane.link.relay import Relay

log = structlog.get_logger()

STDIN, STDOUT, STDERR, REPLAY = b"\x00", b"\x01", b"\x02", b"\x03"
# Close codes, beside 1000 after the end of the program.
TAKEN_OVER = 4001
UNREACHABLE = 1011
MAX_LISTED = 1000
_CREATED = 201


class Frame(msgspec.Struct, frozen=True, tag_field="type"):
    """A text frame."""


class Stdin(Frame, frozen=True, tag="stdin"):
    """Input as text. A binary frame carries any bytes."""

    data: str = ""


class Signal(Frame, frozen=True, tag="signal"):
    """A signal, such as SIGINT, for the foreground of the terminal."""

    signal: str


class Resize(Frame, frozen=True, tag="resize"):
    """The new size of the window."""

    cols: int
    rows: int


class Ping(Frame, frozen=True, tag="ping"):
    """A request for a `pong`."""


class Connected(Frame, frozen=True, tag="connected"):
    """The first frame, with the id of the terminal, and whether its program has a PTY or pipes."""

    session_id: str
    mode: Literal["pty", "pipe"]


class Exit(Frame, frozen=True, tag="exit"):
    """The end of the program. Only the close of the WebSocket follows."""

    exit_code: int


class Error(Frame, frozen=True, tag="error"):
    """The error of a client's frame; before a close with 1011, the server cannot reach the sandbox."""

    code: str
    error: str


class Pong(Frame, frozen=True, tag="pong"):
    """The answer to `ping`."""


ClientFrame = Stdin | Signal | Resize | Ping
ServerFrame = Connected | Exit | Error | Pong

_decoder = msgspec.json.Decoder(ClientFrame)


class Terminals:
    """The endpoints."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def create(self, request: Request) -> Response:
        """Create a terminal, whose program starts at the first attach. The body may be empty."""
        wish = await read_optional_json(request, OpenTerminalRequest)
        for name, text in (("cwd", wish.cwd), ("command", wish.command)):
            no_nul(text or "", name)
        opening = PtyOpen(
            id=uuid.uuid4().hex,
            command=(wish.command or "").strip(),
            env=clean_env(wish.envs, "envs"),
            cwd=wish.cwd or "",
            uid=wish.uid,
            gid=wish.gid,
            cols=wish.cols,
            rows=wish.rows,
        )
        await self._relay.call(sandbox_id_of(request), opening, Done)
        return json_answer(SessionView(opening.id), _CREATED)

    async def list(self, request: Request) -> Response:
        """List all terminals, including those whose program has ended lately."""
        views: list[TerminalView] = []
        async with await self._relay.open(sandbox_id_of(request), PtyList()) as stream:
            while (state := await stream.receive()) is not None:
                if not isinstance(state, PtyState) or len(views) == MAX_LISTED:
                    raise LinkLost("the agent sent no list of terminals")
                views.append(_view(state))
        return json_answer(views)

    async def get(self, request: Request) -> Response:
        """Return a terminal."""
        message = PtyList(request.path_params["pty_id"])
        return json_answer(_view(await self._relay.call(sandbox_id_of(request), message, PtyState)))

    async def delete(self, request: Request) -> Response:
        """Hang up a terminal."""
        await self._relay.call(sandbox_id_of(request), PtyClose(request.path_params["pty_id"]), Done)
        return Response()

    async def attach(self, websocket: WebSocket) -> None:
        """Attach to a terminal. `pty=0` asks for pipes, if the program has not started yet."""
        stream: Stream | None = None
        try:
            attaching = PtyAttach(
                id=websocket.path_params["pty_id"],
                since=integer(websocket, "since") or 0,
                takeover=flag(websocket, "takeover"),
                pipes=websocket.query_params.get("pty", "1") in ("0", "false"),
            )
            sandbox_id = sandbox_id_of(websocket)
            stream, state = await self._relay.begin(sandbox_id, attaching, PtyState, with_input=True)
        except SandlotError as error:
            await websocket.send_denial_response(error_answer(error, websocket.scope))
        else:
            await websocket.accept()
            await _Attached(self._relay, websocket, stream, state).serve()
        finally:
            if stream is not None:
                stream.close()


def _view(state: PtyState) -> TerminalView:
    return TerminalView(state.id, state.running, state.output_end)


class _Attached:
    """A client and its terminal."""

    def __init__(self, relay: Relay, websocket: WebSocket, stream: Stream, state: PtyState) -> None:
        self._relay = relay
        self._websocket = websocket
        self._stream = stream
        self._state = state
        self._sandbox_id = sandbox_id_of(websocket)

    async def serve(self) -> None:
        """Carry both ways until one of them ends."""
        await self._say(Connected(self._state.id, "pty" if self._state.terminal else "pipe"))
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(self._listen())
                await self._tell()
                listening.cancel()
        except* (WebSocketDisconnect, OSError):
            log.debug("pty.left")

    async def _tell(self) -> None:
        """Pass on what the program says, up to its end."""
        offset, replay_end = self._state.output_start, self._state.output_end
        while True:
            try:
                item = await self._stream.receive()
                if item is None:
                    raise LinkLost("the agent ended a terminal without saying how")
            except SandlotError as error:
                if isinstance(error, AgentError) and error.code == "pty.taken":
                    await self._websocket.close(TAKEN_OVER, "TAKEN_OVER")
                else:
                    await self._say(_failed(error))
                    await self._websocket.close(UNREACHABLE, "the sandbox is not reachable any more")
                return
            match item:
                case Data(channel, data):
                    if offset < replay_end:
                        await self._websocket.send_bytes(REPLAY + offset.to_bytes(8, "big") + data)
                    else:
                        await self._websocket.send_bytes((STDERR if channel == Channel.STDERR else STDOUT) + data)
                    offset += len(data)
                case ProcessExited():
                    await self._say(Exit(item.exit_code))
                    await self._websocket.close()
                    return

    async def _listen(self) -> None:
        """Pass on what the client types, and do what it asks. Raises WebSocketDisconnect."""
        turn = Turn()
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            await turn.spend(len(message.get("text") or message.get("bytes") or ""))
            try:
                if (text := message.get("text")) is not None:
                    await self._obey(_decoder.decode(text))
                elif (data := message["bytes"])[:1] == STDIN:
                    await self._stream.write(data[1:])
                else:
                    raise InvalidRequest("a binary frame must begin with 0x00")
            except msgspec.DecodeError as error:
                await self._say(Error("INVALID_FRAME", str(error)))
            except SandlotError as error:
                await self._say(_failed(error))

    async def _obey(self, frame: ClientFrame) -> None:
        match frame:
            case Stdin(data):
                await self._stream.write(data.encode(errors="replace"))
            case Resize(cols, rows):
                await self._relay.call(self._sandbox_id, PtyResize(self._state.id, cols, rows), Done)
            case Signal(name):
                await self._relay.call(self._sandbox_id, PtySignal(self._state.id, _number(name)), Done)
            case Ping():
                await self._say(Pong())

    async def _say(self, frame: ServerFrame) -> None:
        await self._websocket.send_text(msgspec.json.encode(frame).decode())


def _failed(error: SandlotError) -> Error:
    return Error(problem_of(error).code, error.public)


def _number(name: str) -> int:
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError:
        raise InvalidRequest(f"signal: {name[:32]!r} is not a signal") from None
