"""Requests of clients to the execd of a sandbox: find the sandbox, find its link, open a stream."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from controlplane.errors import Conflict
from controlplane.link.directory import Directory
from controlplane.link.link import Link
from controlplane.link.stream import Stream, T
from controlplane.sandbox import Sandbox, State
from execd.wire.messages import Request

# execd redials within a second after a restart of ours; a request that comes in between just waits for it.
RELINK_TIMEOUT_S = 5.0


class Relay:
    """`find` returns a sandbox by its id or raises NotFound; `on_use` hears when a request to one begins and ends."""

    def __init__(
        self, find: Callable[[str], Sandbox], directory: Directory, on_use: Callable[[str], None] = lambda _: None
    ) -> None:
        self._find = find
        self._directory = directory
        self._on_use = on_use

    async def link(self, sandbox_id: str) -> Link:
        """Return the link of a running sandbox.

        Raises:
            NotFound: no such sandbox.
            Conflict: it is not running, or stopped while its agent was waited for.
            LinkLost: its agent is not connected, and did not come back in time.
            StartFailed: its container has died.
        """
        self._check_running(sandbox_id)
        link = self._directory.get(sandbox_id)
        if link is None:
            link = await self._directory.wait(sandbox_id, timeout_s=RELINK_TIMEOUT_S)
            self._check_running(sandbox_id)
        self._on_use(sandbox_id)
        return link

    async def open(self, sandbox_id: str, request: Request, *, with_input: bool = False) -> Stream:
        """Open a stream to a sandbox with a request; *with_input* if data is to follow it.

        Cancelled, it leaves no stream behind. Errors as in `link` and `Link.open`.
        """
        stream = await (await self.link(sandbox_id)).open(request)
        stream.on_close = partial(self._on_use, sandbox_id)
        if not with_input:
            stream.end()  # said now, it travels with the request; said at the end, it would cost a write of its own
        return stream

    async def call(self, sandbox_id: str, request: Request, kind: type[T]) -> T:
        """Send a request that has one reply, and return it. Errors as in `open`, and AgentError."""
        async with await self.open(sandbox_id, request) as stream:
            return await stream.expect_only(kind)

    def _check_running(self, sandbox_id: str) -> None:
        sandbox = self._find(sandbox_id)
        if sandbox.state is not State.RUNNING:
            raise Conflict(f"sandbox {sandbox_id} is {sandbox.state.value}, not Running", code="sandbox.not_running")
