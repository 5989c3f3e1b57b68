"""The native stream's messages, `sandlot.json.v1` and `sandlot.msgpack.v1`: the same Structs, encoded either way.

One WebSocket carries many streams. The client opens one under a number of its choice, with an operation; the server
answers with messages of that number, the last of which is `done` or `failed`. Then the number is free again.
`specs/stream.asyncapi.yaml` is made from this file.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from controlplane.api.schema import MAX_CODE_BYTES, MAX_INPUT_CHARS, MAX_JSON_BYTES, CodeFrameView, Receipt

JSON = "sandlot.json.v1"
MSGPACK = "sandlot.msgpack.v1"

MAX_KEEP_S = 3600

StreamNumber = Annotated[
    int, Meta(ge=0, lt=2**31, description="chosen by the client, free again after `done` and `failed`")
]
Seconds = Annotated[float, Meta(ge=0, le=10 * 365 * 86400)]
Keep = Annotated[int, Meta(ge=0, le=MAX_KEEP_S)]
Bytes = Annotated[int, Meta(gt=0, lt=2**53)]
Short = Annotated[str, Meta(max_length=4096)]
Variables = dict[str, str | None]
UserId = Annotated[int, Meta(ge=0, le=2**32 - 2)]


# -- operations ----------------------------------------


class Operation(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="op"):
    """What a stream is opened for."""


class Command(Operation, frozen=True, tag="command"):
    """Run a command: exactly one of `command` (for a shell) and `argv`. Then `started`, `data`*, `done`.

    With `stdin`, data and `end` from the client are its input. Cancelled, or when the socket is lost, it is killed;
    with `keep_s` it waits for so long for somebody who resumes it.
    """

    command: Annotated[str, Meta(max_length=MAX_JSON_BYTES)] = ""
    argv: tuple[str, ...] = ()
    cwd: Short = ""
    env: Variables = {}
    uid: UserId | None = None
    gid: UserId | None = None
    timeout_s: Seconds | None = None
    stdin: bool = False
    keep_s: Keep = 0


class Run(Operation, frozen=True, tag="run"):
    """Run code in a context: `context`, or else the default context of `language`, which is made when need be.

    Then `started`, (`data` | `result` | `raised` | `prompt`)*, `done`. Cancelled, it is interrupted; for `keep_s` see
    `command`.
    """

    code: Annotated[str, Meta(max_length=MAX_CODE_BYTES)]
    context: Short = ""
    language: Short = ""
    timeout_s: Seconds | None = None
    allow_input: bool = False
    keep_s: Keep = 0


class Resume(Operation, frozen=True, tag="resume"):
    """Go on with a command or run that is kept: all its messages after number `after`, as if nothing had happened."""

    id: Short
    after: Annotated[int, Meta(ge=0)] = 0


class Input(Operation, frozen=True, tag="input"):
    """Answer the `prompt` of a context's run; without a text, that there is no more."""

    context: Short
    text: Annotated[str, Meta(max_length=MAX_INPUT_CHARS)] | None = None


class OpenContext(Operation, frozen=True, tag="context.open"):
    """Make a context: `context`, `done`."""

    language: Short
    cwd: Short = ""


class ListContexts(Operation, frozen=True, tag="context.list"):
    """All contexts, or those of a language: `context`*, `done`."""

    language: Short = ""


class CloseContext(Operation, frozen=True, tag="context.close"):
    """End a context."""

    id: Short


class InterruptContext(Operation, frozen=True, tag="context.interrupt"):
    """Interrupt what runs in a context; its state stays."""

    id: Short


class RestartContext(Operation, frozen=True, tag="context.restart"):
    """The same context without its state: `context`, `done`."""

    id: Short


class ForkContext(Operation, frozen=True, tag="context.fork"):
    """Copies of a context, each with its state: `context`*, `done`."""

    id: Short
    count: Annotated[int, Meta(ge=1, le=64)] = 1


class Complete(Operation, frozen=True, tag="context.complete"):
    """What may stand at the cursor (in characters; the end of the code): `completion`, `done`."""

    id: Short
    code: Annotated[str, Meta(max_length=MAX_JSON_BYTES)]
    cursor: Annotated[int, Meta(ge=0)] | None = None


