"""Messages of `/v1/events`. The first one is `hello`; then a message follows for everything that changes.

A client hears of the sandboxes and snapshots that its key sees. Keys with the scope `read` or `admin` also hear of
pools, images, the engine and the counters. Open the events first and read the lists after `hello`: nothing is missed.

`seq` grows by one with each message; `hello`, `skipped` and `counters` have none. After a broken connection, continue
with `?after=INSTANCE.SEQ`: the `instance` of the last `hello`, and the last `seq`. Server-sent events have this text as
their id, and take `Last-Event-ID`. After `skipped`, messages are missing: read the lists again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from controlplane.api.lifecycle.schema import SandboxView, view
from controlplane.api.lifecycle.snapshots import SnapshotView, snapshot_view
from controlplane.lifecycle.events.counters import Counters
from controlplane.lifecycle.events.news import EngineNews, ImageNews, News, PoolNews, SandboxNews, SnapshotNews
from controlplane.sandbox import has_ended, status_of, status_of_snapshot

Change = Literal["created", "changed", "ended"]


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """The first message. `instance` names the numbering of the messages, and `last` is the number of the newest one."""

    version: str
    instance: str
    last: int
    at: datetime


class Skipped(msgspec.Struct, frozen=True, omit_defaults=True, tag="skipped"):
    """A gap: the client was too slow, or away for too long. Without `count`, the number of missing ones is unknown."""

    count: int | None = None


class SandboxEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="sandbox"):
    """A change of a sandbox. `sandbox` is null when the sandbox is in no list any more."""

    seq: int = 0
    id: str
    event: Change
    sandbox: SandboxView | None
    reason: str = ""  # as in the status, of the end


class SnapshotEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="snapshot"):
    """A change of a snapshot. `snapshot` is null when the snapshot is gone."""

    seq: int = 0
    id: str
    event: Change
    snapshot: SnapshotView | None
    reason: str = ""


FromServer = Hello | SandboxEvent | SnapshotEvent | PoolNews | ImageNews | EngineNews | Counters | Skipped


def encode(news: News) -> bytes:
    """Return news as a message without its number."""
    match news:
        case SandboxNews():
            return msgspec.json.encode(_of_sandbox(news))
        case SnapshotNews():
            return msgspec.json.encode(_of_snapshot(news))
    return msgspec.json.encode(news)


def _of_sandbox(news: SandboxNews) -> SandboxEvent:
    sandbox, is_over = news.sandbox, not news.is_there or has_ended(news.sandbox)
    return SandboxEvent(
        id=sandbox.id,
        event="ended" if is_over else "created" if news.is_new else "changed",
        sandbox=view(sandbox) if news.is_there else None,
        reason=status_of(sandbox).reason if has_ended(sandbox) else "",
    )


def _of_snapshot(news: SnapshotNews) -> SnapshotEvent:
    return SnapshotEvent(
        id=news.snapshot.id,
        event="ended" if not news.is_there else "created" if news.is_new else "changed",
        snapshot=snapshot_view(news.snapshot) if news.is_there else None,
        reason=status_of_snapshot(news.snapshot).reason,
    )
