"""The relay of clients' requests to execd: it finds the sandbox and its link, and opens a stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from controlplane.errors import Conflict, SandboxEnded
from controlplane.link.directory import Directory
from controlplane.link.link import Link
from controlplane.link.stream import Stream, T
from controlplane.sandbox import Sandbox, State, has_ended, how_it_ended
from execd.wire.messages import ContextOpen, Request

# execd connects again within a second after a restart of the server; a request in between waits for it.
RELINK_TIMEOUT_S = 5.0


async def _at_once(_sandbox_id: str, _language: str) -> Callable[[bool], None]:
    """Return at once: a context may open without waiting."""
    return lambda _: None


class Relay:
    """The relay of requests to running sandboxes.

    `find` returns a sandbox by its id or raises NotFound. `on_use` is called when a request to a sandbox begins and
    ends. `turn` waits until a context of a language may open in a sandbox, and returns a function to call afterwards:
    with True if the context exists.
    """

    def __init__(
        self,
        find: Callable[[str], Sandbox],
        directory: Directory,
        on_use: Callable[[str], None] = lambda _: None,
        turn: Callable[[str, str], Awaitable[Callable[[bool], None]]] = _at_once,
    ) -> None:
        self._find = find
        self._directory = directory
        self._on_use = on_use
        self._turn = turn

    async def link(self, sandbox_id: str) -> Link:
        """Return the link of a running sandbox.

        Raises:
            NotFound: there is no such sandbox.
            Conflict: the sandbox is not running, or stopped during the wait; SandboxEnded if it has ended.
            LinkLost: the agent is not connected, and did not come back in time.
            StartFailed: the container has died.
        """
        self._check_running(sandbox_id)
        link = self._directory.get(sandbox_id)
        if link is None:
            link = await self._directory.wait(sandbox_id, timeout_s=RELINK_TIMEOUT_S)
            self._check_running(sandbox_id)
        self._on_use(sandbox_id)
        return link

    async def open(self, sandbox_id: str, request: Request, *, with_input: bool = False) -> Stream:
        """Open a stream to a sandbox with a request; *with_input* if data follows the request.

        A cancelled call leaves no stream behind. Raises what `link` and `Link.open` raise.
        """
        link = await self.link(sandbox_id)
        if isinstance(request, ContextOpen):
            stream = await self._open_context(sandbox_id, request)
        else:
            stream = await link.open(request)
            stream.on_close = partial(self._on_use, sandbox_id)
        if not with_input:
            stream.end()  # the end travels with the request, which saves a write
        return stream

    async def begin(
        self, sandbox_id: str, request: Request, kind: type[T], *, with_input: bool = False
    ) -> tuple[Stream, T]:
        """Open a stream whose first reply is a *kind*; return the stream, with what follows, and that reply.

        The stream is closed where that fails. Errors as in `open`, and AgentError.
        """
        stream = await self.open(sandbox_id, request, with_input=with_input)
        try:
            return stream, await stream.expect(kind)
        except BaseException:
            stream.close()
            raise

    async def call(self, sandbox_id: str, request: Request, kind: type[T]) -> T:
        """Send a request that has one reply, and return the reply. Raises what `open` raises, and AgentError."""
        async with await self.open(sandbox_id, request) as stream:
            return await stream.expect_only(kind)

    async def _open_context(self, sandbox_id: str, request: ContextOpen) -> Stream:
        over = await self._turn(sandbox_id, request.language)
        try:
            stream = await (await self.link(sandbox_id)).open(request)
        except BaseException:
            over(False)  # noqa: FBT003
            raise

        def closed() -> None:
            over(stream.answered)
            self._on_use(sandbox_id)

        stream.on_close = closed
        return stream

    def _check_running(self, sandbox_id: str) -> None:
        sandbox = self._find(sandbox_id)
        if sandbox.state is not State.RUNNING:
            text = f"sandbox {sandbox_id} is {sandbox.state.value}, not Running{how_it_ended(sandbox)}"
            raise (SandboxEnded if has_ended(sandbox) else Conflict)(text, code="sandbox.not_running")
