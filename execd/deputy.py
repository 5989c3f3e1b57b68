"""Files as somebody else, or as an isolated session has them: one small process for each user and group, and for each
session, that is asked for. It serves the same requests.

The kernel then decides what is seen and allowed, on every path of every request, and nothing here can forget to ask.
execd speaks to its deputies in the protocol of the link, over a socket pair. One that has nothing to do ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence

from execd.config import VERSION
from execd.dispatch import Dispatcher, Handler
from execd.environment import Environment, Launch
from execd.errors import ExecdError
from execd.files.serve import Files
from execd.isolation.sessions import IsolatedSessions
from execd.process.reap import Exit, Reaper
from execd.process.spawn import NULL, spawn
from execd.wire.aio import BROKEN, MAX_CHUNK_BYTES, Data, Endpoint, Stream, StreamLost, StreamReset
from execd.wire.connection import Connection, Role
from execd.wire.errors import RemoteProtocolError, WireError
from execd.wire.frames import Channel
from execd.wire.messages import GENERATION, FileAs, FileIn, Hello, Request

FLAG = "--deputy"

MAX_DEPUTIES = 16  # each takes 9 MB while it lives
IDLE_S = 30.0
START_TIMEOUT_S = 10.0

_HEAD_BYTES = 4
_HELLO = Hello(generation=GENERATION, version=VERSION)


class SocketCarrier:
    """Messages over a stream socket: each after its length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> SocketCarrier:
        """Take a connected socket over."""
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=MAX_CHUNK_BYTES))

    async def __aiter__(self) -> AsyncIterator[bytes | str]:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size = int.from_bytes(await self._reader.readexactly(_HEAD_BYTES))
                if not 0 < size <= MAX_CHUNK_BYTES:
                    raise RemoteProtocolError(f"a message of {size} bytes")
                yield await self._reader.readexactly(size)

    async def send(self, message: bytes) -> None:
        """Send a message, waiting for the peer to read. Raises ConnectionError."""
        self._writer.write(len(message).to_bytes(_HEAD_BYTES) + message)
        await self._writer.drain()

    async def close(self) -> None:
        """End both directions."""
        self._writer.close()


class Deputies:
    """The deputies there are, started when they are first asked for.

    Args:
        command: What starts execd; a deputy gets `--deputy DESCRIPTOR CWD [PID]` after it.
    """

    def __init__(
        self, reaper: Reaper, environment: Environment, command: Sequence[str], sessions: IsolatedSessions
    ) -> None:
        self._sessions = sessions
        self._reaper = reaper
        self._environment = environment
        self._command = list(command)
        self._files = Files(environment).handlers()
        self._deputies: dict[object, _Deputy] = {}  # by whom and where they serve

    def handlers(self) -> dict[type[Request], Handler]:
        """Return what `Dispatcher` needs."""
        return {FileAs: self._serve_as, FileIn: self._serve_in}

    async def _serve_as(self, stream: Stream, request: FileAs) -> None:
        launch = self._environment.prepare(cwd="/", uid=request.uid, gid=request.gid)
        if launch.identity is None:  # execd itself
            await self._files[type(request.request)](stream, request.request)
            return
        name = f"{request.uid}:{'' if request.gid is None else request.gid}"
        deputy = self._deputy((request.uid, request.gid), name, launch, self._environment.cwd)
        await _serve_by(deputy, stream, request.request)

    async def _serve_in(self, stream: Stream, request: FileIn) -> None:
        session = self._sessions.find(request.session)
        pid = session.find_process()
        launch = self._environment.prepare(cwd="/")._replace(identity=session.identity)
        deputy = self._deputy(session, f"session {session.id}", launch, session.directory, pid)
        await _serve_by(deputy, stream, request.request)

    def _deputy(self, key: object, name: str, launch: Launch, cwd: str, inside: int = 0) -> _Deputy:
        deputy = self._deputies.get(key)
        if deputy is None or deputy.is_over:
            self._make_room()
            deputy = self._deputies[key] = self._start(name, launch, [cwd, str(inside)] if inside else [cwd])
        return deputy

    def _make_room(self) -> None:
        self._deputies = {key: deputy for key, deputy in self._deputies.items() if not deputy.is_over}
        if len(self._deputies) < MAX_DEPUTIES:
            return
        idle = next((key for key, deputy in self._deputies.items() if deputy.is_idle), None)
        if idle is None:
            raise ExecdError("request.invalid", f"files are being used as {MAX_DEPUTIES} different users at once")
        self._deputies.pop(idle).end()

    def _start(self, name: str, launch: Launch, arguments: list[str]) -> _Deputy:
        # Nothing of the sandbox's own: its loader's variables must not end up in execd.
        launch = launch._replace(env={"HOME": launch.env["HOME"]})
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)  # noqa: FBT003 - it has no name
            argv = [*self._command, FLAG, str(theirs.fileno()), *arguments]
            # Its stderr is execd's own: what goes wrong there belongs into the same log.
            child = spawn(argv, launch, stdout=NULL, stderr=2, pass_fds=(theirs.fileno(),))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        deputy = _Deputy(ours, name)
        self._reaper.watch(child.pid, deputy.exited)
        return deputy


