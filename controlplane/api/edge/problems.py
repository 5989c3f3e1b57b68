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
from starlette.types import Receive, Scope, Send

from controlplane.api.edge.notes import note
from controlplane.api.edge.operation import Operation, operation_of
from controlplane.errors import (
    AgentError,
    AuditUnreadable,
    BadImageFolder,
    CapacityExhausted,
    ConfigError,
    Conflict,
    EngineUnavailable,
    Field,
    Forbidden,
    ImageBuildFailed,
    ImageError,
    ImageInUse,
    ImageMissing,
    ImageUnfinished,
    InvalidRequest,
    KeyQuotaExceeded,
    LinkClosed,
    LinkLost,
    NotFound,
    OutOfMemory,
    QuotaExceeded,
    RuntimeFailure,
    SandboxEnded,
    SandlotError,
    ServiceError,
    StartFailed,
    StoreError,
    StoreFull,
    Unsupported,
    VolumeInUse,
    VolumeRefused,
)
from controlplane.sandbox import ISOLATION_KEY

log = structlog.get_logger()

MAX_REASON_CHARS = 500  # of a message in the access log: a client decides how long some are


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
    SandboxEnded: Problem(409, "DOCKER::SANDBOX_NOT_RUNNING"),
    CapacityExhausted: Problem(429, "KUBERNETES::POOL_CAPACITY_EXHAUSTED"),
    KeyQuotaExceeded: Problem(429, "KUBERNETES::QUOTA_EXCEEDED"),
    QuotaExceeded: Problem(403, "KUBERNETES::QUOTA_EXCEEDED"),
    Forbidden: Problem(403, "INSUFFICIENT_SCOPE"),
    RuntimeFailure: Problem(500, "DOCKER::SANDBOX_QUERY_FAILED"),
    EngineUnavailable: Problem(500, "DOCKER::INITIALIZATION_ERROR"),
    # Not 501: no operation of the contract documents that, and clients would lose the message.
    Unsupported: Problem(409, "SANDBOX::API_NOT_SUPPORTED"),
    # The caller named an image that is not here: that is the caller's to mend.
    ImageMissing: Problem(400, "DOCKER::SANDBOX_IMAGE_PULL_FAILED"),
    ImageUnfinished: Problem(400, "DOCKER::SANDBOX_IMAGE_PULL_FAILED"),
    VolumeRefused: Problem(400, "VOLUME::PVC_NOT_FOUND"),
    VolumeInUse: Problem(409, "VOLUME_IN_USE"),
    ImageInUse: Problem(409, "SNAPSHOT::DELETE_CONFLICT"),
    StartFailed: Problem(500, "DOCKER::SANDBOX_START_FAILED"),
    OutOfMemory: Problem(500, "DOCKER::SANDBOX_START_FAILED"),
    StoreError: Problem(503, "STORE_UNAVAILABLE"),
    StoreFull: Problem(503, "STORE_FULL"),
    AuditUnreadable: Problem(503, "AUDIT_UNREADABLE"),
    ServiceError: Problem(502, "BACKEND_RESPONSE_FAILED"),
    ImageError: Problem(500, "DOCKER::SANDBOX_QUERY_FAILED"),
    ImageBuildFailed: Problem(500, "DOCKER::SANDBOX_QUERY_FAILED"),
    BadImageFolder: Problem(500, "DOCKER::SANDBOX_QUERY_FAILED"),
    LinkClosed: Problem(502, "BACKEND_CONNECTION_FAILED"),
    LinkLost: Problem(502, "BACKEND_CONNECTION_FAILED"),
    AgentError: Problem(500, "RUNTIME_ERROR"),
}

