"""`/runs/{id}/events`: go on with the events of a recorded run. Ours; `runs/recording.py` says what such a run is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request

from controlplane.api.edge.parameters import sandbox_id_of, whole_number
from controlplane.api.edge.responses import Sink, StreamResponse
from controlplane.api.runs.numbered import Position, respond, respond_with
from controlplane.api.runs.recording import Resumed, resume
from controlplane.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from controlplane.api.runs.runs import Runs
    from controlplane.link.relay import Relay

LAST_EVENT_HEADER = "last-event-id"


class Resumption:
    """The endpoint."""

    def __init__(self, relay: Relay, runs: Runs) -> None:
        self._relay = relay
        self._runs = runs

    async def resume(self, request: Request) -> StreamResponse:
        """Stream the events of a recorded run after `Last-Event-ID` (or `after`), or all recorded events."""
        after = _position(request)
        sandbox_id, run_id = sandbox_id_of(request), request.path_params["run_id"]
        stream, state = await resume(self._relay, sandbox_id, run_id, after.number)
        if not state.lines:
            stream.close()
            raise NotFound(f"run {run_id[:64]} was begun on the native stream: resume it there", code="run.not_found")
        if state.is_over:
            return respond(_finish, close=stream.close, number=lambda: 0, after=after)
        run = self._runs.take_up(Resumed(sandbox_id, run_id, stream, state, is_from_start=not after.number))
        return respond_with(run, close=self._runs.end, is_numbered=True, after=after)


async def _finish(sink: Sink) -> None:
    """Answer a client that has all events already."""
    await sink.finish()


def _position(request: Request) -> Position:
    text = request.headers.get(LAST_EVENT_HEADER) or request.query_params.get("after") or "0"
    number, dot, events = text.partition(".")
    position = whole_number(number), whole_number(events) if dot else 0
    if position[0] is None or position[1] is None:
        raise InvalidRequest(f"{LAST_EVENT_HEADER}: must be the id of an event", code="request.query")
    return Position(position[0], position[1])
