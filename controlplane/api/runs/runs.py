"""The runs that clients listen to: how they begin, are taken up again, are interrupted and end."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from controlplane.api.edge.bodies import MAX_CODE_BYTES
from controlplane.api.runs.default_contexts import DEFAULT_LANGUAGE, Contexts, default_context_id, language_of
from controlplane.api.runs.receipt import Receipt
from controlplane.api.runs.recording import Resumed, place_of, recorded
from controlplane.api.runs.replies import Replies
from controlplane.api.runs.run import Kind, Run
from controlplane.errors import AgentError, InvalidRequest
from controlplane.link.stream import Stream
from controlplane.telemetry.metrics import Metrics
from controlplane.telemetry.tracing import SILENT, Attributes, Tracer
from execd.wire.messages import (
    ContextInput,
    ContextInterrupt,
    ContextRun,
    Done,
    ProcessStart,
    RunEnd,
    SessionInterrupt,
    SessionRun,
)

if TYPE_CHECKING:
    from controlplane.link.relay import Relay


SESSION_LANGUAGE = "bash"
# The variable by which a program continues the trace of who started it (OpenTelemetry, "Environment Variables as
# Context Propagation Carriers").
TRACEPARENT = "TRACEPARENT"


class Code(NamedTuple):
    """Code that a client wants to run: in a context, or in the default context of a language."""

    code: str
    context: str = ""
    language: str = ""
    timeout_s: float | None = None  # see `Runs.limit`
    allow_input: bool = False


class Runs:
    """All runs that clients of this server listen to.

    `timeout_s` limits runs that set no limit of their own; None leaves them free.
    """

    def __init__(
        self, relay: Relay, timeout_s: float | None, metrics: Metrics | None = None, tracer: Tracer = SILENT
    ) -> None:
        self._tracer = tracer
        self.contexts = Contexts(relay)
        self._relay = relay
        self._timeout_s = timeout_s
        self._metrics = metrics or Metrics()
        self._runs: dict[tuple[str, str], Run] = {}  # by sandbox and id, in the order in which they began

    def limit(self, timeout_s: float | None = None, *, ms: int | None = None) -> float | None:
        """Return the time limit of a run whose client names one, in seconds or milliseconds; 0 names none."""
        if ms:
            timeout_s = ms / 1000
        return round(timeout_s or 0, 3) or self._timeout_s

    async def begin_command(
        self, sandbox_id: str, start: ProcessStart, *, keep_s: int = 0, lines: bool, with_input: bool = False
    ) -> Run:
        """Begin a command. For arguments and duties see `begin_code`; errors as of `Relay.open`."""
        if traceparent := self._tracer.traceparent():
            start = replace(start, env={TRACEPARENT: traceparent, **start.env})
        request = recorded(start.id, start, keep_s, lines=lines)
        stream = await self._relay.open(sandbox_id, request, with_input=with_input)
        return self._add(Run(start.id, sandbox_id, "process", "", start.timeout_s, Replies(stream)))

    async def begin_in_session(self, sandbox_id: str, message: SessionRun, *, keep_s: int = 0) -> Run:
        """Begin a run in a session. For arguments and duties see `begin_code`; errors as of `Relay.begin`."""
        run_id = uuid.uuid4().hex
        request = recorded(run_id, message, keep_s, lines=True)
        stream, _ = await self._relay.begin(sandbox_id, request, Done)
        replies = Replies(stream)
        return self._add(
            Run(run_id, sandbox_id, "session", message.id, message.timeout_s, replies, language=SESSION_LANGUAGE)
        )

    async def begin_code(self, sandbox_id: str, code: Code, *, keep_s: int = 0, lines: bool = False) -> Run:
        """Begin a run of code, which the caller reads; `end` must follow.

        Args:
            sandbox_id: The sandbox to run in.
            code: The code, and where it runs.
            keep_s: How long the run outlives its reader.
            lines: See `RunRecord`.

        Raises:
            InvalidRequest: the code is too large, or the language cannot be one.
            AgentError, NotFound, Conflict, LinkLost: as of `Contexts.ensure`.
        """
        if len(code.code.encode()) > MAX_CODE_BYTES:
            raise InvalidRequest(f"code: is larger than {MAX_CODE_BYTES} bytes", code="request.body")
        began = time.perf_counter()
        is_default = not code.context or code.context == default_context_id(code.language or DEFAULT_LANGUAGE)
        language = language_of(code.language) if is_default else ""
        context_id = code.context or default_context_id(language)
        run_id = uuid.uuid4().hex
        message = ContextRun(context_id, code.code, code.timeout_s, code.allow_input)
        request = recorded(run_id, message, keep_s, lines=lines)

        async def begin() -> Stream:
            await self.contexts.ensure(sandbox_id, context_id, language)
            return await self._relay.open(sandbox_id, request)

        replies = Replies(
            await begin(),
            retry=begin if language else None,
            forget=partial(self.contexts.discard, sandbox_id, context_id),
            on_first=partial(self._first_value, sandbox_id, began) if self._metrics.is_first(sandbox_id) else None,
        )
        language = self.contexts.language(sandbox_id, context_id)
        return self._add(Run(run_id, sandbox_id, "context", context_id, code.timeout_s, replies, language=language))

    def take_up(self, resumed: Resumed) -> Run:
        """Return a recorded run that a client goes on reading; `end` must follow."""
        state = resumed.state
        kind: Kind = "context" if state.kind == "context" else "session" if state.kind == "session" else "process"
        forget = partial(self.contexts.discard, resumed.sandbox_id, state.place) if kind == "context" else None
        replies = Replies(resumed.stream, forget=forget)
        return self._add(
            Run(
                resumed.run_id,
                resumed.sandbox_id,
                kind,
                state.place,
                state.timeout_s,
                replies,
                state,
                is_from_start=resumed.is_from_start,
                language=self._language(resumed.sandbox_id, kind, state.place),
            )
        )

    def end(self, run: Run) -> None:
        """Stop reading a run. A run that still goes on, and is not recorded, is interrupted."""
        if self._runs.get((run.sandbox_id, run.id)) is run:  # else another client has taken it up
            del self._runs[run.sandbox_id, run.id]
        self._count(run)
        run.stream.close()

    async def interrupt_code(self, sandbox_id: str, wanted: str) -> None:
        """Interrupt a run of code, or whatever runs in a context now; the id may be of either."""
        run = self._find(sandbox_id, wanted, "context")
        if run is not None:
            if not self._is_first(run):
                # The run waits for its turn: to interrupt its context would hit the run before it.
                run.is_interrupted = True
                run.stream.close()
                if run.stream.is_recorded:
                    await self._relay.call(sandbox_id, RunEnd(run.id), Done)
                return
            wanted = run.place
        await self._ask(sandbox_id, wanted, ContextInterrupt)

    async def answer(self, sandbox_id: str, wanted: str, text: str | None) -> None:
        """Answer a run that asked for input; the id may be of the run or of its context."""
        run = self._find(sandbox_id, wanted, "context")
        await self._ask(sandbox_id, wanted if run is None else run.place, lambda context: ContextInput(context, text))

    async def interrupt_in_session(self, sandbox_id: str, run_id: str) -> bool:
        """Interrupt a run in a session. Return whether the id is of such a run."""
        run = self._find(sandbox_id, run_id, "session")
        session_id = await place_of(self._relay, sandbox_id, run_id, "session") if run is None else run.place
        if session_id is None:
            return False
        await self._relay.call(sandbox_id, SessionInterrupt(session_id), Done)
        return True

    # -- inside

    def _language(self, sandbox_id: str, kind: Kind, place: str) -> str:
        if kind == "session":
            return SESSION_LANGUAGE
        return self.contexts.language(sandbox_id, place) if kind == "context" else ""

    def _first_value(self, sandbox_id: str, began: float) -> None:
        self._metrics.first_value(sandbox_id, time.perf_counter() - began)

    def _count(self, run: Run) -> None:
        """Count a run that ended, or that goes on or is interrupted because its client left."""
        ending, stream = run.replies.ending, run.stream
        if ending is not None and ending.receipt is not None:
            receipt = ending.receipt
        elif ending is not None:
            receipt = Receipt("interrupted" if run.is_interrupted else "refused", 0.0, 0.0, 0, 0)
        else:
            cause = "left" if stream.is_recorded else "abandoned"
            receipt = Receipt(cause, time.perf_counter() - run.began, 0.0, 0, stream.data_bytes)
        if stream.span is not None:
            self._tracer.ended("run", _attributes(run, receipt), receipt.wall_s, below=stream.span)
        self._metrics.run_ended(
            run.kind,
            run.language,
            receipt.cause,
            wall_s=receipt.wall_s,
            cpu_s=receipt.cpu_s,
            output_bytes=receipt.output_bytes,
        )

    def _add(self, run: Run) -> Run:
        self._runs[run.sandbox_id, run.id] = run
        return run

    def _find(self, sandbox_id: str, run_id: str, kind: Kind) -> Run | None:
        run = self._runs.get((sandbox_id, run_id))
        return run if run is not None and run.kind == kind else None

    async def _ask(
        self, sandbox_id: str, wanted: str, message: Callable[[str], ContextInterrupt | ContextInput]
    ) -> None:
        """Send a message about a context, or about the context of a recorded run that has no reader here."""
        try:
            await self._relay.call(sandbox_id, message(wanted), Done)
        except AgentError as error:
            context_id = await place_of(self._relay, sandbox_id, wanted, "context")
            if error.code != "context.not_found" or context_id is None:
                raise
            await self._relay.call(sandbox_id, message(context_id), Done)

    def _is_first(self, run: Run) -> bool:
        """Return whether no run of ours waits or goes on in the same context before this one."""
        return run is next(
            other
            for other in self._runs.values()
            if (other.kind, other.sandbox_id, other.place) == (run.kind, run.sandbox_id, run.place)
        )


def _attributes(run: Run, receipt: Receipt) -> Attributes:
    """Return what a trace tells of a run."""
    return {
        "sandlot.kind": run.kind,
        "sandlot.language": run.language,
        "sandlot.cause": receipt.cause,
        "sandlot.cpu_s": receipt.cpu_s,
        "sandlot.peak_memory_bytes": receipt.peak_memory_bytes,
        "sandlot.output_bytes": receipt.output_bytes,
    }
