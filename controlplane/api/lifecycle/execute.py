"""`POST /contexts/execute`: run code and answer once, when it is over. For callers that want no stream of events."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from controlplane.access.scopes import Needs
from controlplane.api.edge.bodies import MAX_CODE_BYTES, read_json
from controlplane.api.edge.guard import Guard
from controlplane.api.edge.notes import note
from controlplane.api.edge.responses import while_connected
from controlplane.api.runs.large_json import encode
from controlplane.api.runs.receipt import CodeFrameView, Receipt, frames_of
from controlplane.api.runs.replies import Ended, Lost, Raised, Result
from controlplane.api.runs.run import Run
from controlplane.api.runs.runs import Code, Runs
from controlplane.errors import InvalidRequest
from execd.wire.frames import Channel
from execd.wire.utf8 import MAX_CHARACTER_BYTES, unfinished

# Of each stream, and of all results together; what is beyond is dropped, and the answer says so.
MAX_OUTPUT_BYTES = 1 << 20
MAX_RESULT_CHARS = 16 << 20
RESULT_CHARS = 256  # what each result counts beside its content


class ExecuteRequest(msgspec.Struct, frozen=True):
    """The body of POST /contexts/execute: code, and a context by its id or the default context of a language."""

    sandbox_id: Annotated[str, Meta(min_length=1, max_length=64)]
    code: str
    context_id: str = ""
    language: str = ""  # python, when no context is named either
    timeout: Annotated[int, Meta(ge=0)] | None = None  # ms; 0 is none


class ResultView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A displayed value: MIME type → text, binary types in base64. `kind` is `result` or `display`."""

    kind: str
    data: dict[str, str]
    display_id: str = ""  # of a display that was updated later: by another one with this id, and `update`
    update: bool = False


class ErrorView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The error that the code raised."""

    name: str
    value: str
    traceback: tuple[str, ...]
    frames: tuple[CodeFrameView, ...] = ()  # the innermost last


class Executed(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The whole result of a run. Causes of the `receipt`: ok, error, interrupted, timeout, oom, died, link_lost."""

    context_id: str
    stdout: str
    stderr: str
    results: list[ResultView]
    execution_count: int = 0
    error: ErrorView | None = None
    message: str = ""  # why its context died, or the link to the sandbox was lost
    truncated: tuple[str, ...] = ()  # of stdout, stderr, results: those that were cut
    receipt: Receipt


class Execution:
    """The endpoint."""

    def __init__(self, runs: Runs, guard: Guard) -> None:
        self._runs = runs
        self._guard = guard

    async def execute(self, request: Request) -> Response:
        """Run code in a sandbox, and return the whole result in one answer."""
        body = await read_json(request, ExecuteRequest, limit=2 * MAX_CODE_BYTES)
        self._guard.check_sandbox(request, body.sandbox_id, Needs.USE)
        note(request.scope, sandbox=body.sandbox_id)
        if body.context_id and body.language:
            raise InvalidRequest("context_id and language: only one of them", code="request.body")
        code = Code(body.code, body.context_id, body.language, self._runs.limit(ms=body.timeout))
        run = await self._runs.begin_code(body.sandbox_id, code)
        try:
            executed = await while_connected(request, _collect(run))
            return Response(await encode(executed, _chars(executed)), media_type="application/json")
        finally:
            self._runs.end(run)


async def _collect(run: Run) -> Executed:
    """Take in all that a run says, or said until its link was lost. Raises what else broke the run off."""
    outputs = {Channel.STDOUT: bytearray(), Channel.STDERR: bytearray()}
    results: list[ResultView] = []
    result_chars = 0
    error: ErrorView | None = None
    truncated: dict[str, None] = {}

    def executed(receipt: Receipt, *, message: str, execution_count: int = 0) -> Executed:
        return Executed(
            context_id=run.place,
            stdout=_text(outputs[Channel.STDOUT], is_cut="stdout" in truncated),
            stderr=_text(outputs[Channel.STDERR], is_cut="stderr" in truncated),
            results=results,
            execution_count=execution_count,
            error=error,
            message=message,
            truncated=tuple(truncated),
            receipt=receipt,
        )

    while True:
        output, said = await run.replies.receive()
        for channel, data in output:
            kind = Channel.STDERR if channel == Channel.STDERR else Channel.STDOUT
            room = MAX_OUTPUT_BYTES - len(outputs[kind])
            outputs[kind] += data[:room]
            if len(data) > room:
                truncated[kind.name.lower()] = None
        match said:
            case Result():
                result_chars += RESULT_CHARS + sum(len(mime) + len(text) for mime, text in said.data.items())
                if result_chars > MAX_RESULT_CHARS:
                    truncated["results"] = None
                else:
                    results.append(ResultView(said.kind, said.data, said.display_id, said.update))
            case Raised():
                error = ErrorView(said.name, said.value, said.traceback, frames_of(said))
            case Ended():
                await run.replies.drain()
                return executed(said.receipt, message=said.message, execution_count=said.execution_count)
            case Lost(error=failure, receipt=receipt):
                if receipt is None:
                    raise failure
                return executed(receipt, message=failure.message)


def _chars(executed: Executed) -> int:
    texts = [executed.stdout, executed.stderr, *(text for result in executed.results for text in result.data.values())]
    if executed.error is not None:
        texts += (executed.error.value, *executed.error.traceback)
    return sum(map(len, texts))


def _text(output: bytearray, *, is_cut: bool) -> str:
    """Decode an output; of one that is cut, only whole characters."""
    end = len(output) - unfinished(output[-MAX_CHARACTER_BYTES:]) if is_cut else None
    return output[:end].decode(errors="replace")
