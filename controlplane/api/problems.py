"""Errors → HTTP: the one table. What leaves here is always flat `{"code", "message"}`.

An error has a status and a code of the OpenSandbox contract, by its class or, where that says more, by its own code.
The contract documents which statuses an operation may answer with; clients lose code and message of any other one.
So a status that the operation does not document is replaced by the nearest one that it does (`NEAREST`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Scope

from controlplane.errors import (
    AgentError,
    CapacityExhausted,
    ConfigError,
    Conflict,
    EngineUnavailable,
    ImageMissing,
    InvalidRequest,
    LinkClosed,
    LinkLost,
    NotFound,
    RuntimeFailure,
    SandlotError,
    StartFailed,
    VolumeRefused,
)

log = structlog.get_logger()


class Problem(msgspec.Struct, frozen=True):
    """How an error looks outside: HTTP status and the contract's code."""

    status: int
    code: str


BY_CLASS: dict[type[SandlotError], Problem] = {
    SandlotError: Problem(500, "SANDBOX::INTERNAL_ERROR"),
    ConfigError: Problem(500, "SANDBOX::INTERNAL_ERROR"),
    InvalidRequest: Problem(400, "SANDBOX::INVALID_PARAMETER"),
    NotFound: Problem(404, "DOCKER::SANDBOX_NOT_FOUND"),
    Conflict: Problem(409, "DOCKER::SANDBOX_NOT_RUNNING"),
    CapacityExhausted: Problem(429, "KUBERNETES::POOL_CAPACITY_EXHAUSTED"),
    RuntimeFailure: Problem(500, "DOCKER::SANDBOX_QUERY_FAILED"),
    EngineUnavailable: Problem(500, "DOCKER::INITIALIZATION_ERROR"),
    # The caller named an image that is not here: that is the caller's to mend.
    ImageMissing: Problem(400, "DOCKER::SANDBOX_IMAGE_PULL_FAILED"),
    VolumeRefused: Problem(400, "VOLUME::PVC_NOT_FOUND"),
    StartFailed: Problem(500, "DOCKER::SANDBOX_START_FAILED"),
    LinkClosed: Problem(502, "BACKEND_CONNECTION_FAILED"),
    LinkLost: Problem(502, "BACKEND_CONNECTION_FAILED"),
    AgentError: Problem(500, "RUNTIME_ERROR"),
}

