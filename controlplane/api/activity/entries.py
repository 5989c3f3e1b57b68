"""The entries of an activity as clients get them, in every surface the same."""

from __future__ import annotations

import msgspec

from controlplane.api.runs.receipt import CodeFrameView, Receipt, frames_of, receipt_of
from execd.wire.frames import Channel
from execd.wire.messages import (
    TERMINAL_CHANNEL,
    ActivityBegun,
    ActivityDropped,
    ActivityEnded,
    ActivityItem,
    ActivityState,
    ContextError,
    ContextPrompt,
    ContextResult,
    Problem,
    RunOutput,
)

_CHANNELS = {Channel.STDERR: "stderr", TERMINAL_CHANNEL: "terminal"}


class ActivityEntry(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", kw_only=True):
    """One entry. Fields without a value are omitted."""

    seq: int  # from 1; `skipped` has the number of the last entry that is missing
    at: float = 0.0  # Unix time, s
    cut_bytes: int = 0  # of this entry that are missing, because it was too large


class OfOperation(ActivityEntry, frozen=True, kw_only=True):
    """An entry of an operation: all entries of the operation have the same `op`."""

    op: str


class BegunEntry(OfOperation, frozen=True, tag="begun", kw_only=True):
    """An operation has begun: `actor` is the name of the key, or `token`, `ticket` or `signature`."""

    actor: str = ""
    what: str
    text: str = ""
    language: str = ""
    context: str = ""
    cwd: str = ""
    path: str = ""
    port: int = 0
    pid: int = 0
    background: bool = False


class OutputEntry(OfOperation, frozen=True, tag="output", kw_only=True):
    """Output: whole characters. `bytes` is its size in the sandbox."""

    channel: str
    text: str
    bytes: int


class ResultEntry(OfOperation, frozen=True, tag="result", kw_only=True):
    """A displayed value: MIME type → text, binary types in base64. `kind` is `result` or `display`."""

    kind: str
    data: dict[str, str]
    execution_count: int = 0
    display_id: str = ""
    update: bool = False


class RaisedEntry(OfOperation, frozen=True, tag="raised", kw_only=True):
    """The code raised an error. The innermost of the `frames`, which not every language has, is the last."""

    name: str
    value: str
    traceback: tuple[str, ...] = ()
    frames: tuple[CodeFrameView, ...] = ()


class PromptEntry(OfOperation, frozen=True, tag="prompt", kw_only=True):
    """The code waits for a line of text."""

    prompt: str
    password: bool = False


class EndedEntry(OfOperation, frozen=True, tag="ended", kw_only=True):
    """The operation has ended: a run with a receipt, a file operation with the `size` of the file."""

    receipt: Receipt | None = None
    size: int | None = None
    message: str = ""
    output_bytes: int = 0


class FailedEntry(OfOperation, frozen=True, tag="failed", kw_only=True):
    """The operation was refused or has failed."""

    code: str
    message: str


class StateEntry(ActivityEntry, frozen=True, tag="state", kw_only=True):
    """The sandbox has another state: `claimed`, `linked`, `pausing`, `resumed`, `ending`."""

    state: str
    reason: str = ""


class SkippedEntry(ActivityEntry, frozen=True, tag="skipped", kw_only=True):
    """Entries that are missing: `dropped` are no longer kept, `slow` were told while this client did not read."""

    from_: int = msgspec.field(name="from")
    to: int
    reason: str


AnyEntry = (
    BegunEntry
    | OutputEntry
    | ResultEntry
    | RaisedEntry
    | PromptEntry
    | EndedEntry
    | FailedEntry
    | StateEntry
    | SkippedEntry
)


def entry_view(item: ActivityItem, reason: str) -> AnyEntry:
    """Return what clients get of an item. *reason* is why entries are missing, where the item says that some are."""
    said, seq, at, cut = item.said, item.number, round(item.at, 3), item.cut_bytes
    match said:
        case ActivityBegun():
            fields = {name: getattr(said, name) for name in said.__struct_fields__}
            return BegunEntry(seq=seq, at=at, op=item.op, cut_bytes=cut, **fields)
        case RunOutput(channel=channel, data=data):
            text, name = data.decode(errors="replace"), _CHANNELS.get(channel, "stdout")
            return OutputEntry(seq=seq, at=at, op=item.op, cut_bytes=cut, channel=name, text=text, bytes=len(data))
        case ContextResult():
            fields = {name: getattr(said, name) for name in said.__struct_fields__}
            return ResultEntry(seq=seq, at=at, op=item.op, cut_bytes=cut, **fields)
        case ContextError(name=name, value=value, traceback=lines):
            frames = frames_of(said)
            return RaisedEntry(
                seq=seq, at=at, op=item.op, cut_bytes=cut, name=name, value=value, traceback=lines, frames=frames
            )
        case ContextPrompt(prompt=prompt, password=password):
            return PromptEntry(seq=seq, at=at, op=item.op, cut_bytes=cut, prompt=prompt, password=password)
        case ActivityEnded(receipt=done):
            receipt = None if done is None else receipt_of(done)
            return EndedEntry(
                seq=seq,
                at=at,
                op=item.op,
                receipt=receipt,
                size=said.size,
                message=said.message,
                output_bytes=said.output_bytes,
            )
        case Problem(code=code, message=message):
            return FailedEntry(seq=seq, at=at, op=item.op, code=code, message=message)
        case ActivityState(state=state, reason=why):
            return StateEntry(seq=seq, at=at, state=state, reason=why)
        case ActivityDropped(since=since):
            return SkippedEntry(seq=seq, at=at, from_=since, to=seq, reason=reason)
