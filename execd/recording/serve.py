"""The handlers of the requests about recorded runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from execd.dispatch import CarryOut, Handler, RunHandler, directly
from execd.errors import ExecdError
from execd.recording.recording import Budget, Recording
from execd.wire.aio import Stream
from execd.wire.frames import Channel
from execd.wire.messages import (
    ContextRun,
    Done,
    Problem,
    ProcessStart,
    RecordedRequest,
    Request,
    RunEnd,
    RunFind,
    RunRecord,
    RunResume,
    RunState,
    SandboxClaim,
    SessionRun,
)

log = logging.getLogger("execd")

# Of one sandbox, ended runs included. An ended run makes room for a new one, a run that goes on does not.
MAX_RUNS = 64


class _Run:
    """A recorded run: its recording, and the task that carries the run out."""

    def __init__(self, request: RunRecord, recording: Recording) -> None:
        self.request = request
        self.recording = recording
        self.task: asyncio.Task[None]

    def state(self, after: int) -> RunState:
        """Return the state for a reader that has all items up to a number."""
        kind, place = _kind_and_place(self.request.request)
        recording = self.recording
        return RunState(
            kind,
            place,
            self.request.lines,
            self.request.request.timeout_s,
            recording.tails(Channel.STDOUT, after),
            recording.tails(Channel.STDERR, after),
            recording.has_raised(after),
            recording.has_counted(after),
            recording.is_at_end(after),
        )


class Recordings:
    """The recorded runs. Each is carried out by the handler that serves the same run without a recording."""

    def __init__(self, handlers: Mapping[type[Request], RunHandler], carry_out: CarryOut = directly) -> None:
        """Create an empty table.

        *handlers* has the handler of each request that can be recorded; *carry_out* is told of each run.
        """
        self._handlers = handlers
        self._carry_out_by = carry_out
        self._budget = Budget()
        self._runs: dict[str, _Run] = {}  # by id, the oldest first

    def handlers(self) -> dict[type[Request], Handler]:
        """Return the handler of each request."""
        return {RunRecord: self._record, RunResume: self._resume, RunFind: self._find_run, RunEnd: self._end}

    def take_settings(self, claim: SandboxClaim) -> None:
        """Take the limit on the memory of all recordings from a claim."""
        if claim.max_recorded_bytes:
            self._budget.max_bytes = claim.max_recorded_bytes

    async def _record(self, stream: Stream, request: RunRecord) -> None:
        _check(request.request)
        self._make_place(request.id)
        run_id = request.id
        recording = Recording(self._budget, request.keep_s, lambda: self._forget(run_id), lines=request.lines)
        run = self._runs[run_id] = _Run(request, recording)
        run.task = asyncio.get_running_loop().create_task(self._carry_out(run, stream.actor))
        await recording.play(stream, 0)

    async def _resume(self, stream: Stream, request: RunResume) -> None:
        run = self._find(request.id)
        run.recording.check(request.after)
        await stream.send(run.state(request.after))
        await run.recording.play(stream, request.after)

    async def _find_run(self, stream: Stream, request: RunFind) -> None:
        await stream.send(self._find(request.id).state(0))

    async def _end(self, stream: Stream, request: RunEnd) -> None:
        self._find(request.id)
        self._forget(request.id)
        await stream.send(Done())

    async def _carry_out(self, run: _Run, actor: str) -> None:
        request, recording = run.request.request, run.recording
        try:
            if isinstance(request, ContextRun):
                await recording.send(Done())  # the handlers of the other requests send this themselves
            await self._carry_out_by(self._handlers[type(request)], recording, request, actor, run.request.id)
            recording.end()
        except ExecdError as error:
            self._fail(run, Problem(error.code, error.message))
        except Exception as error:
            log.exception("a recorded run failed")
            self._fail(run, Problem("internal", f"{type(error).__name__}: {error}"))

    def _fail(self, run: _Run, problem: Problem) -> None:
        if run.recording.fail(problem):
            self._forget(run.request.id)

    def _find(self, run_id: str) -> _Run:
        try:
            return self._runs[run_id]
        except KeyError:
            raise ExecdError("run.not_found", f"run {run_id[:64]} is not recorded") from None

    def _make_place(self, run_id: str) -> None:
        if run_id in self._runs:
            raise ExecdError("run.duplicate", f"run {run_id[:64]} is recorded already")
        if len(self._runs) < MAX_RUNS:
            return
        for oldest, run in self._runs.items():
            if run.recording.is_over and not run.recording.has_reader:
                self._forget(oldest)
                return
        raise ExecdError("run.too_many", f"{MAX_RUNS} recorded runs may go on at once in a sandbox; end one of them")

    def _forget(self, run_id: str) -> None:
        """End a run if it still goes on, and forget its recording."""
        run = self._runs.pop(run_id)
        run.recording.send_away("run.not_found", f"run {run_id[:64]} was ended")
        run.recording.close()
        run.task.cancel()


def _check(request: RecordedRequest) -> None:
    if isinstance(request, ProcessStart) and (request.background or request.stdin):
        raise ExecdError("request.invalid", "only a foreground process without stdin can be recorded")


def _kind_and_place(request: RecordedRequest) -> tuple[str, str]:
    match request:
        case ContextRun(id=id):
            return "context", id
        case SessionRun(id=id):
            return "session", id
    return "process", ""
