"""The operations on activities, of sandboxes that live and of those that have ended."""

from __future__ import annotations

from controlplane.access.scopes import Needs
from controlplane.api.activity.activity import ActivityReading, ActivityView
from controlplane.api.activity.records import LINES, RecordPage, RecordReading
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
    Operation(
        *("activity.list", "GET", "/activities", RecordReading.list, Needs.READ), is_change=False, answer=RecordPage
    ),
    Operation(
        *("activity.record", "GET", "/activities/{record_id}", RecordReading.read, Needs.READ),
        is_change=False,
        answer=LINES,
        answer_text="The record: lines of JSON.",
        errors=(404,),
    ),
)