# Our own codes, where the class alone says too little.
BY_CODE: dict[str, Problem] = {
    "console.off": Problem(404, "CONSOLE_OFF"),
    "request.key_reused": Problem(409, "SANDBOX::INVALID_PARAMETER"),
    "sandbox.not_paused": Problem(409, "DOCKER::SANDBOX_NOT_PAUSED"),
    "sandbox.pause_failed": Problem(500, "DOCKER::SANDBOX_PAUSE_FAILED"),
    "sandbox.resume_failed": Problem(500, "DOCKER::SANDBOX_RESUME_FAILED"),
    "sandbox.not_running": Problem(409, "DOCKER::SANDBOX_NOT_RUNNING"),
    "sandbox.invalid_entrypoint": Problem(400, "DOCKER::INVALID_ENTRYPOINT"),
    "sandbox.invalid_expiration": Problem(400, "DOCKER::INVALID_EXPIRATION"),
    "sandbox.invalid_metadata": Problem(400, "SANDBOX::INVALID_METADATA_LABEL"),
    "sandbox.unsupported": Problem(400, "SANDBOX::API_NOT_SUPPORTED"),
    "activity.unsupported": Problem(501, "NOT_SUPPORTED"),  # by an agent of an earlier release
    "activity.no_record": Problem(404, "ACTIVITY_NOT_FOUND"),
    "pool.not_found": Problem(400, "KUBERNETES::POOL_NOT_FOUND"),
    "run.not_found": Problem(404, "RUN_NOT_FOUND"),  # begun on the native stream, and asked for over HTTP
    "key.not_found": Problem(404, "KEY_NOT_FOUND"),
    "key.configured": Problem(409, "KEY_IN_SETTINGS"),
    "key.name_taken": Problem(409, "KEY_NAME_TAKEN"),
    "key.too_many": Problem(409, "TOO_MANY_KEYS"),
    "key.shared": Problem(409, "KEY_SHARES_SANDBOXES"),
    "snapshot.not_found": Problem(404, "SNAPSHOT::NOT_FOUND"),
    "snapshot.not_ready": Problem(409, "SNAPSHOT::NOT_READY"),
    "snapshot.in_use": Problem(409, "SNAPSHOT::DELETE_CONFLICT"),
    "snapshot.being_made": Problem(409, "SNAPSHOT::INVALID_STATE"),
    "snapshot.too_many": Problem(409, "SNAPSHOT::TOO_MANY"),
    "snapshot.source_state": Problem(409, "SNAPSHOT::INVALID_SOURCE_STATE"),
    "snapshot.remove_failed": Problem(500, "DOCKER::SNAPSHOT_IMAGE_REMOVE_FAILED"),
    "diagnostics.scope": Problem(400, "DIAGNOSTICS_SCOPE_UNSUPPORTED"),
    "image.not_found": Problem(404, "IMAGE_NOT_FOUND"),
    "image.used": Problem(409, "IMAGE_IN_USE"),
    "spec.not_found": Problem(404, "SPECIFICATION_NOT_FOUND"),
    "volume.unknown": Problem(404, "VOLUME_NOT_FOUND"),
    "volume.in_use": Problem(409, "VOLUME_IN_USE"),
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
    # Of the statuses that an endpoint may be refused with, all clients read the message of this one.
    "endpoint.gone": Problem(404, "DOCKER::SANDBOX_NOT_RUNNING"),
    "endpoint.invalid_port": Problem(400, "DOCKER::INVALID_PORT"),
    "port.response": Problem(502, "BACKEND_RESPONSE_FAILED"),
    "request.body": Problem(400, "INVALID_REQUEST_BODY"),
    "request.query": Problem(400, "MISSING_QUERY"),
    "upload.metadata": Problem(400, "INVALID_FILE_METADATA"),
    "upload.file": Problem(400, "INVALID_FILE"),
    "upload.content": Problem(400, "INVALID_FILE_CONTENT"),
    "download.range": Problem(416, "INVALID_FILE"),
}

