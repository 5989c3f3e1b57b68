"""What the parts of the server report: values, of which the API makes messages, and who may hear of each."""

from __future__ import annotations

from typing import Literal

import msgspec

from controlplane.access.scopes import Caller, Needs
from controlplane.sandbox import Sandbox, Snapshot, is_gone
from execd.wire.discreet import Discreet

ImageEvent = Literal["building", "built", "failed", "pulling", "pulled", "removed"]


class SandboxNews(Discreet, msgspec.Struct, frozen=True):
    """A change of a sandbox, with its newest record."""

    sandbox: Sandbox
    is_new: bool  # clients could not find it before
    is_there: bool  # clients find it now


class SnapshotNews(Discreet, msgspec.Struct, frozen=True):
    """A change of a snapshot likewise."""

    snapshot: Snapshot
    is_new: bool
    is_there: bool


class PoolNews(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="pool"):
    """The state of a warm pool, sent when the state has changed, at most ten times a second."""

    seq: int = 0  # grows by one with every message of this listener's kind
    name: str  # `default`, or as in [[pools]]; "" for a pool without a name
    image: str
    target: int  # the configured size
    idle: int  # warm containers
    starting: int
    hits: int  # claims since the start that found a warm container
    misses: int  # and the others
    problem: str  # why there is no warm container; "" if starts do not fail


class ImageNews(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="image"):
    """The build, the pull or the removal of an image. `step` is the number and the text of a step of a build."""

    seq: int = 0
    name: str
    event: ImageEvent
    step: str = ""
    message: str = ""  # of a failure


class EngineNews(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="engine"):
    """Whether the container engine answers, sent when that changes."""

    seq: int = 0
    up: bool
    message: str = ""  # what is wrong


News = SandboxNews | SnapshotNews | PoolNews | ImageNews | EngineNews


def sandbox_news(before: Sandbox | None, after: Sandbox | None) -> SandboxNews | None:
    """Return a change of a record as clients may see it; None if they see none. None stands for no record."""
    was_there = before is not None and not is_gone(before)
    is_there = after is not None and not is_gone(after)
    newest = after or before
    if newest is None or before == after or not (was_there or is_there):
        return None
    return SandboxNews(newest, is_new=not was_there, is_there=is_there)


def snapshot_news(before: Snapshot | None, after: Snapshot | None) -> SnapshotNews | None:
    """Return a change of a snapshot likewise."""
    newest = after or before
    if newest is None or before == after:
        return None
    return SnapshotNews(newest, is_new=before is None, is_there=after is not None)


def may_hear(caller: Caller, news: News) -> bool:
    """Return whether a caller may hear of something: of the sandboxes and snapshots that the caller sees, or of all."""
    match news:
        case SandboxNews(sandbox):
            return caller.sees(sandbox.owner, sandbox.id)
        case SnapshotNews(snapshot):
            return caller.sees(snapshot.owner, snapshot.sandbox_id)
    return caller.may(Needs.WATCH)
