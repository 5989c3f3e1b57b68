"""`/v1/isolated`: sessions in namespaces of their own, inside of a sandbox. docs/isolation.md says what they see.

The contract as the official clients have it (OSEP-0013; `opensandbox.models.isolated` of the Python SDK).
"""

from __future__ import annotations

import time
import uuid
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.bodies import json_answer, read_json, utc
from controlplane.api.edge.parameters import clean_env, clean_path, integer, no_nul, sandbox_id_of
from controlplane.api.edge.responses import StreamResponse, copy_data
from controlplane.api.execd.schema import MAX_SCRIPT_BODY_BYTES, UserId
from controlplane.api.execd.sessions import run_in_session
from controlplane.api.runs.receipt import Receipt
from controlplane.api.runs.replies import Replies
from controlplane.errors import InvalidRequest, LinkLost
from controlplane.sandbox import ISOLATION_KEY
from execd.wire.discreet import Discreet
from execd.wire.messages import (
    Done,
    Isolation,
    IsolationBind,
    IsolationMount,
    IsolationRead,
    IsolationState,
    JobState,
    SessionClose,
    SessionJob,
    SessionList,
    SessionOpen,
    SessionRun,
    SessionState,
)

if TYPE_CHECKING:
    from controlplane.api.runs.runs import Runs
    from controlplane.link.relay import Relay

MAX_MOUNTS = 16
MAX_BINDS = 128  # of `binds` and `extra_writable` together
MAX_KEYS = 256
MAX_LIST = 1000  # sessions in one answer; execd has fewer
MAX_ECHO_BYTES = 64 * 1024  # the description of a session, which answers repeat
CURSOR_HEADER = b"execd-isolated-tail-cursor"
MAX_LOG_BYTES = 16 << 20  # of a background run, at once

Mode = Literal["rw", "ro", "overlay"]


