"""Deputies: small processes that serve files as another user, or as an isolated session sees them.

There is one for each user and group, and for each session, that a request names. The kernel then decides what is
visible and permitted, on every path of every request, and no check can be forgotten here. execd speaks to its deputies
in the protocol of the link, over a socket pair. An idle deputy ends.
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
from execd.errors import ExecdError, is_code
from execd.files.locks import Locks
from execd.files.serve import Files
from execd.launch.environment import Environment, Launch
from execd.process.reap import Exit, Reaper
from execd.process.spawn import NULL, spawn
from execd.session.table import IsolatedSessions
from execd.tracing import forbid_tracing
from execd.wire.aio import BROKEN, MAX_CHUNK_BYTES, Data, Endpoint, Stream, StreamLost, StreamReset
from execd.wire.connection import Connection, Role
from execd.wire.errors import RemoteProtocolError, WireError
from execd.wire.frames import Channel
from execd.wire.messages import GENERATION, FileAs, FileIn, Hello, Request

FLAG = "--deputy"

MAX_DEPUTIES = 16  # each takes 9 MB while it lives
IDLE_S = 30.0
# A start takes a tenth of a second. Ten at once with one CPU of an overloaded machine take more than ten seconds. execd
# does not wait for a deputy that dies; this limit is for one that its user has stopped.
START_TIMEOUT_S = 60.0

_HEAD_BYTES = 4
_HELLO = Hello(generation=GENERATION, version=VERSION)


class SocketCarrier:
    """Messages over a stream socket, each after its length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> SocketCarrier:
        """Take over a connected socket."""
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=MAX_CHUNK_BYTES))

    async def __aiter__(self) -> AsyncIterator[bytes | str]:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size = int.from_bytes(await self._reader.readexactly(_HEAD_BYTES))
                if not 0 < size <= MAX_CHUNK_BYTES:
                    raise RemoteProtocolError(f"a message has {size} bytes")
                yield await self._reader.readexactly(size)

    async def send(self, message: bytes) -> None:
        """Send a message, and wait until the peer reads. Raises ConnectionError."""
        self._writer.write(len(message).to_bytes(_HEAD_BYTES) + message)
        await self._writer.drain()

    async def close(self) -> None:
        """End both directions."""
        self._writer.close()


class Deputies:
    """The deputies. Each is started when it is first needed.

    Args:
        command: The command that starts execd. A deputy gets `--deputy SOCKET LOCKS CWD [PID]` after it; SOCKET and
            LOCKS are descriptors.
    """

    def __init__(
        self, reaper: Reaper, environment: Environment, command: Sequence[str], sessions: IsolatedSessions, locks: Locks
    ) -> None:
        self._sessions = sessions
        self._reaper = reaper
        self._environment = environment
        self._command = list(command)
        self._locks = locks
        self._files = Files(environment, locks=locks).handlers()
        self._deputies: dict[object, _Deputy] = {}  # by the user or session that they serve

    def handlers(self) -> dict[type[Request], Handler]:
        """Return the handler of each request."""
        return {FileAs: self._serve_as, FileIn: self._serve_in}

    async def _serve_as(self, stream: Stream, request: FileAs) -> None:
        launch = self._environment.prepare(cwd="/", uid=request.uid, gid=request.gid)
        if launch.identity is None:  # execd itself has this identity
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
        # None of the sandbox's variables: those of its loader must not affect execd.
        launch = launch._replace(env={"HOME": launch.env["HOME"]})
        locks = self._locks.share()
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)  # noqa: FBT003 - it has no name
            argv = [*self._command, FLAG, str(theirs.fileno()), str(locks), *arguments]
            # Its stderr is that of execd: its errors belong into the same log.
            child = spawn(argv, launch, stdout=NULL, stderr=2, pass_fds=(theirs.fileno(), locks))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(locks)
        deputy = _Deputy(ours, name)
        self._reaper.watch(child.pid, deputy.exited)
        return deputy


class _Deputy:
    """execd's end of a deputy."""

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
        """Count as a request while the block runs. A deputy without requests ends after IDLE_S."""
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
        """Open a stream once the deputy has started. Raises ExecdError if the deputy does not start, or is gone."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._endpoint.wait_hello()
                return await self._endpoint.open(request)
        except (WireError, TimeoutError) as error:
            self.end()
            why = str(error) or f"no answer within {START_TIMEOUT_S:g} s"
            raise ExecdError("file.failed", f"files cannot be used as {self._name}: {why}") from error

    def end(self) -> None:
        """Close the connection. The deputy then exits."""
        self._running.cancel()

    def exited(self, _: Exit) -> None:
        """Note that the process has ended.

        Its socket shows the same, unless another process has inherited the socket.
        """
        self._running.cancel()

    async def _run(self, sock: socket.socket) -> None:
        carrier = await SocketCarrier.over(sock)
        try:
            await self._endpoint.run(carrier)
        except (OSError, WireError):
            pass  # the streams are lost, and each of them reports that
        finally:
            await carrier.close()


async def _serve_by(deputy: _Deputy, stream: Stream, request: Request) -> None:
    with deputy.used():
        inner = await deputy.open(request)
        try:
            await _pass_on(inner, stream)
        finally:
            if not (inner.ended and inner.local_done):
                inner.reset("client.gone", "the client has gone")


async def _pass_on(inner: Stream, stream: Stream) -> None:
    """Carry messages and data both ways, at the pace of the slower side.

    Raises:
        ExecdError: with the code and message of the deputy.
    """
    feeding = asyncio.ensure_future(_feed(stream, inner))
    try:
        while (item := await inner.receive()) is not None:
            if isinstance(item, Data):
                await stream.write(item.data, Channel(item.channel))
            else:
                await stream.send(item)
        await feeding
    except StreamReset as error:  # of the deputy: a reset by the client would have cancelled the handler
        code, message = error.problem.code, error.problem.message
        raise ExecdError(code if is_code(code) else "file.failed", message) from error
    except StreamLost as error:
        raise ExecdError("file.failed", "the process that serves this user's files has ended") from error
    finally:
        feeding.cancel()


async def _feed(stream: Stream, inner: Stream) -> None:
    with contextlib.suppress(*BROKEN):  # the reader notices the broken stream as well
        while (item := await stream.receive()) is not None:
            if isinstance(item, Data):
                await inner.write(item.data, Channel(item.channel))
        inner.end()


def main(descriptor: int, locks: int, cwd: str, inside: int = 0) -> int:
    """Run a deputy: serve files on a socket until its other end is closed. *inside*: as that process sees them."""
    # A deputy has no rights but its user's. The user could take over its connection to execd, so execd trusts no
    # deputy.
    forbid_tracing()
    if inside:
        from execd.session import stage  # noqa: PLC0415 — it needs ctypes, which nobody else may have

        if (status := stage.go_inside(inside)) is not None:
            return status
    asyncio.run(_serve(descriptor, Locks(locks), cwd))
    return 0


async def _serve(descriptor: int, locks: Locks, cwd: str) -> None:
    carrier = await SocketCarrier.over(socket.socket(fileno=descriptor))
    dispatcher = Dispatcher(Files(Environment(os.environ, cwd), locks=locks).handlers())
    with contextlib.suppress(OSError):
        await Endpoint(Connection(Role.AGENT, _HELLO), dispatcher.open).run(carrier)


def own_command() -> list[str]:
    """Return the command that this process was started with, without its arguments."""
    return sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
