"""What each operation of the native stream does."""

from __future__ import annotations

import signal
import uuid
from typing import TYPE_CHECKING

import msgspec

from controlplane.api.edge.parameters import clean_env, no_nul
from controlplane.api.runs.command import process_start
from controlplane.api.runs.recording import Resumed, resume
from controlplane.api.runs.runs import Code
from controlplane.api.stream import messages as says
from controlplane.api.stream.answers import pass_on, tell
from controlplane.api.stream.messages import ServerMessage
from controlplane.api.stream.stream import ClientStream
from controlplane.errors import AgentError, InvalidRequest
from execd.wire.messages import (
    ContextClose,
    ContextComplete,
    ContextFork,
    ContextInput,
    ContextInspect,
    ContextInterrupt,
    ContextLanguages,
    ContextList,
    ContextOpen,
    ContextRestart,
    Done,
    FileRead,
    FileWrite,
    ProcessSignal,
    PtyAttach,
    PtyClose,
    PtyList,
    PtyOpen,
    PtyResize,
    PtySignal,
    Request,
)

if TYPE_CHECKING:
    from controlplane.activity.activities import Activities
    from controlplane.api.runs.run import Run
    from controlplane.api.runs.runs import Runs
    from controlplane.link.relay import Relay


class Operations:
    """Carries out what clients open streams for."""

    def __init__(self, relay: Relay, runs: Runs, activities: Activities) -> None:
        self._relay = relay
        self._runs = runs
        self._activities = activities

    async def carry_out(self, client: ClientStream, operation: says.AnyOperation) -> ServerMessage | None:
        """Carry one out; return its last message, where that is more than `done`. Raises SandlotError."""
        match operation:
            case says.Command():
                return await self._run_command(client, operation)
            case says.Run():
                return await self._run_code(client, operation)
            case says.Resume():
                return await self._resume(client, operation)
            case says.Signal():
                await self._signal(client, operation)
            case says.WatchActivity(after=after):
                await self._watch(client, after)
            case says.AttachPty():
                return await self._attach(client, operation)
            case says.ReadFile(path=path, offset=offset, length=length):
                _check_path(path)
                # The content of a file is bytes, in JSON too.
                await self._ask(client, FileRead(path, offset, length), is_text=False)
            case says.WriteFile():
                _check_path(operation.path)
                mode = int(operation.mode, 8) if operation.mode else None
                writing = FileWrite(operation.path, mode=mode, owner=operation.owner, group=operation.group)
                await self._ask(client, writing, is_text=client.is_text, with_input=True)
            case says.OpenPty():
                opening = _pty(operation)
                await self._relay.call(client.sandbox_id, opening, Done)
                await client.say(says.Pty(client.number, id=opening.id, running=False))
            case _:
                await self._ask(client, _request(operation), is_text=client.is_text)
        return None

    # -- runs

    async def _run_command(self, client: ClientStream, command: says.Command) -> ServerMessage:
        start = process_start(
            shell=command.command or None,
            argv=command.argv or None,
            env=command.env,
            cwd=command.cwd,
            uid=command.uid,
            gid=command.gid,
            timeout_s=self._runs.limit(command.timeout_s),
            stdin=command.stdin,
        )
        if command.stdin and command.keep_s:
            raise InvalidRequest("stdin and keep_s exclude each other: input cannot be resumed")
        client.recorded_id = start.id if command.keep_s else ""
        run = await self._runs.begin_command(
            client.sandbox_id, start, keep_s=command.keep_s, lines=False, with_input=command.stdin
        )
        return await self._tell(client, run, with_input=command.stdin)

    async def _run_code(self, client: ClientStream, wanted: says.Run) -> ServerMessage:
        if wanted.context and wanted.language:
            raise InvalidRequest("context and language exclude each other")
        timeout_s = self._runs.limit(wanted.timeout_s)
        code = Code(wanted.code, wanted.context, wanted.language, timeout_s, wanted.allow_input)
        run = await self._runs.begin_code(client.sandbox_id, code, keep_s=wanted.keep_s)
        client.recorded_id = run.id if wanted.keep_s else ""
        return await self._tell(client, run)

    async def _resume(self, client: ClientStream, wanted: says.Resume) -> ServerMessage:
        stream, state = await resume(self._relay, client.sandbox_id, wanted.id, wanted.after)
        if state.is_over:
            stream.close()
            return says.Finished(client.number)
        client.recorded_id = wanted.id
        resumed = Resumed(client.sandbox_id, wanted.id, stream, state, is_from_start=not wanted.after)
        return await self._tell(client, self._runs.take_up(resumed))

    async def _tell(self, client: ClientStream, run: Run, *, with_input: bool = False) -> ServerMessage:
        try:
            async with client.feeding(run.stream if with_input else None):
                return await tell(run, client)
        finally:
            self._runs.end(run)

    # -- everything else

    async def _attach(self, client: ClientStream, wanted: says.AttachPty) -> ServerMessage | None:
        attaching = PtyAttach(id=wanted.id, since=wanted.since, takeover=wanted.takeover)
        return await self._ask(client, attaching, is_text=client.is_text, with_input=True)

    async def _signal(self, client: ClientStream, wanted: says.Signal) -> None:
        name = wanted.signal.upper()
        try:
            number = signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
        except KeyError:
            raise InvalidRequest(f"signal: {wanted.signal[:32]!r} is not a signal") from None
        try:
            await self._relay.call(client.sandbox_id, ProcessSignal(wanted.id, number), Done)
        except AgentError as error:
            if error.code != "process.not_found":
                raise
            await self._relay.call(client.sandbox_id, PtySignal(wanted.id, number), Done)

    async def _watch(self, client: ClientStream, after: int) -> None:
        watcher = await self._activities.watch(client.sandbox_id, after)
        try:
            while batch := await watcher.next():
                for entry in batch:
                    encoded = entry.json if client.is_text else entry.msgpack
                    await client.say(says.Activity(client.number, entry=msgspec.Raw(encoded)))
        finally:
            watcher.close()

    async def _ask(
        self, client: ClientStream, request: Request, *, is_text: bool, with_input: bool = False
    ) -> ServerMessage | None:
        """Send a request, and tell all that is answered; return the last message, where it is an end."""
        opened = await self._relay.open(client.sandbox_id, request, with_input=with_input)
        async with opened as stream, client.feeding(stream if with_input else None):
            return await pass_on(stream, client, is_text=is_text)


