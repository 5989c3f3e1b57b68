"""`/snapshots`, and `/sandboxes/{id}/snapshots`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.pages import chosen_states, paginate
from controlplane.api.schema import Pagination, Status, Wire, json_answer, read_optional_json
from controlplane.errors import InvalidRequest
from controlplane.sandbox import Snapshot, SnapshotState

if TYPE_CHECKING:
    from controlplane.lifecycle.snapshots import Snapshots as AllSnapshots

MAX_NAME_CHARS = 253


class CreateSnapshotRequest(Wire, frozen=True):
    """The body of POST /sandboxes/{id}/snapshots, which may be left out."""

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
        """POST /sandboxes/{id}/snapshots: 202, and it is Creating; GET tells when it is Ready."""
        body = await read_optional_json(request, CreateSnapshotRequest)
        name = body.name or ""
        if len(name) > MAX_NAME_CHARS or not name.isprintable():
            raise InvalidRequest(f"name: must be printable, and at most {MAX_NAME_CHARS} characters long")
        snapshot = self._snapshots.create(request.path_params["sandbox_id"], name)
        return json_answer(_view(snapshot), 202, {"Location": f"/v1/snapshots/{snapshot.id}"})

    async def list(self, request: Request) -> Response:
        """GET /snapshots?sandboxId=&name=&state=&state=&page=&pageSize=."""
        sandbox_id, name = request.query_params.get("sandboxId"), request.query_params.get("name")
        states = chosen_states(request, SnapshotState)
        chosen = [
            snapshot
            for snapshot in self._snapshots.list()
            if (not sandbox_id or snapshot.sandbox_id == sandbox_id)
            and (not name or snapshot.name == name)
            and (not states or snapshot.state in states)
        ]
        items, pagination = paginate(request, chosen)
        return json_answer(SnapshotPage([_view(snapshot) for snapshot in items], pagination))

    async def get(self, request: Request) -> Response:
        """GET /snapshots/{id}."""
        return json_answer(_view(self._snapshots.get(request.path_params["snapshot_id"])))

    async def delete(self, request: Request) -> Response:
        """DELETE /snapshots/{id}: 204 when its image is gone."""
        await self._snapshots.delete(request.path_params["snapshot_id"])
        return Response(status_code=204)


def _view(snapshot: Snapshot) -> SnapshotView:
    return SnapshotView(
        id=snapshot.id,
        sandbox_id=snapshot.sandbox_id,
        name=snapshot.name,
        status=Status(snapshot.state.value, snapshot.reason, snapshot.message, snapshot.state_changed_at),
        created_at=snapshot.created_at,
    )