class Inspect(Operation, frozen=True, tag="context.inspect"):
    """What the name at the cursor is: `inspection`, `done`."""

    id: Short
    code: Annotated[str, Meta(max_length=MAX_JSON_BYTES)]
    cursor: Annotated[int, Meta(ge=0)] | None = None
    detail: bool = False


class OpenPty(Operation, frozen=True, tag="pty.open"):
    """Make a terminal, whose program (`command`, or a shell) starts when somebody attaches: `pty`, `done`."""

    command: Annotated[str, Meta(max_length=MAX_JSON_BYTES)] = ""
    cwd: Short = ""
    env: Variables = {}
    uid: UserId | None = None
    gid: UserId | None = None
    cols: Annotated[int, Meta(ge=1, le=65535)] = 80
    rows: Annotated[int, Meta(ge=1, le=65535)] = 24


class AttachPty(Operation, frozen=True, tag="pty.attach"):
    """Be the client of a terminal: `pty`, `data`*, `done`. Data from the client is what is typed.

    What is kept of its output from byte `since` on comes first. Cancelled, the terminal goes on. With another client
    there it fails, unless `takeover` sends that one away.
    """

    id: Short
    since: Annotated[int, Meta(ge=0)] = 0
    takeover: bool = False


class ResizePty(Operation, frozen=True, tag="pty.resize"):
    """Set the size of its window."""

    id: Short
    cols: Annotated[int, Meta(ge=1, le=65535)]
    rows: Annotated[int, Meta(ge=1, le=65535)]


class ListPtys(Operation, frozen=True, tag="pty.list"):
    """All terminals: `pty`*, `done`."""


class ClosePty(Operation, frozen=True, tag="pty.close"):
    """Hang up."""

    id: Short


class Signal(Operation, frozen=True, tag="signal"):
    """Send a signal, such as SIGINT, to a command or to the foreground of a terminal, by its id."""

    id: Short
    signal: Annotated[str, Meta(max_length=16)]


class ReadFile(Operation, frozen=True, tag="file.read"):
    """Read a file, or `length` bytes from `offset` (negative: from the end): `file`, `data`*, `done`."""

    path: Short
    offset: int = 0
    length: Annotated[int, Meta(ge=0)] | None = None


class WriteFile(Operation, frozen=True, tag="file.write"):
    """Write a file whole: data and `end` from the client, then `file`, `done`. Before that, nothing of it is seen.

    `mode` in octal digits, such as "644".
    """

    path: Short
    mode: Annotated[str, Meta(pattern="^[0-7]{1,4}$")] = ""
    owner: Short = ""
    group: Short = ""


AnyOperation = (
    Command
    | Run
    | Resume
    | Input
    | OpenContext
    | ListContexts
    | CloseContext
    | InterruptContext
    | RestartContext
    | ForkContext
    | Complete
    | Inspect
    | OpenPty
    | AttachPty
    | ResizePty
    | ListPtys
    | ClosePty
    | Signal
    | ReadFile
    | WriteFile
)


# -- from the client ----------------------------------------


class ClientMessage(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="type"):
    """What a client sends."""

    stream: StreamNumber


class Open(ClientMessage, frozen=True, tag="open"):
    """Open a stream. With a `window`, the server sends so many bytes of data, and more as `credit` comes."""

    operation: AnyOperation
    window: Bytes | None = None


class ClientData(ClientMessage, frozen=True, tag="data"):
    """Input of a program, what is typed, or a file's content: as text, or as bytes (in JSON: base64)."""

    text: str = ""
    data: bytes = b""


class End(ClientMessage, frozen=True, tag="end"):
    """No more data follows."""


class Credit(ClientMessage, frozen=True, tag="credit"):
    """So many more bytes may be sent: by the server on a stream with a window; by the client, of its data."""

    bytes: Bytes


class Cancel(ClientMessage, frozen=True, tag="cancel"):
    """Have done with a stream; its number is free again at once."""


FromClient = Open | ClientData | End | Credit | Cancel


# -- from the server ----------------------------------------


