"""`/session`: live bash, in which functions, variables, jobs and the directory last from run to run."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.bodies import json_answer, read_json, read_optional_json
from controlplane.api.edge.parameters import no_nul, sandbox_id_of
from controlplane.api.edge.responses import StreamResponse
from controlplane.api.execd.schema import MAX_SCRIPT_BODY_BYTES, OpenSessionRequest, RunInSessionRequest, SessionView
from controlplane.api.runs.numbered import respond_with
from controlplane.api.runs.recording import keep_seconds
from controlplane.errors import InvalidRequest
from execd.wire.messages import Done, SessionClose, SessionOpen, SessionRun

if TYPE_CHECKING:
    from controlplane.api.runs.runs import Runs
    from controlplane.link.relay import Relay


class Sessions:
    """The endpoints."""

    def __init__(self, relay: Relay, runs: Runs) -> None:
        self._relay = relay
        self._runs = runs

    async def create(self, request: Request) -> Response:
        """Open a bash session. The body may be empty."""
        wish = await read_optional_json(request, OpenSessionRequest)
        session_id = uuid.uuid4().hex
        opening = SessionOpen(session_id, no_nul(wish.cwd or "", "cwd"))
        await self._relay.call(sandbox_id_of(request), opening, Done)
        return json_answer(SessionView(session_id))

    async def run(self, request: Request) -> StreamResponse:
        """Run code in a session, and stream the same events as for a command."""
        body = await read_json(request, RunInSessionRequest, limit=MAX_SCRIPT_BODY_BYTES)
        if not no_nul(body.command, "command").strip():
            raise InvalidRequest("command: must not be empty", code="request.body")
        session_id = request.path_params["session_id"]
        timeout_s = self._runs.limit(ms=body.timeout)
        message = SessionRun(session_id, body.command, no_nul(body.cwd or "", "cwd"), timeout_s)
        return await run_in_session(self._runs, request, message)

    async def delete(self, request: Request) -> Response:
        """End a session, and everything that runs in it."""
        message = SessionClose(request.path_params["session_id"])
        await self._relay.call(sandbox_id_of(request), message, Done)
        return Response()


async def run_in_session(runs: Runs, request: Request, message: SessionRun) -> StreamResponse:
    """Begin a run in a session; stream its events."""
    keep_s = keep_seconds(request)
    run = await runs.begin_in_session(sandbox_id_of(request), message, keep_s=keep_s)
    return respond_with(run, close=runs.end, is_numbered=bool(keep_s))
