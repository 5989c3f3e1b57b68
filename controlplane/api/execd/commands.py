"""`/command`: processes of a sandbox, run in the foreground or in the background."""

from __future__ import annotations

import itertools
import signal
from functools import partial
from typing import TYPE_CHECKING

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.bodies import json_answer, read_json, utc
from controlplane.api.edge.parameters import integer, required, sandbox_id_of
from controlplane.api.edge.responses import Sink, StreamResponse, copy_data
from controlplane.api.execd.schema import MAX_SCRIPT_BODY_BYTES, CommandStatus, RunCommandRequest
from controlplane.api.runs import sse
from controlplane.api.runs.command import process_start
from controlplane.api.runs.endings import describe, failure_events
from controlplane.api.runs.numbered import respond, respond_with
from controlplane.api.runs.receipt import receipt_of
from controlplane.api.runs.recording import keep_seconds
from controlplane.api.runs.replies import lost
from controlplane.errors import SandlotError
from controlplane.link.stream import Stream
from execd.wire.messages import (
    Done,
    ProcessList,
    ProcessOutput,
    ProcessSignal,
    ProcessStart,
    ProcessStarted,
    ProcessState,
)

if TYPE_CHECKING:
    from controlplane.api.runs.runs import Runs
    from controlplane.link.relay import Relay

# What an interrupted command is given to end by itself before it is killed.
INTERRUPT_GRACE_S = 2.0


class Commands:
    """The endpoints."""

    def __init__(self, relay: Relay, runs: Runs) -> None:
        self._relay = relay
        self._runs = runs

    async def run(self, request: Request) -> Response | StreamResponse:
        """Run a command, and stream its events."""
        body = await read_json(request, RunCommandRequest, limit=MAX_SCRIPT_BODY_BYTES)
        keep_s = keep_seconds(request)
        start = self._start(body)
        sandbox_id = sandbox_id_of(request)
        if body.background:
            # It outlives its client anyway, and its status and logs are there to be asked for.
            stream = await self._relay.open(sandbox_id, start)
            number = itertools.count(1).__next__ if keep_s else None
            return respond(partial(_background, start, stream), close=stream.close, number=number)
        run = await self._runs.begin_command(sandbox_id, start, keep_s=keep_s, lines=True)
        return respond_with(run, close=self._runs.end, is_numbered=bool(keep_s))

    async def interrupt(self, request: Request) -> Response:
        """End a command, first by SIGTERM. The id of a run in a session ends the run, and not the session."""
        sandbox_id, command_id = sandbox_id_of(request), required(request, "id")
        if await self._runs.interrupt_in_session(sandbox_id, command_id):
            return Response()
        message = ProcessSignal(id=command_id, signal=signal.SIGTERM, kill_after_s=INTERRUPT_GRACE_S)
        await self._relay.call(sandbox_id, message, Done)
        return Response()

    async def status(self, request: Request) -> Response:
        """Return the status of a command."""
        message = ProcessList(id=request.path_params["command_id"])
        state = await self._relay.call(sandbox_id_of(request), message, ProcessState)
        return json_answer(_status(state))

    async def logs(self, request: Request) -> Response | StreamResponse:
        """Return the output of a background command from byte `cursor` on."""
        command_id, cursor = request.path_params["command_id"], integer(request, "cursor") or 0
        message = ProcessOutput(id=command_id, offset=cursor, as_text=True)
        stream, state = await self._relay.begin(sandbox_id_of(request), message, ProcessState)
        headers = (
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"execd-commands-tail-cursor", b"%d" % state.output_end),
        )
        return StreamResponse(partial(copy_data, stream), close=stream.close, headers=headers)

    def _start(self, body: RunCommandRequest) -> ProcessStart:
        # A command in the background is a server as a rule: it has the lifetime of the sandbox.
        free = body.background and not body.timeout
        return process_start(
            shell=body.command,
            argv=body.argv,
            env=body.envs,
            cwd=body.cwd,
            uid=body.uid,
            gid=body.gid,
            timeout_s=None if free else self._runs.limit(ms=body.timeout),
            background=body.background,
        )


async def _background(start: ProcessStart, stream: Stream, sink: Sink) -> None:
    """Say that a command has been started; it goes on by itself."""
    await sink.write(sse.init_event(start.id))
    try:
        await stream.expect_only(ProcessStarted)
    except SandlotError as error:
        await sink.finish(failure_events(lost(error, stream)))
        return
    await sink.finish(sse.complete_event(0))


def _status(state: ProcessState) -> CommandStatus:
    exited = state.exited
    receipt = None if exited is None else receipt_of(exited)
    return CommandStatus(
        id=state.id,
        content=state.command,
        running=exited is None,
        exit_code=None if exited is None else exited.exit_code,
        started_at=utc(state.started_at),
        finished_at=None if state.finished_at is None else utc(state.finished_at),
        receipt=UNSET if receipt is None else receipt,
        error="" if receipt is None else describe(receipt),
    )
