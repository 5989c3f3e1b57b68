"""The sockets to which execd connects: for each sandbox one directory with one Unix socket.

The directory is mounted read-only into the container, so the path identifies the sandbox of every peer. The kernel
confirms that the peer is process 1 of the sandbox, and not user code in it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import structlog
from websockets.asyncio.server import ServerConnection

from controlplane.errors import ConfigError, LinkLost, StartFailed
from controlplane.link.directory import Directory
from controlplane.link.link import Link
from controlplane.link.listener import Listener
from controlplane.link.peer import is_init_of, peer_pid
from execd.wire.errors import WireError

log = structlog.get_logger()

SOCKET_NAME = "link.sock"
MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un.sun_path less its terminator, unix(7)
# Earlier releases bind by the whole path, with ids of 16 characters: the directory must stay usable for them.
OLD_ID_CHARS = 16
HELLO_TIMEOUT_S = 10.0
UNSEEN = (
    "the agent connected, but the kernel does not tell which process it is: run the server in the pid namespace of the "
    "engine's host (Compose: pid: host, docker run: --pid host)"
)
# execd has one link, and for a moment a second one, if it connects again before the server sees the first one's end.
MAX_CONNECTIONS = 2


class _Door:
    """The socket of one sandbox."""

    def __init__(self, container_id: str) -> None:
        self.container_id = container_id  # the container whose process 1 may connect
        self.server: Listener | None = None
        self.connections: set[object] = set()  # admitted ones
        self.refused = 0


class Accept:
    """The sockets of all sandboxes.

    `verify(pid, container_id)` returns whether a peer may speak for a container. `on_link` is called with every link
    that is ready, `on_violation` for a peer that broke the protocol. Set both before the first `listen`; both run on
    the event loop and must not block.
    """

    def __init__(
        self,
        run_dir: Path,
        directory: Directory,
        *,
        verify: Callable[[int, str], bool] = is_init_of,
    ) -> None:
        self._run_dir = run_dir
        self._root = run_dir / "sandboxes"
        self._directory = directory
        self.on_link: Callable[[Link], None] = lambda link: None
        self.on_violation: Callable[[str, str], None] = lambda sandbox_id, text: None
        self._verify = verify
        self._doors: dict[str, _Door] = {}
        self._lock = -1

    def prepare(self) -> None:
        """Create the directory of all sockets, which no other user may enter, and lock it.

        Raises:
            ConfigError: the directory cannot be created, another server uses it, or socket paths in it would be too
                long for the kernel.
        """
        longest = self._root / ("0" * OLD_ID_CHARS) / SOCKET_NAME
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
        """Return the directory to mount into the container."""
        return self._root / sandbox_id

    def known(self) -> list[str]:
        """Return the ids that have a directory, from this run or an earlier one."""
        return [path.name for path in self._root.iterdir()]

    async def listen(self, sandbox_id: str, container_id: str = "") -> Path:
        """Listen for a sandbox, in the same directory as before a restart. Return the directory.

        The socket admits nobody until the container is known: by *container_id*, or by `expect()`.

        Raises:
            StartFailed: the socket cannot be created: no space, or too many open files.
        """
        directory = self.socket_dir(sandbox_id)
        path = directory / SOCKET_NAME
        door = self._doors[sandbox_id] = _Door(container_id)
        try:
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)  # any user of the container must get through; the parent is closed
            path.unlink(missing_ok=True)
            door.server = self._serve(sandbox_id, door, _bind(directory))
            path.chmod(0o666)
        except OSError as error:
            raise StartFailed(f"cannot listen at {path}: {error.strerror or error}") from error
        return directory

    def expect(self, sandbox_id: str, container_id: str) -> None:
        """Admit only this container. Call this before the container starts."""
        self._doors[sandbox_id].container_id = container_id

    async def close(self, sandbox_id: str) -> None:
        """Stop listening for a sandbox, close its link, and remove the directory. Idempotent."""
        if (door := self._doors.pop(sandbox_id, None)) is not None and door.server is not None:
            door.server.close()
            await door.server.wait_closed()
        await asyncio.to_thread(shutil.rmtree, self.socket_dir(sandbox_id), ignore_errors=True)

    async def aclose(self) -> None:
        """Stop listening for all sandboxes and release the lock. The directories stay for the next start."""
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

    def _serve(self, sandbox_id: str, door: _Door, listening: socket.socket) -> Listener:
        return Listener(
            listening,
            admit=lambda connection: self._admit(sandbox_id, door, connection),
            handle=lambda websocket: self._run(sandbox_id, websocket),
            open_timeout_s=HELLO_TIMEOUT_S,
        )

    def _admit(self, sandbox_id: str, door: _Door, connection: socket.socket) -> Callable[[], None] | None:
        """Admit a new peer, and return the function to call after its end; or return None to refuse the peer."""
        pid = peer_pid(connection)
        reason = ""
        if not pid:
            reason = UNSEEN
            # No other process of any sandbox is visible either, so waiting longer for this one is useless.
            self._directory.fail(sandbox_id, StartFailed(UNSEEN))
        elif not door.container_id or not self._verify(pid, door.container_id):
            reason = "not process 1 of the container"
        elif len(door.connections) >= MAX_CONNECTIONS:
            reason = "it has its link"
        if reason:
            door.refused += 1
            if door.refused == 1:  # user code can connect without end, and must not fill the log
                log.warning("link.refused", sandbox=sandbox_id, pid=pid, reason=reason)
            return None
        admitted = object()
        door.connections.add(admitted)
        return lambda: door.connections.discard(admitted)

    async def _run(self, sandbox_id: str, websocket: ServerConnection) -> None:
        link = Link(sandbox_id, websocket)
        announcing = asyncio.ensure_future(self._announce(link))
        try:
            await link.run()
        except WireError as error:
            log.warning("link.violation", sandbox=sandbox_id, error=str(error))
            self.on_violation(sandbox_id, str(error))
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
            return  # the code that runs the link logs this
        log.debug("link.ready", sandbox=link.sandbox_id, version=hello.version, generation=hello.generation)
        self._directory.put(link)
        self.on_link(link)


def _bind(directory: Path) -> socket.socket:
    """Return a Unix socket bound in a directory, whose path may be of any length. Raises OSError."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(f"/proc/self/fd/{descriptor}/{SOCKET_NAME}")
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(descriptor)
    return listener
