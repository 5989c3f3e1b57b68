"""The operations of the server itself: its events, its state, and what it keeps."""

from __future__ import annotations

from typing import Any

from controlplane.access.scopes import Needs
from controlplane.api.edge.operation import (
    COUNT,
    FLAG,
    TEXT,
    WEBSOCKET,
    EventStream,
    Operation,
    Parameter,
)
from controlplane.api.edge.tickets import TicketView
from controlplane.api.server.events import Events
from controlplane.api.server.information import Information
from controlplane.api.server.log import Log, LogPage
from controlplane.api.server.report import Reports
from controlplane.api.server.schema import ImageList, Report, ServerView, SpecList, VolumeList
from controlplane.api.server.specs import Specs
from controlplane.api.server.stock import Images, Volumes
from controlplane.logs import MAX_LINES

_AFTER = Parameter("after")

_EVENTS = (
    Operation(
        *("event.read", "GET", "/events", Events.stream, Needs.READ),
        is_change=False,
        answer=EventStream("ServerEvents"),
        query=(_AFTER,),
        headers=("Last-Event-ID",),
    ),
    Operation("event.listen", WEBSOCKET, "/events", Events.serve, Needs.READ, is_change=False),
    Operation(
        *("event.ticket", "POST", "/events/tickets", Events.issue, Needs.READ),
        is_change=False,  # it lets its holder hear what the key hears
        status=201,
        answer=TicketView,
    ),
)
_STATE = (
    Operation("server.read", "GET", "/server", Information.read, Needs.WATCH, is_change=False, answer=ServerView),
    Operation(
        # It starts a container, and what it says names places of the machine.
        *("server.report", "GET", "/server/report", Reports.read, Needs.ADMIN),
        answer=Report,
    ),
    Operation(
        *("server.log", "GET", "/server/log", Log.read, Needs.ADMIN),
        is_change=False,
        answer=(LogPage, EventStream("LogEvents")),
        query=(
            Parameter("after", COUNT),
            Parameter("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LINES}),
        ),
        headers=("Last-Event-ID",),
        errors=(400,),
    ),
    Operation("spec.list", "GET", "/specs", Specs.list, Needs.KEY, is_change=False, answer=SpecList),
    Operation(
        *("spec.get", "GET", "/specs/{name}", Specs.get, Needs.KEY),
        is_change=False,
        answer=(TEXT, dict[str, Any]),
        errors=(404,),
    ),
)
_STOCK = (
    Operation("image.list", "GET", "/images", Images.list, Needs.WATCH, is_change=False, answer=ImageList),
    Operation(
        *("image.remove", "DELETE", "/images/{name:path}", Images.remove, Needs.ADMIN), status=204, errors=(404, 409)
    ),
    Operation(
        *("volume.list", "GET", "/volumes", Volumes.list, Needs.WATCH),
        is_change=False,
        answer=VolumeList,
        query=(Parameter("sizes", FLAG),),
        errors=(400,),
    ),
    Operation(
        *("volume.remove", "DELETE", "/volumes/{name}", Volumes.remove, Needs.ADMIN), status=204, errors=(404, 409)
    ),
)

SERVER: tuple[Operation, ...] = (*_EVENTS, *_STATE, *_STOCK)