class ServerMessage(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type"):
    """What the server sends on a stream."""

    stream: StreamNumber


class Numbered(ServerMessage, frozen=True):
    """Messages of commands and runs that are kept are numbered from 1: `resume` names the last one that was seen."""

    seq: int = 0


class Hello(msgspec.Struct, frozen=True, tag_field="type", tag="hello"):
    """The first message: which sandbox this is, and how much data of a stream the server takes without `credit`."""

    sandbox: str
    version: str
    window: int


class Started(Numbered, frozen=True, tag="started", kw_only=True):
    """It has begun. The id is for `signal`, `input` (a run's is its context's) and `resume`."""

    id: str
    context: str = ""
    pid: int = 0


class ServerData(Numbered, frozen=True, tag="data", kw_only=True):
    """Output, in `text` with `sandlot.json.v1` and in `data` otherwise; what a file contains is always in `data`."""

    channel: str = "stdout"
    text: str = ""
    data: bytes = b""


class Result(Numbered, frozen=True, tag="result", kw_only=True):
    """A value that was shown: MIME type → text, binary types in base64. `kind` is `result` or `display`.

    With `update` it takes the place of what was shown under the same `display_id`.
    """

    kind: str
    data: dict[str, str]
    execution_count: int = 0
    display_id: str = ""
    update: bool = False


class Raised(Numbered, frozen=True, tag="raised", kw_only=True):
    """The code raised. Of the `frames`, which not every language has, the innermost is the last."""

    name: str
    value: str
    traceback: tuple[str, ...] = ()
    frames: tuple[CodeFrameView, ...] = ()


class Prompt(Numbered, frozen=True, tag="prompt", kw_only=True):
    """The run waits for a line of text: `input`."""

    prompt: str
    password: bool = False


class Context(ServerMessage, frozen=True, tag="context", kw_only=True):
    """A context."""

    id: str
    language: str
    busy: bool = False


class Completion(ServerMessage, frozen=True, tag="completion", kw_only=True):
    """What may stand in place of the characters from `start` to `end`."""

    matches: tuple[str, ...]
    start: int
    end: int


class Inspection(ServerMessage, frozen=True, tag="inspection", kw_only=True):
    """What is known of a name, by MIME type; nothing when it is unknown."""

    data: dict[str, str]


class Pty(ServerMessage, frozen=True, tag="pty", kw_only=True):
    """A terminal. On `pty.attach`, `output_start` is the offset of the first byte that follows."""

    id: str
    running: bool
    output_start: int = 0
    output_end: int = 0


class File(ServerMessage, frozen=True, tag="file", kw_only=True):
    """A file. `mode` in octal digits; times in Unix seconds."""

    path: str
    kind: str
    size: int
    mode: str
    modified_at: float
    owner: str
    group: str


class ServerCredit(ServerMessage, frozen=True, tag="credit", kw_only=True):
    """So many more bytes of the client's data are taken."""

    bytes: int


class Finished(Numbered, frozen=True, tag="done", kw_only=True):
    """The end of a stream that went well, and what a command or run used and how it ended.

    `message` says why, of a run whose context died.
    """

    receipt: Receipt | None = None
    message: str = ""


class Failed(Numbered, frozen=True, tag="failed", kw_only=True):
    """The end of a stream that did not: the same codes as over HTTP.

    A command or run whose sandbox was lost on the way has a receipt with what was seen of it.
    """

    code: str
    message: str
    receipt: Receipt | None = None


FromServer = (
    Hello
    | Started
    | ServerData
    | Result
    | Raised
    | Prompt
    | Context
    | Completion
    | Inspection
    | Pty
    | File
    | ServerCredit
    | Finished
    | Failed
)


class Codec:
    """Messages as one of the subprotocols has them."""

    def __init__(self, name: str) -> None:
        self.is_text = name == JSON
        self.encode = msgspec.json.Encoder().encode if self.is_text else msgspec.msgpack.Encoder().encode
        decoder: Any = msgspec.json.Decoder if self.is_text else msgspec.msgpack.Decoder
        self._decode = decoder(FromClient).decode

    def decode(self, frame: str | bytes) -> FromClient:
        """Read a client's frame. Raises msgspec.MsgspecError."""
        message: FromClient = self._decode(frame)
        return message
