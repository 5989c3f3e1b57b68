"""Bash that is there in every image that has it: contexts of the language `bash`, and sessions.

A session is a live bash that clients know as such: the same runner as a bash context, under ids of its own. When its
shell ends (`exit`), the session stays, and its next run begins in a new one.
"""

from __future__ import annotations

import asyncio
import os

from execd.dispatch import Handler
from execd.environment import Environment
from execd.errors import ExecdError
from execd.kernel.kernel import Kernel
from execd.kernel.manifest import Languages, Manifest
from execd.kernel.table import ContextTable
from execd.process.reap import Reaper
from execd.wire.aio import Stream
from execd.wire.messages import Done, Request, SessionClose, SessionInterrupt, SessionOpen, SessionRun

BASH = Manifest(
    language="bash",
    command=("bash", os.path.join(os.path.dirname(__file__), "bash", "start.bash")),
)


class Sessions:
    """Serves sessions. Make it in the event loop."""

    def __init__(self, reaper: Reaper, environment: Environment) -> None:
        self.table = ContextTable(reaper, environment, Languages({BASH.language: BASH}, {}))
        self._directories: dict[str, str] = {}  # of each session, as it was asked for

    def handlers(self) -> dict[type[Request], Handler]:
        """For the dispatcher."""
        return {
            SessionOpen: self._open,
            SessionRun: self._run,
            SessionInterrupt: self._interrupt,
            SessionClose: self._close,
        }

    async def _open(self, stream: Stream, request: SessionOpen) -> None:
        await self._start(request.id, request.cwd)
        self._directories[request.id] = request.cwd
        await stream.send(Done())

    async def _run(self, stream: Stream, request: SessionRun) -> None:
        if request.timeout_s is not None and not request.timeout_s > 0:
            raise ExecdError("request.invalid", f"a timeout of {request.timeout_s} s")
        cwd = self._find(request.id)
        try:
            kernel = self.table.find(request.id)
        except ExecdError:
            kernel = await self._start(request.id, cwd)
        await stream.send(Done())
        code = request.code
        if request.cwd:
            code = f"cd -- {_quoted(request.cwd)} && eval {_quoted(code)}"
        await kernel.run(code, request.timeout_s, stream)

    async def _interrupt(self, stream: Stream, request: SessionInterrupt) -> None:
        self._find(request.id)
        self.table.find(request.id).interrupt()
        await stream.send(Done())

    async def _close(self, stream: Stream, request: SessionClose) -> None:
        self._find(request.id)
        del self._directories[request.id]
        await self.table.close([one for one in self.table.select() if one.id == request.id])
        await stream.send(Done())

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


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
