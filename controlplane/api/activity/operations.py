"""The operation on the activity of a sandbox."""

from __future__ import annotations

from controlplane.access.scopes import Needs
from controlplane.api.activity.activity import ActivityReading, ActivityView
from controlplane.api.edge.operation import COUNT, FLAG, SANDBOX_PATH, EventStream, Operation, Parameter

ACTIVITY: tuple[Operation, ...] = (
    Operation(
        *("activity.read", "GET", f"{SANDBOX_PATH}/activity", ActivityReading.read, Needs.READ),
        is_change=False,
        takes_token=True,
        answer=(ActivityView, EventStream("ActivityEvents")),
        query=(Parameter("after", COUNT), Parameter("limit", COUNT), Parameter("follow", FLAG)),
        headers=("Last-Event-ID",),
        errors=(400, 404, 409, 429, 501, 502),
    ),
)