# Our own codes, where the class alone says too little.
BY_CODE: dict[str, Problem] = {
    "request.key_reused": Problem(409, "SANDBOX::INVALID_PARAMETER"),
    "sandbox.not_paused": Problem(409, "DOCKER::SANDBOX_NOT_PAUSED"),
    "sandbox.pause_failed": Problem(500, "DOCKER::SANDBOX_PAUSE_FAILED"),
    "sandbox.resume_failed": Problem(500, "DOCKER::SANDBOX_RESUME_FAILED"),
    "sandbox.not_running": Problem(409, "DOCKER::SANDBOX_NOT_RUNNING"),
    "sandbox.invalid_entrypoint": Problem(400, "DOCKER::INVALID_ENTRYPOINT"),
    "sandbox.invalid_expiration": Problem(400, "DOCKER::INVALID_EXPIRATION"),
    "sandbox.invalid_metadata": Problem(400, "SANDBOX::INVALID_METADATA_LABEL"),
    "sandbox.unsupported": Problem(400, "SANDBOX::API_NOT_SUPPORTED"),
    "run.not_found": Problem(404, "RUN_NOT_FOUND"),
    "run.lost": Problem(404, "RUN_EVENTS_LOST"),
    "run.taken": Problem(409, "ALREADY_CONNECTED"),
    "snapshot.not_found": Problem(404, "SNAPSHOT::NOT_FOUND"),
    "snapshot.not_ready": Problem(409, "SNAPSHOT::NOT_READY"),
    "snapshot.in_use": Problem(409, "SNAPSHOT::IN_USE"),
    "snapshot.too_many": Problem(409, "SNAPSHOT::TOO_MANY"),
    "snapshot.source_state": Problem(409, "SNAPSHOT::INVALID_SOURCE_STATE"),
    "snapshot.remove_failed": Problem(500, "DOCKER::SNAPSHOT_IMAGE_REMOVE_FAILED"),
    "diagnostics.scope": Problem(400, "DIAGNOSTICS_SCOPE_UNSUPPORTED"),
    "volume.name": Problem(400, "VOLUME::INVALID_NAME"),
    "volume.duplicate_name": Problem(400, "VOLUME::DUPLICATE_NAME"),
    "volume.backend": Problem(400, "VOLUME::INVALID_BACKEND"),
    "volume.unsupported_backend": Problem(400, "VOLUME::UNSUPPORTED_BACKEND"),
    "volume.mount_path": Problem(400, "VOLUME::INVALID_MOUNT_PATH"),
    "volume.sub_path": Problem(400, "VOLUME::INVALID_SUB_PATH"),
    "volume.claim_name": Problem(400, "VOLUME::INVALID_PVC_NAME"),
    "volume.host_path": Problem(400, "VOLUME::INVALID_HOST_PATH"),
    "volume.host_path_not_allowed": Problem(400, "VOLUME::HOST_PATH_NOT_ALLOWED"),
    "volume.host_path_not_found": Problem(400, "VOLUME::HOST_PATH_NOT_FOUND"),
    "endpoint.invalid_port": Problem(400, "DOCKER::INVALID_PORT"),
    "port.response": Problem(502, "BACKEND_RESPONSE_FAILED"),
    "request.body": Problem(400, "INVALID_REQUEST_BODY"),
    "request.query": Problem(400, "MISSING_QUERY"),
    "upload.metadata": Problem(400, "INVALID_FILE_METADATA"),
    "upload.file": Problem(400, "INVALID_FILE"),
    "upload.content": Problem(400, "INVALID_FILE_CONTENT"),
    "download.range": Problem(416, "INVALID_FILE"),
}

# What execd says (`execd/errors.py` lists its codes).
BY_AGENT_CODE: dict[str, Problem] = {
    "request.invalid": Problem(400, "INVALID_REQUEST_BODY"),
    "request.unsupported": Problem(500, "NOT_SUPPORTED"),  # an execd older than this control plane
    "process.not_found": Problem(404, "COMMAND_NOT_FOUND"),
    "process.spawn_failed": Problem(400, "RUNTIME_ERROR"),
    "process.duplicate": Problem(500, "RUNTIME_ERROR"),
    "file.not_found": Problem(404, "FILE_NOT_FOUND"),
    "file.exists": Problem(400, "INVALID_FILE"),
    "file.is_directory": Problem(400, "INVALID_FILE"),
    "file.not_directory": Problem(400, "INVALID_FILE"),
    "file.not_regular": Problem(400, "INVALID_FILE"),
    "file.bad_path": Problem(400, "INVALID_FILE"),
    "file.denied": Problem(400, "INVALID_FILE"),
    "file.no_space": Problem(500, "RUNTIME_ERROR"),
    "file.range": Problem(416, "INVALID_FILE"),
    "file.failed": Problem(500, "RUNTIME_ERROR"),
    "context.not_found": Problem(404, "CONTEXT_NOT_FOUND"),
    "context.unsupported": Problem(400, "NOT_SUPPORTED"),
    "context.start_failed": Problem(500, "RUNTIME_ERROR"),
    "context.refused": Problem(400, "RUNTIME_ERROR"),  # by its runner: a directory that is not there, for one
    "context.duplicate": Problem(500, "RUNTIME_ERROR"),
    "context.too_many": Problem(400, "RUNTIME_ERROR"),
    "context.not_forkable": Problem(409, "CONTEXT_NOT_FORKABLE"),
    "context.no_answer": Problem(504, "CONTEXT_BUSY"),
    "context.no_input": Problem(409, "CONTEXT_WAITS_FOR_NO_INPUT"),
    "session.not_found": Problem(404, "SESSION_NOT_FOUND"),
    "session.ended": Problem(404, "SESSION_ENDED"),
    "session.no_job": Problem(404, "RUN_NOT_FOUND"),
    "isolation.unsupported": Problem(503, "NOT_SUPPORTED"),
    "pty.not_found": Problem(404, "SESSION_NOT_FOUND"),
    "pty.attached": Problem(409, "ALREADY_CONNECTED"),
    "pty.too_many": Problem(400, "RUNTIME_ERROR"),
    "port.refused": Problem(502, "BACKEND_CONNECTION_FAILED"),
    "port.timeout": Problem(504, "BACKEND_TIMEOUT"),
    "port.failed": Problem(502, "BACKEND_RESPONSE_FAILED"),
    "internal": Problem(500, "RUNTIME_ERROR"),
}

