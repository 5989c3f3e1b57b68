"""The messages of the native stream, the same for `sandlot.json.v1` and `sandlot.msgpack.v1`.

One WebSocket carries many streams. The client opens a stream for an operation, under a number of its choice; the server
answers with messages of this number, and the last one is `done` or `failed`. After that, the number is free again.
`make specs` writes `specs/stream.asyncapi.yaml` from this file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from controlplane.api.activity.entries import AnyEntry
from controlplane.api.edge.bodies import MAX_CODE_BYTES, MAX_JSON_BYTES
from controlplane.api.execd.schema import MAX_INPUT_CHARS, UserId
from controlplane.api.runs.receipt import CodeFrameView, Receipt
from controlplane.api.runs.recording import MAX_KEEP_S
from controlplane.sandbox import LONGEST_S
from execd.wire.discreet import Discreet
from execd.wire.messages import MAX_COPIES

JSON = "sandlot.json.v1"
MSGPACK = "sandlot.msgpack.v1"

StreamNumber = Annotated[
    int, Meta(ge=0, lt=2**31, description="chosen by the client; free again after `done` or `failed`")
]
Seconds = Annotated[float, Meta(ge=0, le=LONGEST_S)]
Keep = Annotated[int, Meta(ge=0, le=MAX_KEEP_S)]
Bytes = Annotated[int, Meta(gt=0, lt=2**53)]
Short = Annotated[str, Meta(max_length=4096)]
Variables = dict[str, str | None]


# -- operations ----------------------------------------


class Operation(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="op"):
    """The operation of a stream."""


class Command(Discreet, Operation, frozen=True, tag="command"):
    """Run a command: exactly one of `command` (for a shell) and `argv`. The answer is `started`, `data`*, `done`.

    With `stdin`, data and `end` from the client are the command's input. The server kills the command if the stream is
    cancelled or the socket is lost; with `keep_s`, a command whose socket is lost waits this many seconds for `resume`.
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
    """Run code in a context: `context`, or else the default context of `language`, which is created if needed.

    The answer is `started`, (`data` | `result` | `raised` | `prompt`)*, `done`. A cancelled run is interrupted;
    `keep_s` has the same meaning as for `command`.
    """

    code: Annotated[str, Meta(max_length=MAX_CODE_BYTES)]
    context: Short = ""
    language: Short = ""
    timeout_s: Seconds | None = None
    allow_input: bool = False
    keep_s: Keep = 0


class Resume(Operation, frozen=True, tag="resume"):
    """Resume a recorded command or run. The answer is all its messages after number `after`."""

    id: Short
    after: Annotated[int, Meta(ge=0, lt=2**53)] = 0


class Input(Operation, frozen=True, tag="input"):
    """Answer the `prompt` of a context's run. Without a text, the input has ended."""

    context: Short
    text: Annotated[str, Meta(max_length=MAX_INPUT_CHARS)] | None = None


class OpenContext(Operation, frozen=True, tag="context.open"):
    """Open a context. The answer is `context`, `done`."""

    language: Short
    cwd: Short = ""


class ListContexts(Operation, frozen=True, tag="context.list"):
    """List all contexts, or those of a language. The answer is `context`*, `done`."""

    language: Short = ""


class ListLanguages(Operation, frozen=True, tag="context.languages"):
    """List the languages of the image. The answer is `language`*, `done`."""


class CloseContext(Operation, frozen=True, tag="context.close"):
    """Close a context. The answer is `done`."""

    id: Short


class InterruptContext(Operation, frozen=True, tag="context.interrupt"):
    """Interrupt the run in a context, and keep the context's state. The answer is `done`."""

    id: Short


class RestartContext(Operation, frozen=True, tag="context.restart"):
    """Restart a context without its state. The answer is `context`, `done`."""

    id: Short


class ForkContext(Operation, frozen=True, tag="context.fork"):
    """Make copies of a context, each with its state. The answer is `context`*, `done`."""

    id: Short
    count: Annotated[int, Meta(ge=1, le=MAX_COPIES)] = 1


class Complete(Operation, frozen=True, tag="context.complete"):
    """Complete the code at the cursor (in characters; by default the end). The answer is `completion`, `done`."""

    id: Short
    code: Annotated[str, Meta(max_length=MAX_JSON_BYTES)]
    cursor: Annotated[int, Meta(ge=0)] | None = None


class Inspect(Operation, frozen=True, tag="context.inspect"):
    """Describe the name at the cursor. The answer is `inspection`, `done`."""

    id: Short
    code: Annotated[str, Meta(max_length=MAX_JSON_BYTES)]
    cursor: Annotated[int, Meta(ge=0)] | None = None
    detail: bool = False


