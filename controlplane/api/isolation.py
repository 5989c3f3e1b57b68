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

from controlplane.api.schema import Receipt, clean_env, clean_path, integer, json_answer, read_json, utc
from controlplane.api.streaming import StreamResponse, copy_data
from controlplane.errors import InvalidRequest, LinkLost
from controlplane.sandbox import ISOLATION_KEY
from execd.wire.messages import (
    ContextDone,
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
    from controlplane.api.sessions import Sessions
    from controlplane.link.relay import Relay

MAX_MOUNTS = 16
MAX_BINDS = 128  # of `binds` and `extra_writable` together
MAX_KEYS = 256
MAX_LIST = 1000  # sessions in one answer; execd has fewer
MAX_ECHO_BYTES = 64 * 1024  # what a session was asked to be, as it is told again
CURSOR_HEADER = b"execd-isolated-tail-cursor"
MAX_LOG_BYTES = 16 << 20  # of a background run, at once

Mode = Literal["rw", "ro", "overlay"]
Identifier = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 2)]


class Workspace(msgspec.Struct, frozen=True, omit_defaults=True):
    """`workspace`: the first of the mounts, in its older form."""

    path: str
    mode: Mode | None = None  # rw


class Overlay(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of `overlays`."""

    path: str
    mode: Mode | None = None  # overlay
    persist: bool | None = None  # of no effect: what is written is readable while the session lives, and ends with it


class BindMount(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of `binds`."""

    source: str
    dest: str | None = None  # the same
    readonly: bool | None = None


class EnvPassthrough(msgspec.Struct, frozen=True):
    """`env_passthrough`: allow these variables only, or all but these."""

    mode: Literal["allow", "deny"] = "deny"
    keys: list[str] = []


class CreateIsolatedSession(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of POST /v1/isolated/session; also told again in answers, with defaults filled in."""

    workspace: Workspace | None = None
    overlays: list[Overlay] | None = None
    profile: Literal["strict", "balanced"] | None = None  # strict
    extra_writable: list[str] | None = None
    binds: list[BindMount] | None = None
    share_net: bool | None = None  # the profile's: strict has none, balanced that of the sandbox
    env_passthrough: EnvPassthrough | None = None  # the profile's: strict none, balanced all
    uid: Identifier | None = None
    gid: Identifier | None = None
    uid_mode: Literal["setpriv", "userns"] | None = None  # setpriv: really that user; userns: only called so
    idle_timeout_seconds: Annotated[int, msgspec.Meta(ge=0, le=30 * 86400)] | None = None  # 0: none


class IsolatedSessionView(CreateIsolatedSession, frozen=True, omit_defaults=True, kw_only=True):
    """A session: what it was asked to be, and what has become of it."""

    session_id: str
    created_at: datetime
    status: Literal["active", "dead"] | None = None
    last_run_at: datetime | None = None
    idle_remaining_seconds: int | None = None


class IsolatedSessionList(msgspec.Struct, frozen=True):
    """The answer of GET /v1/isolated/sessions."""

    sessions: list[IsolatedSessionView]


class IsolatedRun(msgspec.Struct, frozen=True):
    """The body of POST …/run."""

    code: str
    envs: dict[str, str | None] | None = None
    timeout_seconds: Annotated[int, msgspec.Meta(ge=0, le=30 * 86400)] | None = None  # not of a background run
    background: bool = False


class BackgroundRun(msgspec.Struct, frozen=True):
    """The answer to a background run."""

    session_id: str
    run_id: str
    started_at: datetime


class BackgroundRunStatus(msgspec.Struct, frozen=True):
    """A background run. The two that may be null the contract wants even so; the receipt is ours."""

    session_id: str
    run_id: str
    running: bool
    started_at: datetime
    exit_code: int | None
    finished_at: datetime | None
    error: str = ""
    receipt: Receipt | UnsetType = UNSET


class Layer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One means of hardening."""

    state: Literal["active", "degraded", "disabled", "unsupported"]
    message: str = ""  # why it is not active


class Hardening(msgspec.Struct, frozen=True):
    """What else stands between a session and the sandbox around it."""

    init_mode: Literal["none", "pid1", "subreaper"]
    signal_shield: bool
    cap_drop: Layer
    seccomp: Layer
    landlock: Layer
    ebpf: Layer


class CapabilitiesView(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The answer of GET /v1/isolated/capabilities."""

    available: bool
    setpriv_available: bool
    userns_available: bool
    commit_supported: bool
    diff_supported: bool
    hardening: Hardening
    isolator: str = ""
    version: str = ""
    message: str = ""  # why it is not available


class Isolations:
    """The endpoints. Their runs in the foreground are those of any session."""

    def __init__(self, relay: Relay, sessions: Sessions, timeout_s: float | None) -> None:
        self._relay = relay
        self._sessions = sessions
        self._timeout_s = timeout_s

    async def capabilities(self, request: Request) -> Response:
        """GET /v1/isolated/capabilities: it is tried out in the sandbox."""
        state = await self._relay.call(request.path_params["sandbox_id"], IsolationRead(), IsolationState)
        return json_answer(_capabilities(state))

    async def create(self, request: Request) -> Response:
        """POST /v1/isolated/session."""
        wish = await read_json(request, CreateIsolatedSession)
        effective = _effective(wish)
        memo = msgspec.json.encode(effective).decode()
        if len(memo) > MAX_ECHO_BYTES:
            raise _invalid(f"the session's description: is longer than {MAX_ECHO_BYTES} bytes")
        session_id = str(uuid.uuid4())
        opening = SessionOpen(session_id, isolation=_isolation(effective), memo=memo)
        await self._relay.call(request.path_params["sandbox_id"], opening, Done)
        view = IsolatedSessionView(session_id=session_id, created_at=utc(time.time()), **_fields(effective))
        return json_answer(view, 201)

    async def list(self, request: Request) -> Response:
        """GET /v1/isolated/sessions."""
        found: list[SessionState] = []
        async with await self._relay.open(request.path_params["sandbox_id"], SessionList()) as stream:
            while (state := await stream.receive()) is not None:
                if not isinstance(state, SessionState) or len(found) >= MAX_LIST:
                    raise LinkLost("the agent's list of sessions is not one")
                found.append(state)
        return json_answer(IsolatedSessionList([_view(state) for state in found]))

    async def get(self, request: Request) -> Response:
        """GET /v1/isolated/session/{id}."""
        message = SessionList(request.path_params["session_id"])
        return json_answer(_view(await self._relay.call(request.path_params["sandbox_id"], message, SessionState)))

    async def delete(self, request: Request) -> Response:
        """DELETE /v1/isolated/session/{id}: with all it runs, and what it has written to overlays."""
        message = SessionClose(request.path_params["session_id"])
        await self._relay.call(request.path_params["sandbox_id"], message, Done)
        return Response()

    async def run(self, request: Request) -> Response | StreamResponse:
        """POST /v1/isolated/session/{id}/run: events of the run, or with `background` where it can be asked about."""
        body = await read_json(request, IsolatedRun)
        if not body.code.strip() or "\0" in body.code:
            raise _invalid("code: must not be empty, nor contain NUL")
        session_id, env = request.path_params["session_id"], clean_env(body.envs, "envs")
        if body.background:
            return await self._run_behind(request, SessionRun(session_id, body.code, env=env, job=str(uuid.uuid4())))
        timeout_s = float(body.timeout_seconds) if body.timeout_seconds else self._timeout_s
        return await self._sessions.stream(request, SessionRun(session_id, body.code, timeout_s=timeout_s, env=env))

    async def _run_behind(self, request: Request, message: SessionRun) -> Response:
        async with await self._relay.open(request.path_params["sandbox_id"], message) as stream:
            while (reply := await stream.receive()) is not None:
                if isinstance(reply, ContextDone) and reply.cause != "ok":
                    raise LinkLost(f"the session could not begin it: {reply.message or reply.cause}")
        return json_answer(BackgroundRun(message.id, message.job, utc(time.time())), 202)

    async def status(self, request: Request) -> Response:
        """GET …/runs/{run_id}: how a background run stands."""
        message = SessionJob(request.path_params["session_id"], request.path_params["run_id"])
        job = await self._relay.call(request.path_params["sandbox_id"], message, JobState)
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
        """GET …/runs/{run_id}/logs?cursor=: what a background run has printed since that byte, 16 MiB at most."""
        offset = integer(request, "cursor") or 0
        if offset < 0:
            raise InvalidRequest("cursor: must not be negative", code="request.query")
        message = SessionJob(request.path_params["session_id"], request.path_params["run_id"], offset)
        stream = await self._relay.open(request.path_params["sandbox_id"], message)
        try:
            job = await stream.expect(JobState)
        except BaseException:
            stream.close()
            raise
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
    """What is known of a job that has ended: not its memory."""
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
