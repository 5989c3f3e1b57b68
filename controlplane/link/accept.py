"""Where execd comes in: one directory with one Unix socket a sandbox.

The directory is mounted read-only into the container, so the path is the identity: what connects here came from that
sandbox. The kernel confirms that it is the sandbox's process 1, and not user code in it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from websockets.asyncio.server import Server, ServerConnection, unix_serve

from controlplane.errors import ConfigError, LinkLost, StartFailed
from controlplane.link.directory import Directory
from controlplane.link.link import CLOSE_TIMEOUT_S, Link
from controlplane.link.peer import is_init_of, peer_pid
from controlplane.link.websocket import LinkSocket
from execd.wire.aio import MAX_CHUNK_BYTES
from execd.wire.errors import WireError

log = structlog.get_logger()

SOCKET_NAME = "link.sock"
MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un.sun_path less its terminator, unix(7)
HELLO_TIMEOUT_S = 10.0
# A dead or stopped execd shows at its process's end; this is for one that hangs.
KEEPALIVE_S = 30.0
# Behind the socket's path nobody waits but one execd. Whoever else floods it blocks in connect(), not us.
BACKLOG = 4
# execd has one link, and for a moment perhaps a second one, when it dials again before we see the first one's end.
MAX_CONNECTIONS = 2


class _Door:
    """One sandbox's socket."""

    def __init__(self, container_id: str) -> None:
        self.container_id = container_id  # who may come in
        self.server: Server | None = None
        self.connections = 0
        self.refused = 0


