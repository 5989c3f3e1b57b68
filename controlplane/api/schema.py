"""The contract's JSON as msgspec Structs, and how a body becomes one. Optional fields are omitted, never null."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from controlplane.errors import InvalidRequest
from controlplane.link.stream import Stream
from controlplane.sandbox import Sandbox
from execd.wire.messages import ContextDone, ContextError, ProcessExited

MAX_JSON_BYTES = 1 << 20  # 1 MiB: commands, lists of paths, environments
MAX_CODE_BYTES = (16 << 20) - (1 << 16)  # what fits one message of the link, its other fields included
MAX_INPUT_CHARS = 16 * 1024  # a line, typed by somebody
MAX_PATH_BYTES = 4096  # Linux' own PATH_MAX

T = TypeVar("T")


class Wire(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Base of what the lifecycle API sends and takes."""


# -- lifecycle ----------------------------------------


class ImageAuth(Wire, frozen=True):
    """Registry credentials of one request."""

    username: str = ""
    password: str = ""


class Image(Wire, frozen=True):
    """`image`, in requests and answers."""

    uri: str
    auth: ImageAuth | None = None


class PlatformView(Wire, frozen=True, omit_defaults=False):
    """`platform`, in requests and answers: what the image must run on. Clients need both of its fields."""

    os: str = "linux"
    arch: str = "amd64"


class NetworkPolicy(Wire, frozen=True):
    """`networkPolicy`, as far as it is looked into."""

    default_action: str = "deny"
    egress: list[Any] = []


class CredentialProxy(Wire, frozen=True):
    """`credentialProxy`."""

    enabled: bool = False


class HostVolume(Wire, frozen=True):
    """`host`: a directory of the server's machine."""

    path: str


class ClaimVolume(Wire, frozen=True):
    """`pvc`: a volume by name. The last three are hints that a single machine has no use for."""

    claim_name: str
    create_if_not_exists: bool = True
    delete_on_sandbox_termination: bool = False
    storage_class: str | None = None
    storage: str | None = None
    access_modes: list[str] | None = None


class VolumeView(Wire, frozen=True):
    """One of `volumes`: exactly one of `host`, `pvc` and `ossfs`."""

    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str | None = None
    host: HostVolume | None = None
    pvc: ClaimVolume | None = None
    ossfs: dict[str, Any] | None = None


class CreateSandboxRequest(Wire, frozen=True):
    """The body of POST /sandboxes. What it means, and what of it is possible, is `admission.py`."""

    image: Image | None = None
    snapshot_id: str | None = None
    template_id: str | None = None
    entrypoint: tuple[str, ...] | None = None
    timeout: int | None = None
    resource_limits: dict[str, str] | None = None
    resource_requests: dict[str, str] | None = None
    env: dict[str, str | None] | None = None
    metadata: dict[str, str] | None = None
    extensions: dict[str, str] | None = None
    platform: PlatformView | None = None
    secure_access: bool | None = None
    network_policy: NetworkPolicy | None = None
    credential_proxy: CredentialProxy | None = None
    lifecycle: dict[str, Any] | None = None
    volumes: list[VolumeView] | None = None


class Status(Wire, frozen=True):
    """`status` of a sandbox."""

    state: str
    reason: str = ""
    message: str = ""
    last_transition_at: datetime | None = None


class SandboxView(Wire, frozen=True, kw_only=True):
    """A sandbox; without `image` it is also the answer to create."""

    id: str
    image: Image | None = None
    snapshot_id: str = ""
    status: Status
    metadata: dict[str, str] = {}
    extensions: dict[str, str] = {}
    platform: PlatformView | None = None
    entrypoint: tuple[str, ...] | UnsetType = UNSET
    expires_at: datetime | None = None
    created_at: datetime


class Pagination(Wire, frozen=True):
    """`pagination` of a list."""

    page: int
    page_size: int
    total_items: int
    total_pages: int
    has_next_page: bool