class Workspace(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first mount of a session, in the older form."""

    path: str
    mode: Mode | None = None  # rw


class Overlay(msgspec.Struct, frozen=True, omit_defaults=True):
    """A mount of a session."""

    path: str
    mode: Mode | None = None  # overlay
    persist: bool | None = None  # no effect: the written files are readable while the session exists, and end with it


class BindMount(msgspec.Struct, frozen=True, omit_defaults=True):
    """A path of the sandbox that a session has at `dest`, or at the same path."""

    source: str
    dest: str | None = None
    readonly: bool | None = None


class EnvPassthrough(msgspec.Struct, frozen=True):
    """The sandbox's variables that a session gets: only `keys` (`allow`), or all but `keys` (`deny`)."""

    mode: Literal["allow", "deny"] = "deny"
    keys: list[str] = []


class CreateIsolatedSession(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a request to open an isolated session. Answers repeat it with all defaults."""

    workspace: Workspace | None = None
    overlays: list[Overlay] | None = None
    profile: Literal["strict", "balanced"] | None = None  # strict
    extra_writable: list[str] | None = None
    binds: list[BindMount] | None = None
    share_net: bool | None = None  # by default: strict no network, balanced that of the sandbox
    env_passthrough: EnvPassthrough | None = None  # by default: strict no variables, balanced all
    uid: UserId | None = None
    gid: UserId | None = None
    uid_mode: Literal["setpriv", "userns"] | None = None  # setpriv: the user itself; userns: only the name of the user
    idle_timeout_seconds: Annotated[int, msgspec.Meta(ge=0, le=30 * 86400)] | None = None  # 0: none


class IsolatedSessionView(CreateIsolatedSession, frozen=True, omit_defaults=True, kw_only=True):
    """An isolated session: its properties as requested, and its state."""

    session_id: str
    created_at: datetime
    status: Literal["active", "dead"] | None = None
    last_run_at: datetime | None = None
    idle_remaining_seconds: int | None = None


class IsolatedSessionList(msgspec.Struct, frozen=True):
    """The answer to a request to list the isolated sessions."""

    sessions: list[IsolatedSessionView]


class IsolatedRun(Discreet, msgspec.Struct, frozen=True):
    """The body of a request to run code in an isolated session."""

    code: str
    envs: dict[str, str | None] | None = None
    timeout_seconds: Annotated[int, msgspec.Meta(ge=0, le=30 * 86400)] | None = None  # not for a background run
    background: bool = False


class BackgroundRun(msgspec.Struct, frozen=True):
    """The answer to a background run."""

    session_id: str
    run_id: str
    started_at: datetime


class BackgroundRunStatus(msgspec.Struct, frozen=True):
    """The status of a background run. `exit_code` and `finished_at` are null while it runs."""

    session_id: str
    run_id: str
    running: bool
    started_at: datetime
    exit_code: int | None
    finished_at: datetime | None
    error: str = ""
    receipt: Receipt | UnsetType = UNSET


class Layer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of one means of hardening."""

    state: Literal["active", "degraded", "disabled", "unsupported"]
    message: str = ""  # the reason why the layer is not active


class Hardening(msgspec.Struct, frozen=True):
    """Further means of hardening between a session and its sandbox."""

    init_mode: Literal["none", "pid1", "subreaper"]
    signal_shield: bool
    cap_drop: Layer
    seccomp: Layer
    landlock: Layer
    ebpf: Layer


class CapabilitiesView(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The answer to GET /v1/isolated/capabilities."""

    available: bool
    setpriv_available: bool
    userns_available: bool
    commit_supported: bool
    diff_supported: bool
    hardening: Hardening
    isolator: str = ""
    version: str = ""
    message: str = ""  # the reason why isolation is not available


class Isolations:
    """The endpoints of isolated sessions. Their foreground runs are the same as those of bash sessions."""

    def __init__(self, relay: Relay, runs: Runs) -> None:
        self._relay = relay
        self._runs = runs

    async def capabilities(self, request: Request) -> Response:
        """Try in the sandbox what isolated sessions can do, and return the result."""
        state = await self._relay.call(sandbox_id_of(request), IsolationRead(), IsolationState)
        return json_answer(_capabilities(state))

    async def create(self, request: Request) -> Response:
        """Open an isolated session."""
        wish = await read_json(request, CreateIsolatedSession)
        effective = _effective(wish)
        memo = msgspec.json.encode(effective).decode()
        if len(memo) > MAX_ECHO_BYTES:
            raise _invalid(f"the session's description: is longer than {MAX_ECHO_BYTES} bytes")
        session_id = str(uuid.uuid4())
        opening = SessionOpen(session_id, isolation=_isolation(effective), memo=memo)
        await self._relay.call(sandbox_id_of(request), opening, Done)
        view = IsolatedSessionView(session_id=session_id, created_at=utc(time.time()), **_fields(effective))
        return json_answer(view, 201)

    async def list(self, request: Request) -> Response:
        """List the isolated sessions."""
        found: list[SessionState] = []
        async with await self._relay.open(sandbox_id_of(request), SessionList()) as stream:
            while (state := await stream.receive()) is not None:
                if not isinstance(state, SessionState) or len(found) >= MAX_LIST:
                    raise LinkLost("the agent's list of sessions is not one")
                found.append(state)
        return json_answer(IsolatedSessionList([_view(state) for state in found]))

    async def get(self, request: Request) -> Response:
        """Return an isolated session."""
        message = SessionList(request.path_params["session_id"])
        return json_answer(_view(await self._relay.call(sandbox_id_of(request), message, SessionState)))

    async def delete(self, request: Request) -> Response:
        """End an isolated session with all its processes, and drop the contents of its overlays."""
        message = SessionClose(request.path_params["session_id"])
        await self._relay.call(sandbox_id_of(request), message, Done)
        return Response()

    async def run(self, request: Request) -> Response | StreamResponse:
        """Run code and stream its events; with `background`, return the id of the run."""
        body = await read_json(request, IsolatedRun, limit=MAX_SCRIPT_BODY_BYTES)
        if not no_nul(body.code, "code").strip():
            raise _invalid("code: must not be empty")
        session_id, env = request.path_params["session_id"], clean_env(body.envs, "envs")
        if body.background:
            return await self._run_behind(request, SessionRun(session_id, body.code, env=env, job=str(uuid.uuid4())))
        timeout_s = self._runs.limit(body.timeout_seconds)
        message = SessionRun(session_id, body.code, timeout_s=timeout_s, env=env)
        return await run_in_session(self._runs, request, message)

    async def _run_behind(self, request: Request, message: SessionRun) -> Response:
        async with await self._relay.open(sandbox_id_of(request), message) as stream:
            ended = await Replies(stream).outcome()
        if ended.receipt.cause != "ok":
            raise LinkLost(f"the session could not begin it: {ended.message or ended.receipt.cause}")
        return json_answer(BackgroundRun(message.id, message.job, utc(time.time())), 202)

    async def status(self, request: Request) -> Response:
        """Return the status of a background run."""
        message = SessionJob(request.path_params["session_id"], request.path_params["run_id"])
        job = await self._relay.call(sandbox_id_of(request), message, JobState)
        return json_answer(
            BackgroundRunStatus(
                session_id=message.id,
                run_id=message.job,
                running=job.finished_at is None,
                started_at=utc(job.started_at),
                exit_code=job.exit_code,
                finished_at=None if job.finished_at is None else utc(job.finished_at),
                error=job.error,
                receipt=_receipt(job),
            )
        )

    async def logs(self, request: Request) -> StreamResponse:
        """Return the output of a background run from byte `cursor` on, at most 16 MiB."""
        offset = integer(request, "cursor") or 0
        if offset < 0:
            raise InvalidRequest("cursor: must not be negative", code="request.query")
        message = SessionJob(request.path_params["session_id"], request.path_params["run_id"], offset)
        stream, job = await self._relay.begin(sandbox_id_of(request), message, JobState)
        end = job.output_end
        if end is None:  # an agent from before this field
            end = min(max(job.output_bytes, offset), offset + MAX_LOG_BYTES)
        headers = ((b"content-type", b"text/plain; charset=utf-8"), (CURSOR_HEADER, b"%d" % end))
        return StreamResponse(partial(copy_data, stream), close=stream.close, headers=headers)


def _effective(wish: CreateIsolatedSession) -> CreateIsolatedSession:
    """Return a wish with defaults filled in, and checked for what is not for execd to know. Raises InvalidRequest."""
    overlays = [Overlay(one.path, one.mode or "overlay", one.persist) for one in wish.overlays or ()]
    if wish.workspace is not None:
        overlays.insert(0, Overlay(wish.workspace.path, wish.workspace.mode or "rw"))
    if not 1 <= len(overlays) <= MAX_MOUNTS:
        raise _invalid(f"workspace, overlays: there must be at least one, and no more than {MAX_MOUNTS}")
    for one in overlays:
        _check_path(one.path, "path")
        if one.persist is not None and one.mode != "overlay":
            raise _invalid(f"{one.path}: persist means nothing in mode {one.mode}")
    writable, binds = wish.extra_writable or [], wish.binds or []
    targets = [one.path for one in overlays] + writable + [one.dest or one.source for one in binds]
    if len(targets) - len(overlays) > MAX_BINDS:
        raise _invalid(f"extra_writable, binds: no more than {MAX_BINDS} together")
    for name, path in (("extra_writable", path) for path in writable):
        _check_path(path, name)
    for bind in binds:
        _check_path(bind.source, "source")
        _check_path(bind.dest or bind.source, "dest")
    if twice := {path for path in targets if targets.count(path) > 1}:
        raise _invalid(f"{min(twice)}: is to be two things at once")
    if wish.gid is not None and wish.uid is None:
        raise _invalid("gid: needs uid as well")
    profile = wish.profile or "strict"
    passthrough = wish.env_passthrough or EnvPassthrough("allow" if profile == "strict" else "deny")
    if len(passthrough.keys) > MAX_KEYS:
        raise _invalid(f"env_passthrough.keys: no more than {MAX_KEYS}")
    return msgspec.structs.replace(
        wish,
        profile=profile,
        workspace=Workspace(overlays[0].path, overlays[0].mode) if len(overlays) == 1 else None,
        overlays=overlays,
        share_net=profile == "balanced" if wish.share_net is None else wish.share_net,
        env_passthrough=passthrough,
        uid_mode=wish.uid_mode or "setpriv",
        idle_timeout_seconds=wish.idle_timeout_seconds or 0,
    )


def _isolation(session: CreateIsolatedSession) -> Isolation:
    passthrough = session.env_passthrough or EnvPassthrough()
    keys = tuple(passthrough.keys)
    return Isolation(
        mounts=tuple(IsolationMount(one.path, one.mode or "overlay") for one in session.overlays or ()),
        binds=(
            *(IsolationBind(path, path, read_only=False) for path in session.extra_writable or ()),
            *(IsolationBind(one.source, one.dest or one.source, bool(one.readonly)) for one in session.binds or ()),
        ),
        network=bool(session.share_net),
        env_only=keys if passthrough.mode == "allow" else None,
        env_without=keys if passthrough.mode == "deny" else (),
        uid=session.uid,
        gid=session.gid,
        only_called=session.uid_mode == "userns",
        idle_s=session.idle_timeout_seconds or 0,
    )


def _check_path(path: str, name: str) -> None:
    clean_path(path, name)
    if not path.startswith("/") or (path != "/" and {"", ".", ".."} & set(path[1:].split("/"))):
        raise _invalid(f"{name}: {path[:200]} must be absolute, without a slash at its end, `.` or `..`")


def _view(state: SessionState) -> IsolatedSessionView:
    try:
        asked = msgspec.json.decode(state.memo, type=CreateIsolatedSession)
    except msgspec.MsgspecError:
        asked = CreateIsolatedSession()  # execd is not trusted
    return IsolatedSessionView(
        session_id=state.id,
        created_at=utc(state.created_at),
        status="active" if state.alive else "dead",
        last_run_at=utc(state.last_run_at),
        idle_remaining_seconds=state.idle_left_s,
        **_fields(asked),
    )


def _fields(session: CreateIsolatedSession) -> dict[str, Any]:
    return {name: getattr(session, name) for name in CreateIsolatedSession.__struct_fields__}


def _capabilities(state: IsolationState) -> CapabilitiesView:
    hint = f"; a sandbox asks for it when it is created, by the extension {ISOLATION_KEY}=enable"
    return CapabilitiesView(
        available=state.available,
        setpriv_available=state.available,
        userns_available=state.available,
        commit_supported=False,
        diff_supported=False,
        hardening=Hardening(
            init_mode="pid1" if state.is_init else "none",
            signal_shield=state.is_init,
            cap_drop=_layer(state.capped, "all capabilities are within reach"),
            seccomp=_layer(state.seccomp, "no system call is refused"),
            landlock=Layer("disabled", "namespaces say what a session sees"),
            ebpf=Layer("unsupported", "nothing is observed"),
        ),
        isolator="bubblewrap" if state.version else "",
        version=state.version,
        message="" if state.available else state.message + hint,
    )


def _receipt(job: JobState) -> Receipt | UnsetType:
    """Return the receipt of an ended job, whose memory is unknown."""
    if job.finished_at is None:
        return UNSET
    return Receipt(
        cause="killed" if job.exit_code is None else "exit",
        wall_s=round(max(0.0, job.finished_at - job.started_at), 6),
        cpu_s=round(job.cpu_s, 6),
        peak_memory_bytes=0,
        output_bytes=job.output_bytes,
        exit_code=job.exit_code or 0,
    )


def _layer(is_active: bool, why_not: str) -> Layer:
    return Layer("active") if is_active else Layer("disabled", why_not)


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="request.body")