class Accept:
    """Listens for the execd of every sandbox.

    `verify(pid, container_id)` says whether a peer may speak for a container. `on_link` is told of every link that is
    ready, `on_violation` of a peer that broke the protocol; both run on the event loop and must not block.
    """

    def __init__(
        self,
        run_dir: Path,
        directory: Directory,
        *,
        on_link: Callable[[Link], None] = lambda link: None,
        on_violation: Callable[[str, str], None] = lambda sandbox_id, text: None,
        verify: Callable[[int, str], bool] = is_init_of,
    ) -> None:
        self._run_dir = run_dir
        self._root = run_dir / "sandboxes"
        self._directory = directory
        self._on_link = on_link
        self._on_violation = on_violation
        self._verify = verify
        self._doors: dict[str, _Door] = {}
        self._lock = -1

    def prepare(self) -> None:
        """Make the directory for all sockets, closed to everybody else, and lock it.

        Raises:
            ConfigError: it cannot be made, another server uses it, or socket paths in it would be too long for the
                kernel.
        """
        longest = self._root / ("0" * 16) / SOCKET_NAME
        if len(os.fsencode(longest)) > MAX_SOCKET_PATH_BYTES:
            raise ConfigError(f"[paths] run_dir: {self._run_dir} is too long for Unix sockets; choose a shorter one")
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._root.chmod(0o700)
            self._lock = os.open(self._run_dir / "lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._unlock()
            raise ConfigError(
                f"another Sandlot server uses {self._run_dir}: stop it, or give this one a [paths] state_dir and "
                "run_dir"
            ) from error
        except OSError as error:
            self._unlock()
            raise ConfigError(f"[paths] run_dir: {self._root}: {error.strerror}") from error

    def socket_dir(self, sandbox_id: str) -> Path:
        """Return the directory that is mounted into the container."""
        return self._root / sandbox_id

    def known(self) -> list[str]:
        """Return the ids that have a directory, from this run or an earlier one."""
        return [path.name for path in self._root.iterdir()]

    async def listen(self, sandbox_id: str, container_id: str = "") -> Path:
        """Start listening for a sandbox, in the same directory as before a restart. Returns the directory.

        Nobody is let in before it is known which container that is: here, or by `expect()`.

        Raises:
            StartFailed: the socket cannot be made: no space, or too many open files.
        """
        directory = self.socket_dir(sandbox_id)
        path = directory / SOCKET_NAME
        door = self._doors[sandbox_id] = _Door(container_id)
        try:
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)  # the parent is closed; the container's user, whoever that is, must get through
            path.unlink(missing_ok=True)
            door.server = await self._serve(sandbox_id, door, path)
            path.chmod(0o666)
        except OSError as error:
            raise StartFailed(f"cannot listen at {path}: {error.strerror or error}") from error
        return directory

    def expect(self, sandbox_id: str, container_id: str) -> None:
        """Only this container may come in here. Call it before the container starts."""
        self._doors[sandbox_id].container_id = container_id

    async def close(self, sandbox_id: str) -> None:
        """Stop listening, close the link, remove the directory. Idempotent."""
        if (door := self._doors.pop(sandbox_id, None)) is not None and door.server is not None:
            door.server.close()
            await door.server.wait_closed()
        await asyncio.to_thread(shutil.rmtree, self.socket_dir(sandbox_id), ignore_errors=True)

    async def aclose(self) -> None:
        """Stop listening everywhere and release the lock; directories stay for the next start."""
        servers = [door.server for door in self._doors.values() if door.server is not None]
        self._doors.clear()
        for server in servers:
            server.close()
        await asyncio.gather(*(server.wait_closed() for server in servers))
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def _serve(self, sandbox_id: str, door: _Door, path: Path) -> Server:
        def connect(*arguments: Any, **options: Any) -> ServerConnection:
            return _GuardedSocket(
                *arguments, admit=lambda transport: self._admit(sandbox_id, door, transport), **options
            )

        async def handle(websocket: ServerConnection) -> None:
            await self._run(sandbox_id, websocket)

        return await unix_serve(
            handle,
            str(path),
            create_connection=connect,
            compression=None,
            max_size=MAX_CHUNK_BYTES,
            ping_interval=KEEPALIVE_S,
            ping_timeout=KEEPALIVE_S,
            open_timeout=HELLO_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            backlog=BACKLOG,
            server_header=None,
        )

    def _admit(self, sandbox_id: str, door: _Door, transport: asyncio.BaseTransport) -> Callable[[], None] | None:
        """Decide about a peer that has just connected; return what to call when it is gone, or None to refuse it."""
        connection: socket.socket = transport.get_extra_info("socket")
        pid = peer_pid(connection)
        reason = ""
        if not door.container_id or not self._verify(pid, door.container_id):
            reason = "not process 1 of the container"
        elif door.connections >= MAX_CONNECTIONS:
            reason = "it has its link"
        if reason:
            door.refused += 1
            if door.refused == 1:  # user code can knock as often as it likes, and must not fill our log with it
                log.warning("link.refused", sandbox=sandbox_id, pid=pid, reason=reason)
            return None
        door.connections += 1

        def gone() -> None:
            door.connections -= 1

        return gone

    async def _run(self, sandbox_id: str, websocket: ServerConnection) -> None:
        link = Link(sandbox_id, websocket)
        announcing = asyncio.ensure_future(self._announce(link))
        try:
            await link.run()
        except WireError as error:
            log.warning("link.violation", sandbox=sandbox_id, error=str(error))
            self._on_violation(sandbox_id, str(error))
        finally:
            announcing.cancel()
            self._directory.remove(link)

    async def _announce(self, link: Link) -> None:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                hello = await link.wait_hello()
        except TimeoutError:
            log.warning("link.silent", sandbox=link.sandbox_id)
            await link.aclose()
            return
        except LinkLost:
            return  # said by whoever runs the link
        log.debug("link.ready", sandbox=link.sandbox_id, version=hello.version, generation=hello.generation)
        self._directory.put(link)
        self._on_link(link)


class _GuardedSocket(LinkSocket):
    """Refuses strangers before they have said a word: a connection that waits costs a file descriptor of ours."""

    def __init__(
        self, *arguments: Any, admit: Callable[[asyncio.BaseTransport], Callable[[], None] | None], **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._admit = admit
        self._gone: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        super().connection_made(transport)
        self._gone = self._admit(transport)
        if self._gone is None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio, once."""
        super().connection_lost(exc)
        if self._gone is not None:
            self._gone()