class OpenPty(Discreet, Operation, frozen=True, tag="pty.open"):
    """Create a terminal, whose program (`command` or a shell) starts at the first attach: `pty`, `done`."""

    command: Annotated[str, Meta(max_length=MAX_JSON_BYTES)] = ""
    cwd: Short = ""
    env: Variables = {}
    uid: UserId | None = None
    gid: UserId | None = None
    cols: Annotated[int, Meta(ge=1, le=65535)] = 80
    rows: Annotated[int, Meta(ge=1, le=65535)] = 24


class AttachPty(Operation, frozen=True, tag="pty.attach"):
    """Attach to a terminal. The answer is `pty`, `data`*, `done`. Data from the client is the terminal's input.

    The kept output from byte `since` on comes first. The terminal continues if the stream is cancelled. If the terminal
    has another client, the stream fails, or with `takeover` ends the other client's stream.
    """

    id: Short
    since: Annotated[int, Meta(ge=0)] = 0
    takeover: bool = False


class ResizePty(Operation, frozen=True, tag="pty.resize"):
    """Set the size of a terminal's window. The answer is `done`."""

    id: Short
    cols: Annotated[int, Meta(ge=1, le=65535)]
    rows: Annotated[int, Meta(ge=1, le=65535)]


class ListPtys(Operation, frozen=True, tag="pty.list"):
    """List all terminals. The answer is `pty`*, `done`."""


class ClosePty(Operation, frozen=True, tag="pty.close"):
    """Hang up a terminal. The answer is `done`."""

    id: Short


class Signal(Operation, frozen=True, tag="signal"):
    """Send a signal, such as SIGINT, to a command or to the foreground of a terminal. The answer is `done`."""

    id: Short
    signal: Annotated[str, Meta(max_length=16)]


class ReadFile(Operation, frozen=True, tag="file.read"):
    """Read a file, or `length` bytes from `offset` (negative: from the end). The answer is `file`, `data`*, `done`."""

    path: Short
    offset: int = 0
    length: Annotated[int, Meta(ge=0)] | None = None


class WriteFile(Operation, frozen=True, tag="file.write"):
    """Write a whole file: data and `end` from the client. The answer is `file`, `done`.

    The file appears or changes only when it is complete. `mode` has octal digits, such as "644".
    """

    path: Short
    mode: Annotated[str, Meta(pattern="^[0-7]{1,4}$")] = ""
    owner: Short = ""
    group: Short = ""


class WatchActivity(Operation, frozen=True, tag="activity"):
    """Watch the activity of the sandbox after number `after`. The answer is `activity`*, until the stream is cancelled.

    The sandbox's end is `done`.
    """

    after: Annotated[int, Meta(ge=0, lt=2**53)] = 0


AnyOperation = (
    Command
    | Run
    | Resume
    | Input
    | OpenContext
    | ListContexts
    | ListLanguages
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
    | WatchActivity
)
OPERATIONS = tuple(str(operation.__struct_config__.tag) for operation in get_args(AnyOperation))


# -- from the client ----------------------------------------


class ClientMessage(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="type"):
    """A message of a client."""

    stream: StreamNumber


class Open(ClientMessage, frozen=True, tag="open"):
    """Open a stream. With `window`, the server sends this many bytes of data, and more after `credit`."""

    operation: AnyOperation
    window: Bytes | None = None


class ClientData(ClientMessage, frozen=True, tag="data"):
    """Input of a program or a terminal, or a file's content: as text, or as bytes (in JSON: base64)."""

    text: str = ""
    data: bytes = b""


class End(ClientMessage, frozen=True, tag="end"):
    """No more data follows."""


class Credit(ClientMessage, frozen=True, tag="credit"):
    """Allow the server to send this many more bytes on a stream with a `window`."""

    bytes: Bytes


class Cancel(ClientMessage, frozen=True, tag="cancel"):
    """Cancel a stream. Its number is free again at once."""


FromClient = Open | ClientData | End | Credit | Cancel


# -- from the server ----------------------------------------


