"""What an engine tells of by itself."""

from __future__ import annotations

import enum

import msgspec


class EventKind(enum.Enum):
    """What happened to a container without our asking, or because of it; or to the flow of events itself."""

    CONNECTED = "connected"  # events flow from here on; what happened before is not told: `list()` now
    DISCONNECTED = "disconnected"  # the engine does not answer; it is asked again until CONNECTED
    DIED = "died"
    OOM = "oom"
    REMOVED = "removed"
    PAUSED = "paused"
    RESUMED = "resumed"


class RuntimeEvent(msgspec.Struct, frozen=True):
    """One event of one of our containers. CONNECTED and DISCONNECTED are about none: their ids are empty."""

    kind: EventKind
    sandbox_id: str = ""
    container_id: str = ""
    exit_code: int | None = None  # only in DIED