class SandboxPage(Wire, frozen=True):
    """The answer to GET /sandboxes."""

    items: list[SandboxView]
    pagination: Pagination


class Renewal(Wire, frozen=True):
    """`expiresAt`, asked and answered."""

    expires_at: datetime


class EndpointView(Wire, frozen=True):
    """Where a port of a sandbox is to be reached, and the headers that every request there must carry."""

    endpoint: str
    headers: dict[str, str] = {}


def view(sandbox: Sandbox, *, with_image: bool = True) -> SandboxView:
    """Return a sandbox as the contract shows it."""
    platform = sandbox.spec.platform
    return SandboxView(
        id=sandbox.id,
        image=Image(sandbox.requested_image) if with_image and sandbox.requested_image else None,
        snapshot_id=sandbox.snapshot_id if with_image else "",
        status=Status(sandbox.state.value, sandbox.reason, sandbox.message, sandbox.state_changed_at),
        metadata=sandbox.spec.metadata,
        extensions=sandbox.spec.extensions,
        platform=None if platform is None else PlatformView(platform.os, platform.arch),
        entrypoint=sandbox.spec.entrypoint,
        expires_at=sandbox.expires_at,
        created_at=sandbox.created_at,
    )


# -- execd ----------------------------------------

NonNegative = Annotated[int, Meta(ge=0)]
UserId = Annotated[int, Meta(ge=0, le=2**32 - 2)]


class RunCommandRequest(msgspec.Struct, frozen=True):
    """The body of POST /command: exactly one of `command` (for a shell) and `argv`. `timeout` in ms; 0 means none."""

    command: str | None = None
    argv: tuple[str, ...] | None = None
    cwd: str | None = None
    background: bool = False
    timeout: NonNegative | None = None
    uid: UserId | None = None
    gid: UserId | None = None
    envs: dict[str, str | None] | None = None


class ContextReference(msgspec.Struct, frozen=True):
    """Which context to run in; without an id, the language's default context."""

    language: str | None = None
    id: str | None = None


class RunCodeRequest(msgspec.Struct, frozen=True):
    """The body of POST /code. `timeout`, in ms, and `allow_input` are ours."""

    code: str
    context: ContextReference | None = None
    timeout: NonNegative | None = None
    allow_input: bool = False  # the client answers `input_request` events by POST /code/input


class CodeFrameView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call in a traceback, ours. `file` is a path, or what the language calls the code of a run."""

    file: str
    line: int = 0
    function: str = ""
    code: str = ""


def frames_of(error: ContextError) -> tuple[CodeFrameView, ...]:
    """Return the calls that led to an error, the innermost last; none where the language does not tell."""
    return tuple(CodeFrameView(frame.file, frame.line, frame.function, frame.code) for frame in error.frames)


class InputAnswer(msgspec.Struct, frozen=True):
    """The body of POST /code/input, ours: a line of text, or null for the end of input."""

    text: Annotated[str, Meta(max_length=MAX_INPUT_CHARS)] | None = None


class CursorRequest(msgspec.Struct, frozen=True):
    """The body of POST /code/contexts/{id}/complete and …/inspect, ours: code, and where the cursor stands in it."""

    code: Annotated[str, Meta(max_length=MAX_JSON_BYTES)]
    cursor: NonNegative | None = None  # in characters; at the end of the code when it is not given
    detail: bool = False  # inspect: with its source


class CompletionView(msgspec.Struct, frozen=True):
    """What may stand in place of the characters from `start` to `end`."""

    matches: tuple[str, ...]
    start: int
    end: int


class InspectionView(msgspec.Struct, frozen=True):
    """What the name at the cursor is: MIME type → text."""

    found: bool
    data: dict[str, str]


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run or command used, and how it ended, ours. Fields without a value are left out."""

    # Commands: exit, signal, timeout, oom, killed. Runs: ok, error, interrupted, timeout, oom, died. Both: link_lost.
    cause: str
    wall_s: float
    cpu_s: float
    peak_memory_bytes: int
    output_bytes: int
    exit_code: int = 0
    signal: int = 0
    died_of: str = ""  # runs whose context died: exit, signal, oom, killed, protocol
    limits_hit: tuple[str, ...] = ()  # memory, pids