# The codes of execd: those that `execd/errors.py` lists, and no others.
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
    "run.not_found": Problem(404, "RUN_NOT_FOUND"),
    "run.lost": Problem(404, "RUN_EVENTS_LOST"),
    "run.taken": Problem(409, "ALREADY_CONNECTED"),
    "run.too_many": Problem(400, "RUNTIME_ERROR"),
    "run.duplicate": Problem(500, "RUNTIME_ERROR"),
    "isolation.unsupported": Problem(503, "NOT_SUPPORTED"),
    "pty.not_found": Problem(404, "SESSION_NOT_FOUND"),
    "pty.attached": Problem(409, "ALREADY_CONNECTED"),
    "pty.taken": Problem(409, "ALREADY_CONNECTED"),
    "pty.too_many": Problem(400, "RUNTIME_ERROR"),
    "port.refused": Problem(502, "BACKEND_CONNECTION_FAILED"),
    "port.timeout": Problem(504, "BACKEND_TIMEOUT"),
    "port.failed": Problem(502, "BACKEND_RESPONSE_FAILED"),
    "stream.abandoned": Problem(500, "RUNTIME_ERROR"),
    "internal": Problem(500, "RUNTIME_ERROR"),
}

NEAREST = {404: 400, 409: 400, 416: 400, 400: 500, 403: 500, 429: 500, 502: 500}


# The contract's names of fields that are refused below the API.
FIELDS = {
    Field.CPUS: "resourceLimits.cpu",
    Field.MEMORY: "resourceLimits.memory",
    Field.IMAGE: "image.uri",
    Field.POOL: "extensions.poolRef",
    Field.USER_NAMESPACES: f"extensions.{ISOLATION_KEY}",
    Field.EXPIRES_AT: "expiresAt",
}


def problem_of(error: SandlotError) -> Problem:
    """Return status and code of an error, before its operation is considered."""
    if isinstance(error, AgentError):
        return BY_AGENT_CODE.get(error.code, BY_CLASS[AgentError])
    if (problem := BY_CODE.get(error.code)) is not None:
        return problem
    return next(BY_CLASS[kind] for kind in type(error).__mro__ if kind in BY_CLASS)


def documented_status(operation: Operation | None, error: SandlotError, status: int) -> int:
    """Return *status*, or the nearest one that the contract documents for that operation.

    At a sandbox's endpoint what the proxy itself says is documented for whatever is behind it; only what the operation
    says is replaced.
    """
    if operation is None:
        return status
    is_of_operation = isinstance(error, AgentError | InvalidRequest)
    documented = operation.documented if is_of_operation else operation.documented_with_proxy
    while status not in documented and status != 500:
        status = NEAREST.get(status, 500)
    return status


class FlatError(Response):
    """The flat error response; the access log hears of its code and message."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        content = msgspec.json.encode({"code": code, "message": message})
        super().__init__(content, status, headers, media_type="application/json")
        self._code = code
        self._message = message

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        note(scope, code=self._code, reason=self._message[:MAX_REASON_CHARS])
        await super().__call__(scope, receive, send)


def flat(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the flat error response."""
    return FlatError(status, code, message, headers)


async def answer_error(request: Request, error: Exception) -> Response:
    """Answer a SandlotError. Starlette calls this."""
    if not isinstance(error, SandlotError):
        raise error
    return error_answer(error, request.scope)


def error_answer(error: SandlotError, scope: Scope) -> Response:
    """Return the response to an error of a request."""
    problem = problem_of(error)
    status = documented_status(operation_of(scope), error, problem.status)
    if problem.status >= 500:
        log.warning("request.failed", code=error.code, error=error.message, **error.fields)
    headers = {"Retry-After": str(error.retry_after_s)} if isinstance(error, CapacityExhausted) else None
    return flat(status, problem.code, public_message(error), headers)


def public_message(error: SandlotError) -> str:
    """Return what a client may read, behind the contract's name of the field that the message is about."""
    field = error.field if isinstance(error, InvalidRequest) else None
    return error.public if field is None else f"{FIELDS[field]}: {error.public}"


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Answer an unknown path or a wrong method. Starlette calls this."""
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
    """Answer an unexpected error. The log has the error with the request id."""
    return flat(500, "GENERAL::UNKNOWN_ERROR", "internal error; the server's log has the details, by X-Request-ID")
