"""`/command`: processes of a sandbox, run in the foreground or in the background."""

from __future__ import annotations

import signal
import uuid
from functools import partial
from typing import TYPE_CHECKING

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import sse
from controlplane.api.schema import (
    CommandStatus,
    RunCommandRequest,
    clean_env,
    integer,
    json_answer,
    read_json,
    receipt_of,
    required,
    utc,
)
from controlplane.api.streaming import Sink, StreamResponse, copy_data
from controlplane.errors import AgentError, InvalidRequest, LinkLost, SandlotError
from controlplane.link.stream import Stream
from execd.wire.messages import (
    Done,
    ProcessExited,
    ProcessList,
    ProcessOutput,
    ProcessSignal,
    ProcessStart,
    ProcessStarted,
    ProcessState,
)

if TYPE_CHECKING:
    from controlplane.api.resume import EventStreams
    from controlplane.api.sessions import Sessions
    from controlplane.link.relay import Relay

# What an interrupted command is given to end by itself before it is killed.
INTERRUPT_GRACE_S = 2.0
# What shells say of a command that could not be started; the SDKs read exit codes from nowhere else.
NOT_STARTED = "127"


class Commands:
    """The endpoints. `timeout_s` limits commands that set no limit of their own; None leaves them free."""

    def __init__(self, relay: Relay, sessions: Sessions, events: EventStreams, timeout_s: float | None) -> None:
        self._relay = relay
        self._sessions = sessions
        self._events = events
        self._timeout_s = timeout_s

    async def run(self, request: Request) -> Response | StreamResponse:
        """POST /command: run it and stream its events."""
        body = await read_json(request, RunCommandRequest)
        start = process_start(body, self._timeout_s)
        stream = await self._relay.open(request.path_params["sandbox_id"], start)
        pump = partial(_background if body.background else _foreground, start, stream)
        return self._events.respond(request, start.id, pump, close=stream.close)

    async def interrupt(self, request: Request) -> Response:
        """DELETE /command?id=: end it, gently first. The id may also be of a run in a session, which stays."""
        sandbox_id, command_id = request.path_params["sandbox_id"], required(request, "id")
        if await self._sessions.interrupt(sandbox_id, command_id):
            return Response()
        message = ProcessSignal(id=command_id, signal=signal.SIGTERM, kill_after_s=INTERRUPT_GRACE_S)
        await self._relay.call(sandbox_id, message, Done)
        return Response()

    async def status(self, request: Request) -> Response:
        """GET /command/status/{id}."""
        message = ProcessList(id=request.path_params["command_id"])
        state = await self._relay.call(request.path_params["sandbox_id"], message, ProcessState)
        return json_answer(_status(state))

    async def logs(self, request: Request) -> Response | StreamResponse:
        """GET /command/{id}/logs?cursor=: what a background command has said since that byte."""
        message = ProcessOutput(id=request.path_params["command_id"], offset=integer(request, "cursor") or 0)
        stream = await self._relay.open(request.path_params["sandbox_id"], message)
        try:
            state = await stream.expect(ProcessState)
        except BaseException:
            stream.close()
            raise
        headers = (
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"execd-commands-tail-cursor", b"%d" % state.output_end),
        )
        return StreamResponse(partial(copy_data, stream), close=stream.close, headers=headers)


def process_start(body: RunCommandRequest, timeout_s: float | None) -> ProcessStart:
    """Return what to ask of execd; *timeout_s* is for a command that names none. Raises InvalidRequest."""
    if (body.command is None) == (body.argv is None):
        raise _invalid("exactly one of command and argv must be given")
    for argument in (body.command,) if body.command is not None else body.argv or ("",):
        if "\0" in argument:
            raise _invalid("command: must not contain NUL")
    if not (body.command or "".join(body.argv or ())[:1]).strip():
        raise _invalid("command: must not be empty")
    if body.gid is not None and body.uid is None:
        raise _invalid("gid: needs uid as well")
    if "\0" in (body.cwd or ""):
        raise _invalid("cwd: must not contain NUL")
    return ProcessStart(
        id=uuid.uuid4().hex,
        argv=body.argv or (),
        shell=body.command or "",
        env=clean_env(body.envs, "envs"),
        cwd=body.cwd or "",
        uid=body.uid,
        gid=body.gid,
        timeout_s=body.timeout / 1000 if body.timeout else timeout_s,
        background=body.background,
    )


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="request.body")


async def _foreground(start: ProcessStart, stream: Stream, sink: Sink) -> None:
    """Stream a command from its start to its end. Leaving early ends the command."""
    await sink.write(sse.init_event(start.id))
    output = sse.Output()
    while True:
        try:
            batch, message = await sse.receive_batch(stream, sink)
        except SandlotError as error:
            await sink.finish(output.flush() + _failure_event(error, stream))
            return
        events = output.feed(batch)
        if isinstance(message, ProcessExited):
            # Events and end in one write: most commands are over with it.
            await sink.finish(events + output.flush() + _end_event(message, start.timeout_s))
            await stream.receive()
            return
        if message is None and not batch:
            raise LinkLost("the agent ended a command without saying how")
        await sink.write(events)


async def _background(start: ProcessStart, stream: Stream, sink: Sink) -> None:
    """Say that a command has been started; it goes on by itself."""
    await sink.write(sse.init_event(start.id))
    try:
        await stream.expect_only(ProcessStarted)
    except SandlotError as error:
        await sink.finish(_failure_event(error, stream))
        return
    await sink.finish(sse.complete_event(0))


def _end_event(exited: ProcessExited, timeout_s: float | None) -> bytes:
    receipt = receipt_of(exited)
    if exited.exit_code == 0 and exited.cause == "exit":
        return sse.complete_event(exited.wall_s, receipt)
    return sse.error_event(sse.COMMAND_ERROR, str(exited.exit_code), [describe(exited, timeout_s)], receipt)


def describe(exited: ProcessExited, timeout_s: float | None = None) -> str:
    """Say how a process ended; "" when it ended well."""
    match exited.cause:
        case "exit":
            return f"exit status {exited.exit_code}" if exited.exit_code else ""
        case "signal":
            return f"ended by signal {exited.signal} ({_signal_name(exited.signal)})"
        case "timeout":
            return "timed out" + (f" after {timeout_s:g} s" if timeout_s else "")
        case "oom":
            return sse.OUT_OF_MEMORY
        case "killed":
            return "ended on request"
        case "link_lost":
            return "ended because the link to the sandbox broke"
        case cause:
            return cause


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _failure_event(error: SandlotError, stream: Stream) -> bytes:
    """Return the event for a command that broke instead of ending."""
    if isinstance(error, AgentError) and error.code == "process.spawn_failed":
        return sse.error_event(sse.COMMAND_ERROR, NOT_STARTED, [error.message])
    return sse.failure_event(error, stream)


def _status(state: ProcessState) -> CommandStatus:
    exited = state.exited
    return CommandStatus(
        id=state.id,
        content=state.command,
        running=exited is None,
        exit_code=None if exited is None else exited.exit_code,
        started_at=utc(state.started_at),
        finished_at=None if state.finished_at is None else utc(state.finished_at),
        receipt=UNSET if exited is None else receipt_of(exited),
        error="" if exited is None else describe(exited),
    )