class _Deputy:
    """Our end of one."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self._name = name
        self._requests = 0
        self._endpoint = Endpoint(Connection(Role.CONTROL_PLANE, _HELLO))
        self._running = asyncio.ensure_future(self._run(sock))
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        return self._running.done()

    @property
    def is_idle(self) -> bool:
        return self._requests == 0

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Inside, it does not count as idle; when it has been idle for long enough, it ends."""
        self._requests += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._timer = asyncio.get_running_loop().call_later(IDLE_S, self.end)

    async def open(self, request: Request) -> Stream:
        """Open a stream to it, once it is there. Raises ExecdError when it does not come, or is gone."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._endpoint.wait_hello()
                return await self._endpoint.open(request)
        except (WireError, TimeoutError) as error:
            self.end()
            raise ExecdError("file.failed", f"files cannot be used as {self._name}: {error or 'no answer'}") from error

    def end(self) -> None:
        """Hang up, whereupon it exits."""
        self._running.cancel()

    def exited(self, _: Exit) -> None:
        """It has ended; its socket says so too, unless somebody inherited it."""
        self._running.cancel()

    async def _run(self, sock: socket.socket) -> None:
        carrier = await SocketCarrier.over(sock)
        try:
            await self._endpoint.run(carrier)
        except (OSError, WireError):
            pass  # its streams are lost, which is said on each
        finally:
            await carrier.close()


async def _serve_by(deputy: _Deputy, stream: Stream, request: Request) -> None:
    with deputy.used():
        inner = await deputy.open(request)
        try:
            await _pass_on(inner, stream)
        finally:
            if not (inner.ended and inner.local_done):
                inner.reset("client.gone", "nobody is interested any more")


async def _pass_on(inner: Stream, stream: Stream) -> None:
    """Carry what each side says to the other, at the pace of the slower one.

    Raises:
        ExecdError: as the deputy says.
    """
    feeding = asyncio.ensure_future(_feed(stream, inner))
    try:
        while (item := await inner.receive()) is not None:
            if isinstance(item, Data):
                await stream.write(item.data, Channel(item.channel))
            else:
                await stream.send(item)
        await feeding
    except StreamReset as error:  # of the deputy; were it the client's, its handler would have been cancelled
        raise ExecdError(error.problem.code, error.problem.message) from error
    except StreamLost as error:
        raise ExecdError("file.failed", "the process that serves this user's files has ended") from error
    finally:
        feeding.cancel()


async def _feed(stream: Stream, inner: Stream) -> None:
    with contextlib.suppress(*BROKEN):  # whoever reads hears of it as well
        while (item := await stream.receive()) is not None:
            if isinstance(item, Data):
                await inner.write(item.data, Channel(item.channel))
        inner.end()


def main(descriptor: int, cwd: str, inside: int = 0) -> int:
    """Be a deputy: serve files on a socket until its other end is closed; *inside*: as that process sees them."""
    if inside:
        from execd.isolation import stage  # noqa: PLC0415 — it needs ctypes, which nobody else may have

        if (status := stage.go_inside(inside)) is not None:
            return status
    asyncio.run(_serve(descriptor, cwd))
    return 0


async def _serve(descriptor: int, cwd: str) -> None:
    carrier = await SocketCarrier.over(socket.socket(fileno=descriptor))
    dispatcher = Dispatcher(Files(Environment(os.environ, cwd)).handlers())
    with contextlib.suppress(OSError):
        await Endpoint(Connection(Role.AGENT, _HELLO), dispatcher.open).run(carrier)


def own_command() -> list[str]:
    """Return the command that this process was started with, without its arguments."""
    return sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
