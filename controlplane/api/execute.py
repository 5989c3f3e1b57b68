"""`POST /contexts/execute`: run code and answer once, when it is over. For callers that want no stream of events."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.code import Codes, Run
from controlplane.api.schema import (
    MAX_CODE_BYTES,
    CodeFrameView,
    ContextReference,
    Receipt,
    RunCodeRequest,
    frames_of,
    json_answer,
    read_json,
    receipt_of,
    receipt_of_lost,
)
from controlplane.api.streaming import while_connected
from controlplane.errors import InvalidRequest, LinkLost, SandlotError
from execd.wire.aio import Data
from execd.wire.frames import Channel
from execd.wire.messages import ContextDone, ContextError, ContextResult

# Of each stream, and of all results together; what is beyond is dropped, and the answer says so.
MAX_OUTPUT_BYTES = 1 << 20
MAX_RESULT_CHARS = 16 << 20
RESULT_CHARS = 256  # what each result counts beside its content


class ExecuteRequest(msgspec.Struct, frozen=True):
    """What to run, and where: in a context by its id, or in the default one of a language."""

    sandbox_id: Annotated[str, Meta(min_length=1, max_length=64)]
    code: str
    context_id: str = ""
    language: str = ""  # python, when no context is named either
    timeout: Annotated[int, Meta(ge=0)] | None = None  # ms; 0 is none


class ResultView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value shown: MIME type → text, binary types in base64. `kind` is `result` or `display`."""

    kind: str
    data: dict[str, str]
    display_id: str = ""  # of a display that was updated later: by another one with this id, and `update`
    update: bool = False


class ErrorView(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the code raised."""

    name: str
    value: str
    traceback: tuple[str, ...]
    frames: tuple[CodeFrameView, ...] = ()  # the innermost last


class Executed(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """All that a run gave. Its `receipt` says how it ended: ok, error, interrupted, timeout, oom, died, link_lost."""

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

    def __init__(self, codes: Codes) -> None:
        self._codes = codes

    async def execute(self, request: Request) -> Response:
        """POST /contexts/execute."""
        body = await read_json(request, ExecuteRequest, limit=2 * MAX_CODE_BYTES)
        if body.context_id and body.language:
            raise InvalidRequest("context_id and language: only one of them", code="request.body")
        where = ContextReference(language=body.language or None, id=body.context_id or None)
        wish = RunCodeRequest(code=body.code, context=where, timeout=body.timeout)
        run = await self._codes.begin(body.sandbox_id, wish)
        try:
            return json_answer(await while_connected(request, self._collect(run)))
        finally:
            self._codes.end(run)

    async def _collect(self, run: Run) -> Executed:
        """Take in all that a run says, or said until its sandbox was lost. Raises what `Stream.receive` raises."""
        outputs = {Channel.STDOUT: bytearray(), Channel.STDERR: bytearray()}
        results: list[ResultView] = []
        result_chars = 0
        error: ErrorView | None = None
        truncated: dict[str, None] = {}

        def executed(receipt: Receipt, *, message: str, execution_count: int = 0) -> Executed:
            return Executed(
                context_id=run.context_id,
                stdout=outputs[Channel.STDOUT].decode(errors="replace"),
                stderr=outputs[Channel.STDERR].decode(errors="replace"),
                results=results,
                execution_count=execution_count,
                error=error,
                message=message,
                truncated=tuple(truncated),
                receipt=receipt,
            )

        while True:
            try:
                item = await run.stream.receive()
            except LinkLost as lost:
                return executed(receipt_of_lost(run.stream), message=lost.message)
            except SandlotError as failure:
                if await self._codes.is_restarted(run, failure):
                    continue
                raise
            match item:
                case Data(channel, data):
                    kind = Channel.STDERR if channel == Channel.STDERR else Channel.STDOUT
                    room = MAX_OUTPUT_BYTES - len(outputs[kind])
                    outputs[kind] += data[:room]
                    if len(data) > room:
                        truncated[kind.name.lower()] = None
                case ContextResult() as result:
                    result_chars += RESULT_CHARS + sum(len(mime) + len(text) for mime, text in result.data.items())
                    if result_chars > MAX_RESULT_CHARS:
                        truncated["results"] = None
                    else:
                        view = ResultView(result.kind, result.data, result.display_id, result.update)
                        results.append(view)
                case ContextError() as raised:
                    error = ErrorView(raised.name, raised.value, raised.traceback, frames_of(raised))
                case ContextDone() as done:
                    await run.stream.receive()
                    return executed(receipt_of(done), message=done.message, execution_count=done.execution_count)
                case None:
                    raise LinkLost("the agent ended a run without saying how")
