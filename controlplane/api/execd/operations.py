"""The operations of the execd contract, at port 44772 of a sandbox. Those that are asked for most come first."""

from __future__ import annotations

from controlplane.access.scopes import Needs
from controlplane.api.edge.addresses import EXECD_PORT
from controlplane.api.edge.operation import (
    BYTES,
    COUNT,
    FLAG,
    TEXT,
    UPLOAD,
    WEBSOCKET,
    EventStream,
    JsonSchema,
    Operation,
    Parameter,
    Refusal,
    at_port,
    below,
)
from controlplane.api.execd.code import Codes
from controlplane.api.execd.commands import Commands
from controlplane.api.execd.contexts import LiveContexts
from controlplane.api.execd.files import Files
from controlplane.api.execd.isolation import (
    BackgroundRun,
    BackgroundRunStatus,
    CapabilitiesView,
    CreateIsolatedSession,
    IsolatedRun,
    IsolatedSessionList,
    IsolatedSessionView,
    Isolations,
)
from controlplane.api.execd.resume import Resumption
from controlplane.api.execd.schema import (
    CommandStatus,
    CompletionView,
    ContextView,
    CursorRequest,
    FileView,
    InputAnswer,
    InspectionView,
    Move,
    OpenContextRequest,
    OpenSessionRequest,
    OpenTerminalRequest,
    Permissions,
    Replacement,
    RunCodeRequest,
    RunCommandRequest,
    RunInSessionRequest,
    SessionView,
    TerminalView,
)
from controlplane.api.execd.sessions import Sessions
from controlplane.api.execd.terminals import Terminals
from controlplane.api.execd.transfer import Transfers
from controlplane.api.execd.usage import Meters, UsageView
from execd.wire.messages import MAX_COPIES

EVENTS, RECORDED_EVENTS, USAGE_EVENTS = map(EventStream, ("RunEvents", "RecordedRunEvents", "UsageEvents"))

_PATHS: JsonSchema = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
_EVENT_ID: JsonSchema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}
_CURSOR = Parameter("cursor", COUNT)
_DETAIL = Parameter("detail", FLAG)
_ID = Parameter("id", is_required=True)
_LANGUAGE = Parameter("language")
_PATH = Parameter("path", is_required=True)
_SOME_PATHS = Parameter("path", _PATHS, is_required=True)
_KEEP = ("Sandlot-Keep",)

