"""What can be done with a live context beside running code in it; ours, next to the contract's routes in `code.py`."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.bodies import json_answer, read_json
from controlplane.api.edge.parameters import integer, sandbox_id_of
from controlplane.api.execd.schema import CompletionView, ContextView, CursorRequest, InspectionView
from controlplane.errors import LinkLost
from execd.wire.messages import (
    MAX_COPIES,
    ContextComplete,
    ContextCompletion,
    ContextFork,
    ContextInspect,
    ContextInspection,
    ContextRestart,
    ContextState,
)

if TYPE_CHECKING:
    from controlplane.link.relay import Relay


class LiveContexts:
    """The endpoints."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def fork(self, request: Request) -> Response:
        """Make independent copies of a context, each with its state."""
        sandbox_id, context_id = _ids(request)
        count = integer(request, "count", least=1, most=MAX_COPIES) or 1
        message = ContextFork(context_id, tuple(uuid.uuid4().hex for _ in range(count)))
        copies: list[ContextView] = []
        async with await self._relay.open(sandbox_id, message) as stream:
            for _ in range(count):
                state = await stream.expect(ContextState)
                copies.append(ContextView(state.id, state.language))
            if await stream.receive() is not None:
                raise LinkLost("the agent told of more copies than were asked for")
        return json_answer(copies)

    async def restart(self, request: Request) -> Response:
        """Restart a context without its state. The context may have died."""
        sandbox_id, context_id = _ids(request)
        state = await self._relay.call(sandbox_id, ContextRestart(context_id), ContextState)
        return json_answer(ContextView(state.id, state.language))

    async def complete(self, request: Request) -> Response:
        """Complete the code at the cursor."""
        sandbox_id, context_id = _ids(request)
        body = await read_json(request, CursorRequest)
        message = ContextComplete(context_id, body.code, _cursor(body))
        found = await self._relay.call(sandbox_id, message, ContextCompletion)
        return json_answer(CompletionView(found.matches, found.start, found.end))

    async def inspect(self, request: Request) -> Response:
        """Describe the name at the cursor, by MIME type."""
        sandbox_id, context_id = _ids(request)
        body = await read_json(request, CursorRequest)
        message = ContextInspect(context_id, body.code, _cursor(body), body.detail)
        found = await self._relay.call(sandbox_id, message, ContextInspection)
        return json_answer(InspectionView(bool(found.data), found.data))


def _ids(request: Request) -> tuple[str, str]:
    return sandbox_id_of(request), request.path_params["context_id"]


def _cursor(body: CursorRequest) -> int:
    return len(body.code) if body.cursor is None else min(body.cursor, len(body.code))
