"""Sessions: live bash with the runner of a bash context, under ids of their own.

`exit` and `set -e` end a run, not the shell. If the shell of a plain session is killed, the session stays, and its next
run begins in a new shell. An isolated session ends with its shell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from execd.dispatch import Handler, Replies
from execd.errors import ExecdError
from execd.kernel.kernel import Kernel
from execd.kernel.runner.builtin import BASH
from execd.kernel.runner.manifest import Languages
from execd.kernel.table import ContextTable
from execd.launch.environment import Environment
from execd.launch.shell import exports, quoted
from execd.process.reap import Reaper
from execd.session.ability import isolation_state
from execd.session.table import IsolatedSessions
from execd.wire.aio import Stream
from execd.wire.frames import Channel as Output
from execd.wire.messages import (
    Done,
    IsolationRead,
    Request,
    SandboxClaim,
    SessionClose,
    SessionInterrupt,
    SessionJob,
    SessionList,
    SessionOpen,
    SessionRun,
)


class Sessions:
    """The handlers of the requests about sessions. Create it inside the event loop."""

    def __init__(self, reaper: Reaper, environment: Environment, command: Sequence[str]) -> None:
        """Create the tables. *command* starts execd."""
        self.table = ContextTable(reaper, environment, Languages({BASH.language: BASH}, {}))
        self.isolated = IsolatedSessions(reaper, environment, BASH, command)
        self._reaper = reaper
        self._environment = environment
        self._directories: dict[str, str] = {}  # of each session, as it was asked for

    def handlers(self) -> dict[type[Request], Handler]:
        """Return the handler of each request."""
        return {
            SessionOpen: self._open,
            SessionRun: self.run,
            SessionInterrupt: self._interrupt,
            SessionClose: self._close,
            SessionList: self._list,
            SessionJob: self._describe_job,
            IsolationRead: self._read_isolation,
        }

    def take_settings(self, claim: SandboxClaim) -> None:
        """Take the limit on the output of a run from a claim."""
        self.table.max_output_bytes = claim.max_output_bytes

    async def shutdown(self) -> None:
        """End all sessions."""
        await asyncio.gather(self.table.shutdown(), self.isolated.shutdown())

    async def _open(self, stream: Stream, request: SessionOpen) -> None:
        if request.isolation is not None:
            await self.isolated.open(request.id, request.isolation, request.memo)
        else:
            await self._start(request.id, request.cwd)
            self._directories[request.id] = request.cwd
        await stream.send(Done())

    async def run(self, stream: Replies, request: SessionRun) -> None:
        """Run code in a session. Send `done` first, then what the run says. Raises ExecdError."""
        if request.timeout_s is not None and not request.timeout_s > 0:
            raise ExecdError("request.invalid", f"the timeout is {request.timeout_s} s: it must be positive")
        code, most_bytes = request.code, self.table.max_output_bytes
        if request.cwd:
            code = f"\\builtin cd -- {quoted(request.cwd)} && \\builtin eval {quoted(code)}"
        if request.id not in self.isolated:
            if request.job:
                raise ExecdError("request.invalid", "only isolated sessions can have background jobs")
            kernel = await self._shell(request.id)
            code = exports(request.env) + code
            await stream.send(Done())
            notice, loss = self._environment.take_notice(), self.table.take_loss(request.id, kind="session")
            await kernel.run(code, request.timeout_s, stream, most_bytes=most_bytes, notice=notice, loss=loss)
            return
        session = self.isolated.find(request.id)
        session.check_alive()
        code = session.jobs.begin(request.job, code, request.env) if request.job else exports(request.env) + code
        await stream.send(Done())
        await session.run(code, request.timeout_s, stream, most_bytes, notice=self._environment.take_notice())

    async def _interrupt(self, stream: Stream, request: SessionInterrupt) -> None:
        if request.id in self.isolated:
            self.isolated.find(request.id).check_alive().interrupt()
        else:
            self._find(request.id)
            self.table.find(request.id).interrupt()
        await stream.send(Done())

    async def _close(self, stream: Stream, request: SessionClose) -> None:
        if request.id in self.isolated:
            await self.isolated.close(request.id)
        else:
            self._find(request.id)
            del self._directories[request.id]
            await self.table.close([one for one in self.table.select() if one.id == request.id])
        await stream.send(Done())

    async def _list(self, stream: Stream, request: SessionList) -> None:
        for session in self.isolated.select(request.id):
            await stream.send(session.state)

    async def _describe_job(self, stream: Stream, request: SessionJob) -> None:
        session = self.isolated.find(request.id)
        state = session.jobs.state(request.job, session.ended_at, request.offset)
        await stream.send(state)
        if request.offset is not None and state.output_end is not None:
            for data in session.jobs.read(request.job, request.offset, state.output_end):
                await stream.write(data, Output.STDOUT)

    async def _read_isolation(self, stream: Stream, _: IsolationRead) -> None:
        await stream.send(await isolation_state(self._reaper))

    async def _shell(self, session_id: str) -> Kernel:
        cwd = self._find(session_id)
        try:
            return self.table.find(session_id)
        except ExecdError:
            return await self._start(session_id, cwd)

    def _find(self, session_id: str) -> str:
        try:
            return self._directories[session_id]
        except KeyError:
            raise ExecdError("session.not_found", f"session {session_id} does not exist") from None

    async def _start(self, session_id: str, cwd: str) -> Kernel:
        kernel = self.table.open(session_id, BASH.language, cwd)
        try:
            await asyncio.shield(kernel.started)
        except BaseException:
            await self.table.close([kernel])
            raise
        return kernel