# Many of these document 400, which the official specification has forgotten: its clients then find the code in the
# message only, but a caller's mistake is no 500.
_COMMANDS = (
    Operation(
        *("command.run", "POST", "/command", Commands.run, Needs.USE),
        answer=EVENTS,
        body=RunCommandRequest,
        headers=_KEEP,
        errors=(400,),
    ),
    Operation(
        *("code.run", "POST", "/code", Codes.run, Needs.USE),
        answer=EVENTS,
        body=RunCodeRequest,
        headers=_KEEP,
        errors=(400,),
    ),
    Operation("ping", "GET", "/ping", Meters.ping, Needs.READ, is_change=False, errors=(403,)),
    Operation("command.interrupt", "DELETE", "/command", Commands.interrupt, Needs.USE, query=(_ID,), errors=(400,)),
    Operation(
        *("command.status", "GET", "/command/status/{command_id}", Commands.status, Needs.READ),
        is_change=False,
        answer=CommandStatus,
        errors=(400, 404),
    ),
    Operation(
        *("command.logs", "GET", "/command/{command_id}/logs", Commands.logs, Needs.READ),
        is_change=False,
        answer=TEXT,
        answer_header="EXECD-COMMANDS-TAIL-CURSOR",
        query=(_CURSOR,),
        errors=(400, 404),
    ),
    Operation("code.interrupt", "DELETE", "/code", Codes.interrupt, Needs.USE, query=(_ID,), errors=(400,)),
)
_CONTEXT = "/code/contexts/{context_id}"
_CONTEXTS = (
    Operation(
        *("context.create", "POST", "/code/context", Codes.create_context, Needs.USE),
        answer=ContextView,
        body=OpenContextRequest,
        errors=(400,),
    ),
    Operation(
        *("context.list", "GET", "/code/contexts", Codes.list_contexts, Needs.READ),
        is_change=False,
        answer=list[ContextView],
        query=(_LANGUAGE,),
        errors=(400,),
    ),
    Operation(
        *("context.delete_all", "DELETE", "/code/contexts", Codes.delete_contexts, Needs.USE),
        query=(_LANGUAGE._replace(is_required=True),),
        errors=(400,),
    ),
    Operation(
        *("context.get", "GET", _CONTEXT, Codes.get_context, Needs.READ),
        is_change=False,
        answer=ContextView,
        errors=(400, 404),
    ),
    Operation("context.delete", "DELETE", _CONTEXT, Codes.delete_context, Needs.USE, errors=(400, 404)),
    Operation(
        *("code.input", "POST", "/code/input", Codes.answer_input, Needs.USE),
        body=InputAnswer,
        query=(_ID,),
        errors=(400, 404, 409),
    ),
    Operation(
        *("context.fork", "POST", f"{_CONTEXT}/fork", LiveContexts.fork, Needs.USE),
        answer=list[ContextView],
        query=(Parameter("count", {"type": "integer", "minimum": 1, "maximum": MAX_COPIES}),),
        errors=(400, 404, 409, 504),
    ),
    Operation(
        *("context.restart", "POST", f"{_CONTEXT}/restart", LiveContexts.restart, Needs.USE),
        answer=ContextView,
        errors=(400, 404),
    ),
    # No changes: clients request these while a person types.
    Operation(
        *("context.complete", "POST", f"{_CONTEXT}/complete", LiveContexts.complete, Needs.USE),
        is_change=False,
        answer=CompletionView,
        body=CursorRequest,
        errors=(400, 404, 504),
    ),
    Operation(
        *("context.inspect", "POST", f"{_CONTEXT}/inspect", LiveContexts.inspect, Needs.USE),
        is_change=False,
        answer=InspectionView,
        body=CursorRequest,
        errors=(400, 404, 504),
    ),
)
_SESSION = "/session/{session_id}"
_SESSIONS = (
    Operation(
        *("session.create", "POST", "/session", Sessions.create, Needs.USE),
        answer=SessionView,
        body=OpenSessionRequest,
        is_body_optional=True,
        errors=(400,),
    ),
    Operation(
        *("session.run", "POST", f"{_SESSION}/run", Sessions.run, Needs.USE),
        answer=EVENTS,
        body=RunInSessionRequest,
        headers=_KEEP,
        errors=(400, 404),
    ),
    Operation("session.delete", "DELETE", _SESSION, Sessions.delete, Needs.USE, errors=(400, 404)),
    Operation(
        # A scope for reading is not enough, because the present reader loses the run.
        *("run.resume", "GET", "/runs/{run_id}/events", Resumption.resume, Needs.USE),
        is_change=False,
        answer=RECORDED_EVENTS,
        query=(Parameter("after", _EVENT_ID),),
        headers=("Last-Event-ID",),
        errors=(400, 404, 409),
    ),
)
_TERMINAL = "/pty/{pty_id}"
_TERMINALS = (
    Operation(
        *("pty.create", "POST", "/pty", Terminals.create, Needs.USE),
        status=201,
        answer=SessionView,
        body=OpenTerminalRequest,
        is_body_optional=True,
        errors=(400,),
    ),
    Operation(
        *("pty.list", "GET", "/pty", Terminals.list, Needs.READ),
        is_change=False,
        answer=list[TerminalView],
        errors=(400,),
    ),
    Operation(
        *("pty.get", "GET", _TERMINAL, Terminals.get, Needs.READ),
        is_change=False,
        answer=TerminalView,
        errors=(400, 404),
    ),
    Operation("pty.delete", "DELETE", _TERMINAL, Terminals.delete, Needs.USE, errors=(400, 404)),
    Operation("pty.attach", WEBSOCKET, f"{_TERMINAL}/ws", Terminals.attach, Needs.USE, errors=(400, 404, 409)),
)
_FILES = (
    Operation("file.upload", "POST", "/files/upload", Transfers.upload, Needs.USE, body=UPLOAD, errors=(400,)),
    Operation(
        *("file.download", "GET", "/files/download", Transfers.download, Needs.READ),
        is_change=False,
        answer=BYTES,
        more=((206, BYTES),),
        query=(_PATH, Parameter("offset", COUNT), Parameter("limit", COUNT)),
        headers=("Range",),
        errors=(400, 404, 416),
    ),
    Operation(
        *("file.info", "GET", "/files/info", Files.info, Needs.READ),
        is_change=False,
        answer=dict[str, FileView],
        query=(_SOME_PATHS,),
        errors=(400, 404),
    ),
    Operation(
        *("file.search", "GET", "/files/search", Files.search, Needs.READ),
        is_change=False,
        answer=list[FileView],
        query=(_PATH, Parameter("pattern")),
        errors=(400, 404),
    ),
    Operation("file.remove", "DELETE", "/files", Files.remove, Needs.USE, query=(_SOME_PATHS,), errors=(400,)),
    Operation("file.move", "POST", "/files/mv", Files.move, Needs.USE, body=list[Move], errors=(400, 404)),
    Operation(
        *("file.change", "POST", "/files/permissions", Files.change, Needs.USE),
        body=dict[str, Permissions],
        errors=(400,),
    ),
    Operation(
        *("file.replace", "POST", "/files/replace", Files.replace, Needs.USE),
        answer_text='The files were changed. With `verbose`, the body is {path: {"replacedCount": NUMBER}}.',
        body=dict[str, Replacement],
        query=(Parameter("verbose", FLAG),),
        errors=(400,),
    ),
    Operation(
        *("directory.list", "GET", "/directories/list", Files.list, Needs.READ),
        is_change=False,
        answer=list[FileView],
        query=(_PATH, Parameter("depth", COUNT)),
        errors=(400, 404),
    ),
    Operation(
        *("directory.make", "POST", "/directories", Files.make_directories, Needs.USE),
        body=dict[str, Permissions],
        errors=(400,),
    ),
    Operation(
        *("directory.remove", "DELETE", "/directories", Files.remove_directories, Needs.USE),
        query=(_SOME_PATHS,),
        errors=(400,),
    ),
)
_METRICS = (
    Operation(
        *("metrics.read", "GET", "/metrics", Meters.read, Needs.READ),
        is_change=False,
        answer=UsageView,
        query=(_DETAIL,),
        errors=(400,),
    ),
    Operation(
        *("metrics.watch", "GET", "/metrics/watch", Meters.watch, Needs.READ),
        is_change=False,
        answer=USAGE_EVENTS,
        query=(_DETAIL,),
        errors=(400,),
    ),
)
_ISOLATED = "/v1/isolated"
_ISOLATED_SESSION = f"{_ISOLATED}/session/{{session_id}}"
_NO_OVERLAYS = Refusal(503, "differences of overlays", "The changes of a session cannot be listed.", "NOT_SUPPORTED")
_ISOLATION = (
    Operation(
        *("isolation.read", "GET", f"{_ISOLATED}/capabilities", Isolations.capabilities, Needs.READ),
        is_change=False,
        answer=CapabilitiesView,
        errors=(400,),
    ),
    Operation(
        *("isolation.list", "GET", f"{_ISOLATED}/sessions", Isolations.list, Needs.READ),
        is_change=False,
        answer=IsolatedSessionList,
        errors=(400,),
    ),
    Operation(
        *("isolation.create", "POST", f"{_ISOLATED}/session", Isolations.create, Needs.USE),
        status=201,
        answer=IsolatedSessionView,
        body=CreateIsolatedSession,
        errors=(400, 503),
    ),
    Operation(
        *("isolation.get", "GET", _ISOLATED_SESSION, Isolations.get, Needs.READ),
        is_change=False,
        answer=IsolatedSessionView,
        errors=(400, 404),
    ),
    Operation("isolation.delete", "DELETE", _ISOLATED_SESSION, Isolations.delete, Needs.USE, errors=(400, 404)),
    Operation(
        *("isolation.run", "POST", f"{_ISOLATED_SESSION}/run", Isolations.run, Needs.USE),
        answer=EVENTS,
        more=((202, BackgroundRun),),
        body=IsolatedRun,
        errors=(400, 404),
    ),
    Operation(
        *("isolation.status", "GET", f"{_ISOLATED_SESSION}/runs/{{run_id}}", Isolations.status, Needs.READ),
        is_change=False,
        answer=BackgroundRunStatus,
        errors=(400, 404),
    ),
    Operation(
        *("isolation.logs", "GET", f"{_ISOLATED_SESSION}/runs/{{run_id}}/logs", Isolations.logs, Needs.READ),
        is_change=False,
        answer=TEXT,
        answer_header="EXECD-ISOLATED-TAIL-CURSOR",
        query=(_CURSOR,),
        errors=(400, 404),
    ),
    # Refused for every session alike, whether there is one or not, so any key may ask.
    Operation("isolation.diff", "GET", f"{_ISOLATED_SESSION}/diff", _NO_OVERLAYS, Needs.KEY, is_change=False),
    Operation(
        *("isolation.commit", "POST", f"{_ISOLATED_SESSION}/commit"),
        _NO_OVERLAYS._replace(summary="The changes of a session cannot be committed."),
        *(Needs.KEY, False),
    ),
)

# The operations on files again: with the rights of a user and group, and as an isolated session sees the files.
_FILES_AS = below("/v1/filesystem/{uid}/{gid}", _FILES)
_FILES_IN = below(_ISOLATED_SESSION, _FILES)

EXECD: tuple[Operation, ...] = at_port(
    EXECD_PORT,
    (
        *_COMMANDS,
        *_CONTEXTS,
        *_SESSIONS,
        *_TERMINALS,
        *_FILES,
        *_FILES_AS,
        *_METRICS,
        *_ISOLATION,
        *_FILES_IN,
    ),
)