# Error statuses that are documented, by operation (the names of the routes in `app.py`): those of the contract, or of
# `specs/` for what is ours. First the operations of the server itself.
_LIFECYCLE = frozenset({401, 403, 404, 409, 500})
LIFECYCLE: dict[str, frozenset[int]] = {
    "sandbox.create": frozenset({400, 401, 403, 409, 429, 500}),
    "sandbox.list": frozenset({400, 401, 500}),
    "sandbox.get": frozenset({401, 403, 404, 500}),
    "sandbox.delete": _LIFECYCLE,
    "sandbox.pause": _LIFECYCLE,
    "sandbox.resume": _LIFECYCLE,
    "sandbox.metadata": _LIFECYCLE | {400},
    "sandbox.renew": _LIFECYCLE | {400},
    "sandbox.endpoint": frozenset({400, 401, 403, 404, 500}),
    "sandbox.diagnostics": frozenset({400, 401, 403, 404, 500, 501}),
    "sandbox.stream": _LIFECYCLE | {400},
    "sandbox.context": _LIFECYCLE | {400, 429, 502},
    "context.execute": _LIFECYCLE | {400, 429, 502},
    "policy.get": frozenset({401, 403, 404, 500}),
    "policy.change": frozenset({400, 401, 500}),
    "snapshot.create": _LIFECYCLE | {400},
    "snapshot.list": frozenset({400, 401, 500}),
    "snapshot.get": frozenset({401, 403, 404, 500}),
    "snapshot.delete": _LIFECYCLE,
    "ticket.issue": _LIFECYCLE | {400},
    "metrics.report": frozenset({400, 401, 500}),
    "template.refuse": frozenset({401, 500, 501}),
    "pool.refuse": frozenset({401, 500, 501}),
    "health": frozenset({500, 503}),
    "version": frozenset({500}),
    "metrics": frozenset({401, 500}),
}
# Then those at a sandbox's endpoint.
_EXECD = frozenset({400, 500})
ENDPOINT: dict[str, frozenset[int]] = {
    "command.run": _EXECD,
    "command.interrupt": _EXECD,
    "command.status": _EXECD | {404},
    "command.logs": _EXECD | {404},
    "code.run": _EXECD,
    "code.interrupt": _EXECD,
    "context.create": _EXECD,
    "context.list": _EXECD,
    "context.delete_all": _EXECD,
    # With 400, here and below, which the official specification has forgotten: its clients then find the code in the
    # message only, but a caller's mistake is no 500.
    "context.get": _EXECD | {404},
    "context.delete": _EXECD | {404},
    "code.input": _EXECD | {404, 409},
    "context.fork": _EXECD | {404, 409, 504},
    "context.restart": _EXECD | {404},
    "context.complete": _EXECD | {404, 504},
    "context.inspect": _EXECD | {404, 504},
    "run.resume": _EXECD | {404, 409},
    "pty.create": _EXECD,
    "pty.list": _EXECD,
    "pty.get": _EXECD | {404},
    "pty.delete": _EXECD | {404},
    "pty.attach": _EXECD | {404, 409},
    "session.create": _EXECD,
    "session.run": _EXECD | {404},
    "session.delete": _EXECD | {404},
    "file.upload": _EXECD,
    "file.download": _EXECD | {404, 416},
    "file.info": _EXECD | {404},
    "file.search": _EXECD | {404},
    "file.remove": _EXECD,
    "file.move": _EXECD | {404},
    "file.change": _EXECD,
    "file.replace": _EXECD,
    "directory.list": _EXECD | {404},
    "directory.make": _EXECD,
    "directory.remove": _EXECD,
    "isolation.read": frozenset({400, 500}),
    "isolation.create": _EXECD | {503},
    "isolation.list": _EXECD,
    "isolation.get": _EXECD | {404},
    "isolation.delete": _EXECD | {404},
    "isolation.run": _EXECD | {404},
    "isolation.status": _EXECD | {404},
    "isolation.logs": _EXECD | {404},
    "isolation.diff": frozenset({500, 503}),
    "isolation.commit": frozenset({500, 503}),
    "metrics.read": frozenset({500}),
    "metrics.watch": frozenset({500}),
    "ping": frozenset({500}),
    "egress.policy": frozenset({500}),
    "egress.change": _EXECD,
    "vault.create": _EXECD,
    "vault.refuse": frozenset({404, 500}),
}
DOCUMENTED = LIFECYCLE | ENDPOINT
# What the proxy may say at any endpoint, before an operation is reached: no such sandbox, not running, not reachable.
PROXY = frozenset({401, 404, 409, 429, 500, 502})
NEAREST = {404: 400, 409: 400, 416: 400, 400: 500, 429: 500, 502: 500}


