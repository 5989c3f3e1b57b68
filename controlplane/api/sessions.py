"""`/session`: live bash, in which functions, variables, jobs and the directory last from run to run."""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import sse
from controlplane.api.schema import (
    OpenSessionRequest,
    RunInSessionRequest,
    SessionView,
    json_answer,
    read_json,
    read_optional_json,
    receipt_of,
)
from controlplane.api.streaming import Sink, StreamResponse
from controlplane.errors import InvalidRequest, LinkLost, SandlotError
from controlplane.link.stream import Stream
from execd.wire.messages import (
    ContextDone,
    ContextError,
    Done,
    SessionClose,
    SessionInterrupt,
    SessionOpen,
    SessionRun,
)

if TYPE_CHECKING:
    from controlplane.api.resume import EventStreams
    from controlplane.link.relay import Relay

# What `timeout` of the GNU coreutils exits with.
TIMED_OUT = 124
INTERRUPTED = 130


class Sessions:
    """The endpoints. `timeout_s` limits runs that set no limit of their own; None leaves them free."""

    def __init__(self, relay: Relay, events: EventStreams, timeout_s: float | None) -> None:
        self._relay = relay
        self._events = events
        self._timeout_s = timeout_s
        self._runs: dict[tuple[str, str], str] = {}  # (sandbox, run) → session, while the client of the run listens

    async def create(self, request: Request) -> Response:
        """POST /session. The body may be empty."""
        wish = await read_optional_json(request, OpenSessionRequest)
        session_id = uuid.uuid4().hex
        opening = SessionOpen(session_id, _directory(wish.cwd))
        await self._relay.call(request.path_params["sandbox_id"], opening, Done)
        return json_answer(SessionView(session_id))

    async def run(self, request: Request) -> StreamResponse:
        """POST /session/{id}/run: run it and stream its events, as those of a command."""
        body = await read_json(request, RunInSessionRequest)
        if not body.command.strip() or "\0" in body.command:
            raise InvalidRequest("command: must not be empty, nor contain NUL", code="request.body")
        session_id = request.path_params["session_id"]
        timeout_s = body.timeout / 1000 if body.timeout else self._timeout_s
        return await self.stream(request, SessionRun(session_id, body.command, _directory(body.cwd), timeout_s))

    async def stream(self, request: Request, message: SessionRun) -> StreamResponse:
        """Begin a run in a session; stream its events."""
        sandbox_id = request.path_params["sandbox_id"]
        stream = await self._relay.open(sandbox_id, message)
        try:
            await stream.expect(Done)
        except BaseException:
            stream.close()
            raise
        run = (sandbox_id, uuid.uuid4().hex)
        self._runs[run] = message.id

        def close() -> None:
            self._runs.pop(run, None)
            stream.close()

        return self._events.respond(request, run[1], partial(_stream, run[1], message.timeout_s, stream), close=close)

    async def delete(self, request: Request) -> Response:
        """DELETE /session/{id}."""
        message = SessionClose(request.path_params["session_id"])
        await self._relay.call(request.path_params["sandbox_id"], message, Done)
        return Response()

    async def interrupt(self, sandbox_id: str, run_id: str) -> bool:
        """Interrupt a run, if that is one of ours."""
        session_id = self._runs.get((sandbox_id, run_id))
        if session_id is None:
            return False
        await self._relay.call(sandbox_id, SessionInterrupt(session_id), Done)
        return True


def _directory(cwd: str | None) -> str:
    if "\0" in (cwd or ""):
        raise InvalidRequest("cwd: must not contain NUL", code="request.body")
    return cwd or ""


async def _stream(run_id: str, timeout_s: float | None, stream: Stream, sink: Sink) -> None:
    """Stream a run from its start to its end. Leaving early interrupts it."""
    await sink.write(sse.init_event(run_id))
    output = sse.Output()
    while True:
        try:
            batch, message = await sse.receive_batch(stream, sink)
        except SandlotError as error:
            await sink.finish(output.flush() + sse.failure_event(error, stream))
            return
        events = output.feed(batch)
        match message:
            case ContextDone():
                await sink.finish(events + output.flush() + _end_event(message, timeout_s))
                await stream.receive()
                return
            case ContextError():
                events += sse.error_event(message.name, message.value, message.traceback)
            case None if not batch:
                raise LinkLost("the agent ended a run without saying how")
        await sink.write(events)


def _end_event(done: ContextDone, timeout_s: float | None) -> bytes:
    match done.cause:
        case "ok":
            return sse.complete_event(done.wall_s, receipt_of(done))
        case "timeout":
            code, why = TIMED_OUT, "timed out" + (f" after {timeout_s:g} s" if timeout_s else "")
        case "interrupted":
            code, why = INTERRUPTED, "interrupted"
        case "died":
            code, why = done.exit_code, f"the shell has ended: {done.message}"
        case "oom":
            code, why = done.exit_code, sse.OUT_OF_MEMORY
        case _:
            code, why = done.exit_code, f"exit status {done.exit_code}"
    return sse.error_event(sse.COMMAND_ERROR, str(code), [why], receipt_of(done))
