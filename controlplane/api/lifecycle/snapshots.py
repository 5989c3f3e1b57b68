"""`/snapshots`, and `/sandboxes/{id}/snapshots`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.bodies import Wire, json_answer, read_optional_json
from controlplane.api.edge.guard import caller_of
from controlplane.api.edge.parameters import sandbox_id_of
from controlplane.api.lifecycle.pagination import chosen_states, paginate, select
from controlplane.api.lifecycle.schema import Pagination, Status
from controlplane.errors import InvalidRequest
from controlplane.sandbox import Snapshot, SnapshotState, status_of_snapshot

if TYPE_CHECKING:
    from controlplane.lifecycle.snapshots import Snapshots as AllSnapshots

MAX_NAME_CHARS = 253


class CreateSnapshotRequest(Wire, frozen=True):
    """The optional body of POST /sandboxes/{id}/snapshots."""

    name: str | None = None


class SnapshotView(Wire, frozen=True, kw_only=True):
    """A snapshot."""

    id: str
    sandbox_id: str
    name: str = ""
    status: Status
    created_at: datetime


class SnapshotPage(Wire, frozen=True):
    """The answer to GET /snapshots."""

    items: list[SnapshotView]
    pagination: Pagination


class Snapshots:
    """The endpoints."""

    def __init__(self, snapshots: AllSnapshots) -> None:
        self._snapshots = snapshots

    async def create(self, request: Request) -> Response:
        """Create a snapshot, which is Creating at first. Poll the snapshot until it is Ready."""
        body = await read_optional_json(request, CreateSnapshotRequest)
        name = body.name or ""
        if len(name) > MAX_NAME_CHARS or not name.isprintable():
            raise InvalidRequest(f"name: must be printable, and at most {MAX_NAME_CHARS} characters long")
        snapshot = self._snapshots.create(sandbox_id_of(request), name, by=caller_of(request.scope))
        return json_answer(snapshot_view(snapshot), 202, {"Location": f"/v1/snapshots/{snapshot.id}"})

    async def list(self, request: Request) -> Response:
        """List the snapshots of a sandbox, with a name, or in any of the states."""
        sandbox_id, name = request.query_params.get("sandboxId"), request.query_params.get("name")
        states, caller = chosen_states(request, SnapshotState), caller_of(request.scope)
        chosen = await select(
            self._snapshots.list(),
            lambda snapshot: (
                caller.sees(snapshot.owner, snapshot.sandbox_id)
                and (not sandbox_id or snapshot.sandbox_id == sandbox_id)
                and (not name or snapshot.name == name)
                and (states is None or snapshot.state in states)
            ),
        )
        items, pagination = paginate(request, chosen)
        return json_answer(SnapshotPage([snapshot_view(snapshot) for snapshot in items], pagination))

    async def get(self, request: Request) -> Response:
        """Return a snapshot."""
        return json_answer(snapshot_view(self._snapshots.get(request.path_params["snapshot_id"])))

    async def delete(self, request: Request) -> Response:
        """Delete a snapshot. Its image is gone when the answer arrives."""
        await self._snapshots.delete(request.path_params["snapshot_id"])
        return Response(status_code=204)


def snapshot_view(snapshot: Snapshot) -> SnapshotView:
    """Return a snapshot in the contract's form."""
    return SnapshotView(
        id=snapshot.id,
        sandbox_id=snapshot.sandbox_id,
        name=snapshot.name,
        status=Status(snapshot.state.value, *status_of_snapshot(snapshot), snapshot.state_changed_at),
        created_at=snapshot.created_at,
    )
