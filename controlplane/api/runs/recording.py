"""Recorded runs: the request for one, and its resumption by a client.

With `Sandlot-Keep: SECONDS` on a request that answers with events, execd records the run: the run continues, and its
events are recorded, for this time after its client has gone. `GET …/runs/{id}/events` continues after the event that
`Last-Event-ID` names, even after a restart of the control plane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from starlette.requests import Request

from controlplane.api.edge.parameters import whole_number
from controlplane.errors import AgentError, InvalidRequest
from controlplane.link.stream import Stream
from execd.wire.messages import RecordedRequest, RunFind, RunRecord, RunResume, RunState

if TYPE_CHECKING:
    from controlplane.link.relay import Relay

HEADER = "sandlot-keep"
MAX_KEEP_S = 3600


class Resumed(NamedTuple):
    """A recorded run that a client goes on reading."""

    sandbox_id: str
    run_id: str
    stream: Stream
    state: RunState
    is_from_start: bool


def keep_seconds(request: Request) -> int:
    """Return for how long a run is to outlive its client; 0: not at all. Raises InvalidRequest."""
    text = request.headers.get(HEADER, "")
    if not text:
        return 0
    if (seconds := whole_number(text)) is None or seconds > MAX_KEEP_S:
        raise InvalidRequest(f"{HEADER}: must be a number of seconds up to {MAX_KEEP_S}", code="request.query")
    return seconds


def recorded(run_id: str, request: RecordedRequest, keep_s: int, *, lines: bool) -> RecordedRequest | RunRecord:
    """Return the request for a run that outlives its client for so long. For *lines* see `RunRecord`."""
    return RunRecord(run_id, keep_s, request, lines=lines) if keep_s else request


async def resume(relay: Relay, sandbox_id: str, run_id: str, after: int) -> tuple[Stream, RunState]:
    """Open the stream of a recorded run whose next item is the one after a number.

    Raises:
        AgentError: `run.not_found`, `run.lost`; and what `Relay.begin` raises.
    """
    stream, state = await relay.begin(sandbox_id, RunResume(run_id, after), RunState)
    stream.number = after
    return stream, state


async def place_of(relay: Relay, sandbox_id: str, run_id: str, kind: str) -> str | None:
    """Return the id of the context or session of a recorded run; None: no run of that kind has this id."""
    try:
        state = await relay.call(sandbox_id, RunFind(run_id), RunState)
    except AgentError:
        return None
    return state.place if state.kind == kind else None