def _request(operation: says.AnyOperation) -> Request:
    """Return what to ask of execd for an operation that needs nothing else. Raises InvalidRequest."""
    match operation:
        case says.Input(context=context, text=text):
            return ContextInput(context, text)
        case says.OpenContext(language=language, cwd=cwd):
            return ContextOpen(uuid.uuid4().hex, language.lower(), no_nul(cwd, "cwd", code="request.invalid"))
        case says.ListContexts(language=language):
            return ContextList(language)
        case says.CloseContext(id=id):
            return ContextClose(_named(id))
        case says.InterruptContext(id=id):
            return ContextInterrupt(id)
        case says.RestartContext(id=id):
            return ContextRestart(id)
        case says.ForkContext(id=id, count=count):
            return ContextFork(id, tuple(uuid.uuid4().hex for _ in range(count)))
        case says.Complete(id=id, code=code, cursor=cursor):
            return ContextComplete(id, code, len(code) if cursor is None else min(cursor, len(code)))
        case says.Inspect(id=id, code=code, cursor=cursor, detail=detail):
            return ContextInspect(id, code, len(code) if cursor is None else min(cursor, len(code)), detail)
        case says.ResizePty(id=id, cols=cols, rows=rows):
            return PtyResize(id, cols, rows)
        case says.ListLanguages() | says.ListPtys():
            return ContextLanguages() if isinstance(operation, says.ListLanguages) else PtyList()
        case says.ClosePty(id=id):
            return PtyClose(id)
    raise InvalidRequest(f"{type(operation).__name__} is no operation")


def _pty(wanted: says.OpenPty) -> PtyOpen:
    return PtyOpen(
        id=uuid.uuid4().hex,
        command=no_nul(wanted.command, "command", code="request.invalid"),
        env=clean_env(wanted.env, "env"),
        cwd=no_nul(wanted.cwd, "cwd", code="request.invalid"),
        uid=wanted.uid,
        gid=wanted.gid,
        cols=wanted.cols,
        rows=wanted.rows,
    )


def _check_path(path: str) -> None:
    if not no_nul(path, "path", code="request.invalid"):
        raise InvalidRequest("path: must not be empty")


def _named(name: str) -> str:
    if not name:
        raise InvalidRequest("id: must not be empty")
    return name
