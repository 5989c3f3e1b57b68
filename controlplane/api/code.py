"""`/code`: stateful code in contexts, and the contexts themselves."""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import sse
from controlplane.api.schema import (
    MAX_CODE_BYTES,
    ContextView,
    InputAnswer,
    OpenContextRequest,
    Receipt,
    RunCodeRequest,
    frames_of,
    json_answer,
    read_json,
    receipt_of,
    required,
)
from controlplane.api.streaming import Sink, StreamResponse
from controlplane.errors import AgentError, InvalidRequest, LinkLost, SandlotError
from controlplane.link.stream import Stream
from execd.wire.messages import (
    ContextClose,
    ContextDone,
    ContextError,
    ContextInput,
    ContextInterrupt,
    ContextList,
    ContextOpen,
    ContextPrompt,
    ContextResult,
    ContextRun,
    ContextState,
    Done,
)

if TYPE_CHECKING:
    from controlplane.api.resume import EventStreams
    from controlplane.link.relay import Relay

DEFAULT_LANGUAGE = "python"
MAX_KNOWN_CONTEXTS = 10_000
MAX_LISTED_CONTEXTS = 10_000


class Run:
    """One run of code, while its client listens."""

    def __init__(
        self,
        *,
        sandbox_id: str,
        context_id: str,
        language: str,
        code: str,
        timeout_s: float | None,
        allow_input: bool = False,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.sandbox_id = sandbox_id
        self.context_id = context_id
        self.language = language  # of its default context; "" when the client named a context
        self.code = code
        self.timeout_s = timeout_s
        self.allow_input = allow_input
        self.stream: Stream
        self.is_interrupted = False
        self.is_retried = False


class Codes:
    """The endpoints. `timeout_s` limits runs that set no limit of their own; None leaves them free."""

    def __init__(self, relay: Relay, events: EventStreams, timeout_s: float | None) -> None:
        self._relay = relay
        self._events = events
        self._timeout_s = timeout_s
        self._contexts = Contexts(relay)
        self._runs: dict[str, Run] = {}  # by id, in the order in which they came

    async def run(self, request: Request) -> StreamResponse:
        """POST /code: run it and stream its events."""
        # The JSON of 16 MiB of code may be larger: every character escaped.
        body = await read_json(request, RunCodeRequest, limit=2 * MAX_CODE_BYTES)
        run = await self.begin(request.path_params["sandbox_id"], body)
        return self._events.respond(request, run.id, partial(self._stream, run), close=partial(self.end, run))

    async def begin(self, sandbox_id: str, body: RunCodeRequest) -> Run:
        """Begin a run, whose stream the caller reads; `end` must follow. Errors as of `Contexts.ensure`."""
        if len(body.code.encode()) > MAX_CODE_BYTES:
            raise InvalidRequest(f"code: is larger than {MAX_CODE_BYTES} bytes", code="request.body")
        reference = body.context
        named = (reference and reference.id) or ""
        language = "" if named else _language(reference.language if reference else None)
        run = Run(
            sandbox_id=sandbox_id,
            context_id=named or default_context_id(language),
            language=language,
            code=body.code,
            timeout_s=body.timeout / 1000 if body.timeout else self._timeout_s,
            allow_input=body.allow_input,
        )
        await self._contexts.ensure(run.sandbox_id, run.context_id, language)
        run.stream = await self._open(run)
        self._runs[run.id] = run
        return run

    def end(self, run: Run) -> None:
        """Nobody listens to a run any more: one that still goes on is interrupted."""
        self._runs.pop(run.id, None)
        run.stream.close()

    async def interrupt(self, request: Request) -> Response:
        """DELETE /code?id=: interrupt a run, or whatever runs in a context now; the id may be of either."""
        sandbox_id, wanted = request.path_params["sandbox_id"], required(request, "id")
        run = self._runs.get(wanted)
        if run is not None and run.sandbox_id == sandbox_id:
            if not self._is_first(run):
                # It waits for its turn: interrupting its context would hit the run before it.
                run.is_interrupted = True
                run.stream.close()
                return Response()
            wanted = run.context_id
        await self._relay.call(sandbox_id, ContextInterrupt(wanted), Done)
        return Response()

    async def answer_input(self, request: Request) -> Response:
        """POST /code/input?id=: answer a run that asked for input; the id may be of the run or of its context."""
        body = await read_json(request, InputAnswer)
        sandbox_id, wanted = request.path_params["sandbox_id"], required(request, "id")
        run = self._runs.get(wanted)
        context_id = run.context_id if run is not None and run.sandbox_id == sandbox_id else wanted
        await self._relay.call(sandbox_id, ContextInput(context_id, body.text), Done)
        return Response()

    async def create_context(self, request: Request) -> Response:
        """POST /code/context."""
        body = await read_json(request, OpenContextRequest)
        opening = ContextOpen(id=uuid.uuid4().hex, language=_language(body.language), cwd=body.cwd or "")
        if "\0" in opening.cwd:
            raise InvalidRequest("cwd: must not contain NUL", code="request.body")
        sandbox_id = request.path_params["sandbox_id"]
        state = await self._relay.call(sandbox_id, opening, ContextState)
        self._contexts.add(sandbox_id, state.id)
        return json_answer(ContextView(state.id, state.language))

    async def list_contexts(self, request: Request) -> Response:
        """GET /code/contexts?language=: all, or those of a language."""
        message = ContextList(language=request.query_params.get("language", ""))
        states: list[ContextView] = []
        async with await self._relay.open(request.path_params["sandbox_id"], message) as stream:
            while (state := await stream.receive()) is not None:
                if not isinstance(state, ContextState) or len(states) == MAX_LISTED_CONTEXTS:
                    raise LinkLost("the agent sent no list of contexts")
                states.append(ContextView(state.id, state.language))
        return json_answer(states)

    async def get_context(self, request: Request) -> Response:
        """GET /code/contexts/{id}."""
        message = ContextList(id=request.path_params["context_id"])
        state = await self._relay.call(request.path_params["sandbox_id"], message, ContextState)
        return json_answer(ContextView(state.id, state.language))

    async def delete_context(self, request: Request) -> Response:
        """DELETE /code/contexts/{id}."""
        sandbox_id, context_id = request.path_params["sandbox_id"], request.path_params["context_id"]
        self._contexts.discard(sandbox_id, context_id)
        await self._relay.call(sandbox_id, ContextClose(id=context_id), Done)
        return Response()

    async def delete_contexts(self, request: Request) -> Response:
        """DELETE /code/contexts?language=."""
        message = ContextClose(language=required(request, "language"))
        await self._relay.call(request.path_params["sandbox_id"], message, Done)
        return Response()

    # -- inside

    def _is_first(self, run: Run) -> bool:
        """Whether no run of ours waits or goes on in the same context before this one."""
        return run is next(
            other
            for other in self._runs.values()
            if (other.sandbox_id, other.context_id) == (run.sandbox_id, run.context_id)
        )

    async def _open(self, run: Run) -> Stream:
        return await self._relay.open(
            run.sandbox_id, ContextRun(run.context_id, run.code, run.timeout_s, run.allow_input)
        )

    async def _stream(self, run: Run, sink: Sink) -> None:
        """Stream a run from its start to its end. Leaving early interrupts it."""
        await sink.write(sse.init_event(run.id))
        output = sse.Output()
        failed = counted = False
        while True:
            try:
                batch, message = await sse.receive_batch(run.stream, sink)
            except SandlotError as error:
                if await self.is_restarted(run, error):
                    continue
                await sink.finish(output.flush() + _failure_event(run, error))
                return
            events = output.feed(batch)
            match message:
                case ContextDone():
                    if message.died_of:
                        self._contexts.discard(run.sandbox_id, run.context_id)
                    if message.execution_count and not counted:
                        events += sse.count_event(message.execution_count)
                    end = _end_events(message, failed=failed, timeout_s=run.timeout_s)
                    await sink.finish(events + output.flush() + end)
                    await run.stream.receive()
                    return
                case ContextResult():
                    if message.execution_count and not counted:
                        counted = True
                        events += sse.count_event(message.execution_count)
                    events += sse.result_event(message.data, message.display_id, update=message.update)
                case ContextPrompt():
                    events += output.flush() + sse.input_event(message.prompt, password=message.password)
                case ContextError():
                    failed = True
                    frames = frames_of(message)
                    events += sse.error_event(message.name, message.value, message.traceback, frames=frames)
                case None if not batch:
                    raise LinkLost("the agent ended a run without saying how")
            await sink.write(events)

    async def is_restarted(self, run: Run, error: SandlotError) -> bool:
        """A default context that has gone since it was last seen is made again, and the run begun again, once."""
        if not (isinstance(error, AgentError) and error.code == "context.not_found") or run.is_retried:
            return False
        self._contexts.discard(run.sandbox_id, run.context_id)
        if not run.language:
            return False
        run.is_retried = True
        try:
            await self._contexts.ensure(run.sandbox_id, run.context_id, run.language)
            run.stream.close()
            run.stream = await self._open(run)
        except SandlotError:
            return False
        return True


class Contexts:
    """Which contexts are known to exist, so that a run needs no question before it; and the default ones."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._opening: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def add(self, sandbox_id: str, context_id: str) -> None:
        """This context exists."""
        self._known[sandbox_id, context_id] = None
        self._known.move_to_end((sandbox_id, context_id))
        if len(self._known) > MAX_KNOWN_CONTEXTS:
            self._known.popitem(last=False)

    def discard(self, sandbox_id: str, context_id: str) -> None:
        """This context has gone, or may have."""
        self._known.pop((sandbox_id, context_id), None)

    async def ensure(self, sandbox_id: str, context_id: str, language: str) -> None:
        """Return when the context exists: one with a language is made if need be, once, whoever asks first.

        Raises:
            AgentError: it does not exist, or cannot be made.
            NotFound, Conflict, LinkLost: as `Relay.open`.
        """
        key = (sandbox_id, context_id)
        if key in self._known:
            return
        if not language:
            await self._relay.call(sandbox_id, ContextList(id=context_id), ContextState)
            self.add(*key)
            return
        lock = self._opening.setdefault(key, asyncio.Lock())
        async with lock:
            if key in self._known:
                return
            try:
                await self._relay.call(sandbox_id, ContextOpen(id=context_id, language=language), ContextState)
            except AgentError as error:
                # It was there already: made before this control plane was started.
                if error.code != "context.duplicate":
                    raise
            self.add(*key)


def default_context_id(language: str) -> str:
    """Return the id of the context in which code runs that names none."""
    return f"default-{language}"


def _language(language: str | None) -> str:
    language = (language or DEFAULT_LANGUAGE).strip().lower()
    if not language.isascii() or not language.replace("-", "").isalnum() or len(language) > 32:
        raise InvalidRequest(f"language: {language[:64]!r} is not a language", code="request.body")
    return language


def _end_events(done: ContextDone, *, failed: bool, timeout_s: float | None) -> bytes:
    """Return the events of the end of a run: the cause, unless the code's own error has told it, then `complete`."""
    events = b""
    match done.cause:
        case "timeout":
            limit = f" after {timeout_s:g} s" if timeout_s else ""
            lost = ", and its context with it" if done.died_of else ""
            events = sse.error_event("TimeoutError", f"the run was stopped{limit}{lost}")
        case "died":
            events = sse.error_event("ContextDied", done.message or "the interpreter ended during the run")
        case "interrupted" if not failed:
            events = sse.error_event("KeyboardInterrupt", done.message or "the run was interrupted")
        case "error" | "oom" if not failed and done.exit_code:  # a shell
            why = sse.OUT_OF_MEMORY if done.cause == "oom" else f"exit status {done.exit_code}"
            events = sse.error_event(sse.COMMAND_ERROR, str(done.exit_code), [why])
        case "error" if not failed:
            events = sse.error_event("Error", done.message or "the run failed")
    return events + sse.complete_event(done.wall_s, receipt_of(done))


def _failure_event(run: Run, error: SandlotError) -> bytes:
    if run.is_interrupted:
        why = "the run was interrupted while it waited for its turn"
        return sse.error_event("KeyboardInterrupt", why, receipt=Receipt("interrupted", 0.0, 0.0, 0, 0))
    return sse.failure_event(error, run.stream)
