"""The listening end of one sandbox's socket, which slows down a peer that connects in a loop.

A refused connection costs the server a look at /proc, and an admitted one a handshake. User code in the sandbox can
cause the first kind, and a hijacked agent the second one, both without end. So a listener rests after a few
connections, and each rest is longer while they continue. Meanwhile the kernel makes other peers wait in connect().
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import cast

import structlog
from websockets.asyncio.server import Server, ServerConnection
from websockets.protocol import State
from websockets.server import ServerProtocol

from controlplane.link.link import CLOSE_TIMEOUT_S
from controlplane.link.websocket import LinkSocket
from execd.wire.aio import MAX_CHUNK_BYTES

log = structlog.get_logger()

# For an execd that hangs. The engine reports a dead one.
KEEPALIVE_S = 30.0
# One execd uses the socket. Any other peer that floods it blocks itself in connect().
BACKLOG = 4
# An honest execd connects once, and again after its link broke. The listener rests after a row of this length.
CONNECTIONS_IN_A_ROW = 8
FIRST_REST_S = 0.1
LAST_REST_S = 1.0


class Listener(Server):
    """The listener of one socket, which speaks WebSocket with admitted peers.

    `admit` gets a new connection's socket. It returns None to refuse the peer, or else a function, which is called
    after the end of the connection, perhaps more than once. `handle` runs an admitted connection. The listener owns
    the listening socket, and closes it at its end, or if the socket cannot listen.

    Raises:
        OSError: the socket cannot listen.
    """

    def __init__(
        self,
        listening: socket.socket,
        *,
        admit: Callable[[socket.socket], Callable[[], None] | None],
        handle: Callable[[ServerConnection], Awaitable[None]],
        open_timeout_s: float,
    ) -> None:
        super().__init__(self._already_created, self._run)
        self._admit = admit
        self._handle = handle
        self._open_timeout_s = open_timeout_s
        # The library's type is asyncio's own server, but it uses only what every server has.
        self.server = cast("asyncio.Server", _Accepting(listening, self._welcome))

    async def _already_created(self) -> asyncio.Server:
        return self.server

    async def _welcome(self, connection: socket.socket) -> None:
        """Admit one connection, or close it at once: a connection costs the server a file descriptor."""
        gone = self._admit(connection)
        if gone is None:
            connection.close()
            return
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: self._new(gone), connection)
        except BaseException:
            gone()
            connection.close()
            raise

    def _new(self, gone: Callable[[], None]) -> LinkSocket:
        return LinkSocket(
            ServerProtocol(max_size=MAX_CHUNK_BYTES),
            self,
            gone=gone,
            ping_interval=KEEPALIVE_S,
            ping_timeout=KEEPALIVE_S,
            close_timeout=CLOSE_TIMEOUT_S,
        )

    async def _run(self, connection: ServerConnection) -> None:
        """Perform the handshake, run the handler, and close the connection."""
        try:
            async with asyncio.timeout(self._open_timeout_s):
                await connection.handshake(server_header=None)
            if connection.protocol.state is not State.OPEN:
                return
            self.all_connections.add(connection)
            connection.start_keepalive()
            async with connection:
                await self._handle(connection)
        except TimeoutError:
            pass  # the peer sent nothing
        except Exception:
            log.exception("link.broken")
        finally:
            self.all_connections.discard(connection)
            connection.transport.abort()
            if (task := asyncio.current_task()) is not None:
                self.handler_tasks.discard(task)


class _Accepting:
    """A task that accepts connections, with the interface that `websockets` needs of asyncio's server."""

    def __init__(self, listening: socket.socket, welcome: Callable[[socket.socket], Awaitable[None]]) -> None:
        self._listening = listening
        self._welcome = welcome
        try:
            listening.settimeout(0)
            listening.listen(BACKLOG)
        except BaseException:
            listening.close()
            raise
        self._task = asyncio.ensure_future(self._accept())
        self._task.add_done_callback(self._ended)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        in_a_row, rest_s = 0, FIRST_REST_S
        has_failed = False
        while True:
            waiting_since = loop.time()
            try:
                connection, _ = await loop.sock_accept(self._listening)
            except OSError as error:  # too many open files, for example: try again, and log it once
                if not has_failed:
                    log.warning("link.accept_failed", error=str(error), retry_s=LAST_REST_S)
                has_failed = True
                await asyncio.sleep(LAST_REST_S)
                continue
            has_failed = False
            if loop.time() - waiting_since >= rest_s:  # no peer was waiting
                in_a_row, rest_s = 0, FIRST_REST_S
            with contextlib.suppress(OSError):  # the peer is gone already
                await self._welcome(connection)
            in_a_row += 1
            if in_a_row >= CONNECTIONS_IN_A_ROW:
                await asyncio.sleep(rest_s)
                in_a_row, rest_s = 0, min(2 * rest_s, LAST_REST_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._listening.close()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("link.accept_broken", exc_info=error)

    def close(self) -> None:
        """Stop accepting."""
        self._task.cancel()

    def is_serving(self) -> bool:
        """Return whether peers may still connect."""
        return not self._task.cancelling() and not self._task.done()

    async def wait_closed(self) -> None:
        """Wait until the socket is closed."""
        await asyncio.wait([self._task])

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop of the listener."""
        return self._task.get_loop()