def problem_of(error: SandlotError) -> Problem:
    """Return status and code of an error, before its operation is considered."""
    if isinstance(error, AgentError):
        return BY_AGENT_CODE.get(error.code, BY_CLASS[AgentError])
    if (problem := BY_CODE.get(error.code)) is not None:
        return problem
    return next(BY_CLASS[kind] for kind in type(error).__mro__ if kind in BY_CLASS)


def documented_status(operation: str, error: SandlotError, status: int) -> int:
    """Return *status*, or the nearest one that the contract documents for that operation.

    At a sandbox's endpoint what the proxy itself says is documented for whatever is behind it; only what the operation
    says is replaced.
    """
    documented = DOCUMENTED.get(operation)
    if documented is None:
        return status
    if operation in ENDPOINT and not isinstance(error, AgentError | InvalidRequest):
        documented |= PROXY
    while status not in documented and status != 500:
        status = NEAREST.get(status, 500)
    return status


def flat(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the flat error response."""
    content = msgspec.json.encode({"code": code, "message": message})
    return Response(content, status, headers, media_type="application/json")


async def answer_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for SandlotError."""
    if not isinstance(error, SandlotError):
        raise error
    return error_answer(error, getattr(request.scope.get("route"), "name", None) or "")


def error_answer(error: SandlotError, operation: str) -> Response:
    """Return the response to an error of an operation (the name of its route)."""
    problem = problem_of(error)
    status = documented_status(operation, error, problem.status)
    if problem.status >= 500:
        log.warning("request.failed", code=error.code, error=error.message, **error.fields)
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, CapacityExhausted) else None
    return flat(status, problem.code, error.message, headers)


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for what its router raises: an unknown path, a wrong method."""
    if not isinstance(error, HTTPException):
        raise error
    method, path = request.method, request.scope["path"]
    if error.status_code == 405:
        # The router names the methods of the first route of that path; there may be others.
        methods = ", ".join(sorted(_methods(request.app.routes, {**request.scope, "root_path": ""})))
        return flat(405, "METHOD_NOT_ALLOWED", f"{method} is not possible on {path}", {"Allow": methods})
    return flat(404, "NOT_FOUND", f"there is nothing at {path}", error.headers)


def _methods(routes: Iterable[BaseRoute], scope: Scope) -> set[str]:
    """Return all methods that are possible on a path."""
    found: set[str] = set()
    for route in routes:
        match, child = route.matches(scope)
        if match is not Match.NONE and isinstance(route, Mount):
            found |= _methods(route.routes, {**scope, **child})
        elif match is not Match.NONE and isinstance(route, Route):
            found |= route.methods or set()
    return found


def unexpected() -> Response:
    """The answer to a bug of ours; what it was stands in the log, with the request id."""
    return flat(500, "GENERAL::UNKNOWN_ERROR", "internal error; the server's log has the details, by X-Request-ID")