class ServerMessage(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type"):
    """A message of the server on a stream."""

    stream: StreamNumber


class Numbered(ServerMessage, frozen=True):
    """A message with a number, from 1, in a recorded command or run. `resume` names the last received one."""

    seq: int = 0


class Hello(msgspec.Struct, frozen=True, tag_field="type", tag="hello"):
    """The first message. `window` is the number of bytes of a stream that the server takes without `credit`."""

    sandbox: str
    version: str
    window: int


class Started(Numbered, frozen=True, tag="started", kw_only=True):
    """The command or run has begun. `signal` and `resume` take its `id`; `input` takes the `context`."""

    id: str
    context: str = ""
    pid: int = 0


class ServerData(Numbered, frozen=True, tag="data", kw_only=True):
    """Output: in `text` with `sandlot.json.v1`, otherwise in `data`. The content of a file is always in `data`."""

    channel: str = "stdout"
    text: str = ""
    data: bytes = b""


class Result(Numbered, frozen=True, tag="result", kw_only=True):
    """A displayed value: MIME type → text, binary types in base64. `kind` is `result` or `display`.

    With `update`, the value replaces the value with the same `display_id`.
    """

    kind: str
    data: dict[str, str]
    execution_count: int = 0
    display_id: str = ""
    update: bool = False


class Raised(Numbered, frozen=True, tag="raised", kw_only=True):
    """The code raised an error. The innermost of the `frames`, which not every language has, is the last."""

    name: str
    value: str
    traceback: tuple[str, ...] = ()
    frames: tuple[CodeFrameView, ...] = ()


class Prompt(Numbered, frozen=True, tag="prompt", kw_only=True):
    """The run waits for a line of text by `input`."""

    prompt: str
    password: bool = False


class Context(ServerMessage, frozen=True, tag="context", kw_only=True):
    """A context."""

    id: str
    language: str
    busy: bool = False


class Language(ServerMessage, frozen=True, tag="language", kw_only=True):
    """A language of the image. `problem` says why it cannot be used; without a choice, `version` is empty."""

    name: str
    aliases: tuple[str, ...] = ()
    version: str = ""
    problem: str = ""


class Completion(ServerMessage, frozen=True, tag="completion", kw_only=True):
    """The possible replacements of the characters from `start` to `end`."""

    matches: tuple[str, ...]
    start: int
    end: int


class Inspection(ServerMessage, frozen=True, tag="inspection", kw_only=True):
    """The description of a name, by MIME type; empty for an unknown name."""

    data: dict[str, str]


class Pty(ServerMessage, frozen=True, tag="pty", kw_only=True):
    """A terminal. On `pty.attach`, `output_start` is the offset of the first byte that follows."""

    id: str
    running: bool
    output_start: int = 0
    output_end: int = 0


class File(ServerMessage, frozen=True, tag="file", kw_only=True):
    """A file. `mode` has octal digits; `modified_at` is Unix time in s."""

    path: str
    kind: str
    size: int
    mode: str
    modified_at: float
    owner: str
    group: str


class Activity(ServerMessage, frozen=True, tag="activity", kw_only=True):
    """An entry of the activity. A client that does not read, or gives no credit, gets `skipped` for what it misses."""

    entry: AnyEntry | msgspec.Raw  # encoded once for all who watch


class ServerCredit(ServerMessage, frozen=True, tag="credit", kw_only=True):
    """Allow the client to send this many more bytes of data."""

    bytes: int


class Finished(Numbered, frozen=True, tag="done", kw_only=True):
    """The end of a stream without an error. A command or run has a receipt.

    If the context of a run died, `message` has the cause.
    """

    receipt: Receipt | None = None
    message: str = ""


class Failed(Numbered, frozen=True, tag="failed", kw_only=True):
    """The end of a stream with an error. The codes are those of HTTP.

    A command or run whose sandbox was lost has a receipt with its output until then.
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
    | Language
    | Completion
    | Inspection
    | Pty
    | File
    | Activity
    | ServerCredit
    | Finished
    | Failed
)


class StreamRefused(Exception):
    """A message of a client is invalid, but names its stream: only this stream fails."""

    def __init__(self, stream: int, message: str, *, is_open: bool) -> None:
        super().__init__(message)
        self.stream = stream
        self.is_open = is_open  # whether the message is `open`, for a new stream


class _Head(msgspec.Struct):
    """The part of a message that must be valid, so that only one stream fails."""

    type: Literal["open", "data", "end", "credit", "cancel"]
    stream: StreamNumber
    operation: Any = None


class Codec:
    """The encoding of messages in one of the subprotocols."""

    def __init__(self, name: str) -> None:
        self.is_text = name == JSON
        self.encode = msgspec.json.Encoder().encode if self.is_text else msgspec.msgpack.Encoder().encode
        decoder: Any = msgspec.json.Decoder if self.is_text else msgspec.msgpack.Decoder
        self._decode = decoder(FromClient).decode
        self._decode_head = decoder(_Head).decode

    def decode(self, frame: str | bytes) -> FromClient:
        """Return the message of a client's frame.

        Raises:
            StreamRefused: the message names a stream, but is invalid otherwise.
            msgspec.MsgspecError, UnicodeDecodeError, RecursionError: the frame is no message.
        """
        try:
            message: FromClient = self._decode(frame)
        except msgspec.ValidationError as error:
            head: _Head = self._decode_head(frame)
            raise StreamRefused(head.stream, _problem(head, error), is_open=head.type == "open") from error
        return message


def _problem(head: _Head, error: msgspec.ValidationError) -> str:
    """Return the problem of a message; for an unknown operation, with the list of operations."""
    operation = head.operation.get("op") if isinstance(head.operation, dict) else None
    if head.type != "open" or operation in OPERATIONS:
        return str(error)
    return f"{error}; the operations are {', '.join(OPERATIONS)}"