def receipt_of(done: ContextDone | ProcessExited) -> Receipt:
    """Return the receipt of a run or a command."""
    return Receipt(
        cause=done.cause,
        wall_s=round(done.wall_s, 6),
        cpu_s=round(done.cpu_s, 6),
        peak_memory_bytes=done.peak_memory_bytes,
        output_bytes=done.output_bytes,
        exit_code=done.exit_code,
        signal=done.signal if isinstance(done, ProcessExited) else 0,
        died_of=done.died_of if isinstance(done, ContextDone) else "",
        limits_hit=done.limits_hit,
    )


def receipt_of_lost(stream: Stream) -> Receipt:
    """Return the receipt of a run or a command whose sandbox was lost: what was seen of it until then."""
    return Receipt("link_lost", round(time.monotonic() - stream.opened_at, 6), 0.0, 0, stream.data_bytes)


class CommandStatus(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A command. The two that may be null the contract wants even so."""

    id: str
    content: str
    running: bool
    exit_code: int | None
    started_at: datetime
    finished_at: datetime | None
    receipt: Receipt | UnsetType = UNSET
    error: str = ""  # how it ended, unless it ended well


class OpenTerminalRequest(msgspec.Struct, frozen=True):
    """The body of POST /pty, which may be left out. Beyond `cwd` and `command` it is ours."""

    cwd: str | None = None
    command: str | None = None
    envs: dict[str, str | None] | None = None
    uid: NonNegative | None = None
    gid: NonNegative | None = None
    cols: NonNegative = 80
    rows: NonNegative = 24


class TerminalView(msgspec.Struct, frozen=True):
    """A terminal."""

    session_id: str
    running: bool
    output_offset: int  # after the last byte of its output so far


class OpenSessionRequest(msgspec.Struct, frozen=True):
    """The body of POST /session, which may be left out."""

    cwd: str | None = None


class SessionView(msgspec.Struct, frozen=True):
    """The answer to it."""

    session_id: str


class RunInSessionRequest(msgspec.Struct, frozen=True):
    """The body of POST /session/{id}/run."""

    command: str
    cwd: str | None = None
    timeout: NonNegative | None = None  # ms; 0 is none


class OpenContextRequest(msgspec.Struct, frozen=True):
    """The body of POST /code/context. `cwd` is ours."""

    language: str | None = None
    cwd: str | None = None


class ContextView(msgspec.Struct, frozen=True):
    """A context."""

    id: str
    language: str


class Permissions(msgspec.Struct, frozen=True):
    """Mode, owner and group of one path. The octal digits of the mode stand as a decimal number: 755 means 0o755."""

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
    """One rename."""

    src: str
    dest: str


class Replacement(msgspec.Struct, frozen=True):
    """What to replace in one file."""

    old: str
    new: str


class FileView(msgspec.Struct, frozen=True):
    """FileInfo."""

    path: str
    type: str
    size: int
    mode: int  # octal digits as a decimal number
    modified_at: datetime
    created_at: datetime
    owner: str
    group: str


# -- bodies ----------------------------------------


async def read_json(request: Request, kind: type[T], *, limit: int = MAX_JSON_BYTES, code: str = "request.body") -> T:
    """Return the body as a *kind*.

    Raises:
        InvalidRequest: larger than *limit* bytes, no JSON, or not of that shape; the message names the field.
    """
    return decode(await read_body(request, limit, code=code), kind, code=code)


async def read_optional_json(request: Request, kind: type[T]) -> T:
    """Return the body as a *kind*, all of whose fields have defaults; an empty one is `{}`. Raises as `read_json`."""
    body = await read_body(request, MAX_JSON_BYTES, code="request.body")
    return decode(body if body.strip() else b"{}", kind, code="request.body")


async def read_body(request: Request, limit: int, *, code: str) -> bytes:
    """Return the whole body. Raises InvalidRequest when it has more than *limit* bytes; the rest is not kept."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise InvalidRequest(f"the body is larger than {limit} bytes", code=code)
    return bytes(body)


def decode(body: bytes, kind: type[T], *, code: str) -> T:
    """Decode JSON by type. Raises InvalidRequest with that code."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        field = where.rstrip("`").lstrip(".")
        raise InvalidRequest(f"{field}: {text}" if field else text, code=code) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}", code=code) from error


def json_answer(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return *value* as a JSON response."""
    return Response(msgspec.json.encode(value), status, headers, media_type="application/json")


def utc(seconds: float) -> datetime:
    """Return a Unix time as an aware datetime; what no calendar holds (execd is not trusted) as the epoch."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0, UTC)


# -- parameters ----------------------------------------


def required(request: Request, name: str) -> str:
    """Return a query parameter. Raises InvalidRequest when it is missing or empty."""
    if value := request.query_params.get(name):
        return value
    raise InvalidRequest(f"query parameter {name!r} is missing", code="request.query")


def integer(
    request: HTTPConnection, name: str, *, least: int = 0, most: int = 2**63 - 1, code: str = "request.query"
) -> int | None:
    """Return a query parameter as a number; None when it is not given. Raises InvalidRequest."""
    text = request.query_params.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        limit = f"at least {least}" if most > 2**31 else f"from {least} to {most}"
        raise InvalidRequest(f"query parameter {name!r} must be a whole number, {limit}", code=code)
    return int(text)


def port_number(text: str) -> int:
    """Read a TCP port of a path. Raises InvalidRequest."""
    if text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= 65535:
        return int(text)
    raise InvalidRequest("port: must be a number from 1 to 65535", code="endpoint.invalid_port")


def flag(request: HTTPConnection, name: str, *, code: str = "request.query") -> bool:
    """Return a query parameter that is true or false, false when it is not given. Raises InvalidRequest."""
    match request.query_params.get(name, "").lower():
        case "true" | "1":
            return True
        case "" | "false" | "0":
            return False
        case text:
            raise InvalidRequest(f"query parameter {name!r} must be true or false, not {text[:64]!r}", code=code)


def clean_path(path: str, name: str = "path", *, code: str = "request.body") -> str:
    """Return a path of the sandbox after the checks that need no sandbox. Raises InvalidRequest."""
    if not path:
        raise InvalidRequest(f"{name} must not be empty", code=code)
    if "\0" in path:
        raise InvalidRequest(f"{name} must not contain NUL", code=code)
    if len(path.encode(errors="surrogatepass")) > MAX_PATH_BYTES:
        raise InvalidRequest(f"{name} is longer than {MAX_PATH_BYTES} bytes", code=code)
    return path


def clean_env(env: dict[str, str | None] | None, name: str, *, code: str = "request.body") -> dict[str, str]:
    """Return environment variables; those that are null are left out. Raises InvalidRequest."""
    clean = {key: value for key, value in (env or {}).items() if value is not None}
    for key, value in clean.items():
        if not key or "=" in key or "\0" in key:
            raise InvalidRequest(f"{name}: {key!r} cannot be the name of a variable", code=code)
        if "\0" in value:
            raise InvalidRequest(f"{name}.{key}: must not contain NUL", code=code)
    return clean


def permission_bits(digits: int | None, name: str, *, code: str = "request.body") -> int | None:
    """Return the bits that the digits of a mode mean (755 → 0o755); None for none, and for 0. Raises InvalidRequest."""
    if not digits:
        return None
    try:
        bits = int(str(digits), 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o7777:
        raise InvalidRequest(f"{name}: {digits} is not a mode such as 644 or 755", code=code)
    return bits


def mode_digits(bits: int) -> int:
    """Return a mode as the contract writes it: 0o755 → 755."""
    return int(f"{bits & 0o7777:o}")
