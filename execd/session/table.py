"""The isolated sessions of this sandbox by id. They do not depend on a link."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from execd.errors import ExecdError
from execd.files.disk import Disk
from execd.kernel.runner.manifest import Manifest
from execd.launch.environment import Environment
from execd.process.limits import Limits
from execd.process.reap import Reaper
from execd.session.isolated import IsolatedSession
from execd.wire.messages import Isolation

MAX_SESSIONS = 64


class IsolatedSessions:
    """All isolated sessions.

    Args:
        shell: The manifest of their shells.
        command: The command that starts execd.
    """

    def __init__(self, reaper: Reaper, environment: Environment, shell: Manifest, command: Sequence[str]) -> None:
        self._reaper = reaper
        self._environment = environment
        self._shell = shell
        self._command = command
        self._disk = Disk()
        self._limits = Limits()
        self._sessions: dict[str, IsolatedSession] = {}
        self._closing: set[asyncio.Future[None]] = set()

    def __contains__(self, session_id: str) -> bool:
        """Return whether a session has that id, dead or alive."""
        return session_id in self._sessions

    async def open(self, session_id: str, isolation: Isolation, memo: str) -> None:
        """Start a session, and return when it can run code.

        Raises:
            ExecdError: `request.invalid`, `isolation.unsupported`, `context.duplicate`, `context.too_many`.
        """
        if session_id in self._sessions:
            raise ExecdError("context.duplicate", f"isolated session {session_id} exists already")
        if len(self._sessions) >= MAX_SESSIONS:
            raise ExecdError("context.too_many", f"{MAX_SESSIONS} isolated sessions may exist at once; delete one")
        session = IsolatedSession(session_id, isolation, memo, self._environment, self._limits, self._close_idle)
        self._sessions[session_id] = session
        try:
            await session.start(self._shell, self._reaper, self._command)
        except BaseException:
            await self.close(session_id)
            raise

    def find(self, session_id: str) -> IsolatedSession:
        """Return a session, dead or alive. Raises ExecdError, `session.not_found`."""
        try:
            return self._sessions[session_id]
        except KeyError:
            raise ExecdError("session.not_found", f"isolated session {session_id} does not exist") from None

    def select(self, session_id: str = "") -> list[IsolatedSession]:
        """Return all sessions, the oldest first, or the one with that id. Raises ExecdError, `session.not_found`."""
        return [self.find(session_id)] if session_id else list(self._sessions.values())

    async def close(self, session_id: str) -> None:
        """End a session and everything that runs in it. Raises ExecdError, `session.not_found`."""
        session = self.find(session_id)
        del self._sessions[session_id]
        await session.close(self._disk)

    async def shutdown(self) -> None:
        """End all sessions."""
        await asyncio.gather(*(self.close(one) for one in list(self._sessions)), *self._closing)

    def _close_idle(self, session: IsolatedSession) -> None:
        if self._sessions.get(session.id) is session:
            closing = asyncio.ensure_future(self.close(session.id))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
