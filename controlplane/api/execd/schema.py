"""The JSON of the execd contract as Structs. Optional fields are omitted, never null."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from controlplane.api.edge.bodies import MAX_JSON_BYTES
from controlplane.api.runs.receipt import Receipt
from execd.wire.discreet import Discreet

MAX_SCRIPT_BODY_BYTES = 8 << 20  # a script of at least 1 MiB, even if JSON escapes each character by six bytes
MAX_INPUT_CHARS = 16 * 1024  # a line that a person types
NonNegative = Annotated[int, Meta(ge=0)]
Milliseconds = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # the range of the clients' languages
Cells = Annotated[int, Meta(ge=0, le=2**16 - 1)]  # of a terminal's window; the kernel's range
MAX_USER_ID = 2**32 - 2  # the kernel's largest id; the next number means "none"
UserId = Annotated[int, Meta(ge=0, le=MAX_USER_ID)]


class RunCommandRequest(Discreet, msgspec.Struct, frozen=True):
    """The body of POST /command: exactly one of `command` (for a shell) and `argv`. `timeout` is in ms; 0: none."""

    command: str | None = None
    argv: tuple[str, ...] | None = None
    cwd: str | None = None
    background: bool = False
    timeout: Milliseconds | None = None
    uid: UserId | None = None
    gid: UserId | None = None
    envs: dict[str, str | None] | None = None


class ContextReference(msgspec.Struct, frozen=True):
    """The context of a run. Without an id, it is the default context of the language."""

    language: str | None = None
    id: str | None = None


class RunCodeRequest(msgspec.Struct, frozen=True):
    """The body of POST /code. `timeout`, in ms, and `allow_input` are extensions of Sandlot."""

    code: str
    context: ContextReference | None = None
    timeout: Milliseconds | None = None
    allow_input: bool = False  # the client answers `input_request` events by POST /code/input


class InputAnswer(msgspec.Struct, frozen=True):
    """The body of POST /code/input: a line of text, or null for the end of input."""

    text: Annotated[str, Meta(max_length=MAX_INPUT_CHARS)] | None = None


class CursorRequest(msgspec.Struct, frozen=True):
    """The body of POST /code/contexts/{id}/complete and …/inspect: code, and the position of the cursor in it."""

    code: Annotated[str, Meta(max_length=MAX_JSON_BYTES)]
    cursor: NonNegative | None = None  # in characters; None: the end of the code
    detail: bool = False  # inspect: with the source code


class CompletionView(msgspec.Struct, frozen=True):
    """The possible replacements of the characters from `start` to `end`."""

    matches: tuple[str, ...]
    start: int
    end: int


class InspectionView(msgspec.Struct, frozen=True):
    """The description of the name at the cursor: MIME type → text."""

    found: bool
    data: dict[str, str]


class CommandStatus(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The status of a command. `exit_code` and `finished_at` are null while the command runs."""

    id: str
    content: str
    running: bool
    exit_code: int | None
    started_at: datetime
    finished_at: datetime | None
    receipt: Receipt | UnsetType = UNSET
    error: str = ""  # the cause of an end other than success


class OpenTerminalRequest(Discreet, msgspec.Struct, frozen=True):
    """The optional body of POST /pty. All fields but `cwd` and `command` are extensions of Sandlot."""

    cwd: str | None = None
    command: str | None = None
    envs: dict[str, str | None] | None = None
    uid: UserId | None = None
    gid: UserId | None = None
    cols: Cells = 80
    rows: Cells = 24


class TerminalView(msgspec.Struct, frozen=True):
    """A terminal."""

    session_id: str
    running: bool
    output_offset: int  # the number of output bytes so far


class OpenSessionRequest(msgspec.Struct, frozen=True):
    """The optional body of POST /session."""

    cwd: str | None = None


class SessionView(msgspec.Struct, frozen=True):
    """A bash session."""

    session_id: str


class RunInSessionRequest(msgspec.Struct, frozen=True):
    """The body of POST /session/{id}/run. `timeout` is in ms; 0: none."""

    command: str
    cwd: str | None = None
    timeout: Milliseconds | None = None


class OpenContextRequest(msgspec.Struct, frozen=True):
    """The body of a request to open a context. `cwd` is an extension of Sandlot."""

    language: str | None = None
    cwd: str | None = None


class ContextView(msgspec.Struct, frozen=True):
    """A context."""

    id: str
    language: str


class Permissions(msgspec.Struct, frozen=True):
    """The mode, owner and group of a path. The octal digits of the mode are written as a number: 755 means 0o755."""

    mode: NonNegative | None = None
    owner: str | None = None
    group: str | None = None


class UploadMetadata(msgspec.Struct, frozen=True):
    """The `metadata` part that precedes each `file` part of an upload."""

    path: str
    mode: NonNegative | None = None
    owner: str | None = None
    group: str | None = None


class Move(msgspec.Struct, frozen=True):
    """A file or directory to rename."""

    src: str
    dest: str


class Replacement(msgspec.Struct, frozen=True):
    """A replacement of text in one file."""

    old: str
    new: str


class FileView(msgspec.Struct, frozen=True):
    """The properties of a file. `mode` has the octal digits as a number."""

    path: str
    type: str
    size: int
    mode: int
    modified_at: datetime
    created_at: datetime
    owner: str
    group: str
