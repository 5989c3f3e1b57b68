"""`/code`: stateful code in contexts, and the contexts themselves."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.bodies import MAX_CODE_BYTES, json_answer, read_json
from controlplane.api.edge.parameters import no_nul, required, sandbox_id_of
from controlplane.api.edge.responses import StreamResponse
from controlplane.api.execd.schema import ContextReference, ContextView, InputAnswer, OpenContextRequest, RunCodeRequest
from controlplane.api.runs.default_contexts import language_of
from controlplane.api.runs.numbered import respond_with
from controlplane.api.runs.recording import keep_seconds
from controlplane.api.runs.runs import Code
from controlplane.errors import LinkLost
from execd.wire.messages import ContextClose, ContextList, ContextOpen, ContextState, Done

if TYPE_CHECKING:
    from controlplane.api.runs.runs import Runs
    from controlplane.link.relay import Relay

MAX_LISTED_CONTEXTS = 10_000


class Codes:
    """The endpoints."""

    def __init__(self, relay: Relay, runs: Runs) -> None:
        self._relay = relay
        self._runs = runs

    async def run(self, request: Request) -> StreamResponse:
        """Run code, and stream the run's events."""
        # The JSON of 16 MiB of code may be larger: every character escaped.
        body = await read_json(request, RunCodeRequest, limit=2 * MAX_CODE_BYTES)
        keep_s = keep_seconds(request)
        where = body.context or ContextReference()
        code = Code(
            body.code, where.id or "", where.language or "", self._runs.limit(ms=body.timeout), body.allow_input
        )
        run = await self._runs.begin_code(sandbox_id_of(request), code, keep_s=keep_s, lines=True)
        return respond_with(run, close=self._runs.end, is_numbered=bool(keep_s))

    async def interrupt(self, request: Request) -> Response:
        """Interrupt a run, or the present run of a context, by the id of either."""
        await self._runs.interrupt_code(sandbox_id_of(request), required(request, "id"))
        return Response()

    async def answer_input(self, request: Request) -> Response:
        """Answer the request of a run for input, by the id of the run or of its context."""
        body = await read_json(request, InputAnswer)
        await self._runs.answer(sandbox_id_of(request), required(request, "id"), body.text)
        return Response()

    async def create_context(self, request: Request) -> Response:
        """Open a context."""
        body = await read_json(request, OpenContextRequest)
        language, cwd = language_of(body.language), no_nul(body.cwd or "", "cwd")
        opening = ContextOpen(id=uuid.uuid4().hex, language=language, cwd=cwd)
        sandbox_id = sandbox_id_of(request)
        state = await self._relay.call(sandbox_id, opening, ContextState)
        self._runs.contexts.add(sandbox_id, state.id, state.language)
        return json_answer(ContextView(state.id, state.language))

    async def list_contexts(self, request: Request) -> Response:
        """List all contexts, or those of a language."""
        message = ContextList(language=request.query_params.get("language", ""))
        states: list[ContextView] = []
        async with await self._relay.open(sandbox_id_of(request), message) as stream:
            while (state := await stream.receive()) is not None:
                if not isinstance(state, ContextState) or len(states) == MAX_LISTED_CONTEXTS:
                    raise LinkLost("the agent sent no list of contexts")
                states.append(ContextView(state.id, state.language))
        return json_answer(states)

    async def get_context(self, request: Request) -> Response:
        """Return a context."""
        message = ContextList(id=request.path_params["context_id"])
        state = await self._relay.call(sandbox_id_of(request), message, ContextState)
        return json_answer(ContextView(state.id, state.language))

    async def delete_context(self, request: Request) -> Response:
        """Close a context."""
        sandbox_id, context_id = sandbox_id_of(request), request.path_params["context_id"]
        self._runs.contexts.discard(sandbox_id, context_id)
        await self._relay.call(sandbox_id, ContextClose(id=context_id), Done)
        return Response()

    async def delete_contexts(self, request: Request) -> Response:
        """Close all contexts of a language."""
        message = ContextClose(language=required(request, "language"))
        await self._relay.call(sandbox_id_of(request), message, Done)
        return Response()
