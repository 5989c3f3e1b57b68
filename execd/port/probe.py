"""The port where official and other clients look for Jupyter: 127.0.0.1:$JUPYTER_PORT.

The official code-interpreter SDK opens a connection and closes it. Other clients ask `GET /api` until it answers. There
is no Jupyter server: this port answers `/api` and `/api/status` as Jupyter Server's REST API does, and everything else
with 404.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable

import msgspec

from execd.wire.messages import SandboxClaim

log = logging.getLogger("execd")

DEFAULT_PORT = "44771"
VARIABLE = "JUPYTER_PORT"
JUPYTER_SERVER_VERSION = "2.17.0"  # clients check that there is a version, not which one

# A client that floods the port waits in the kernel's queue until the pause ends, and execd serves others meanwhile.
# With a short queue, clients that find it full would stay half connected for seconds.
BURST = 32
PAUSE_S = 0.02
BACKLOG = 1024

# A connection is held until its request has arrived. Both the time and the number of such connections are bounded.
MAX_CONNECTIONS = 32
REQUEST_WAIT_S = 10.0
MAX_HEAD_BYTES = 16 * 1024  # enough for the cookies of a browser

_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed"}


class ProbePorts:
    """Listeners on the loopback: at most one for the image's port and one for the claim's.

    *count_contexts* returns how many contexts live. `/api/status` calls them kernels.
    """

    def __init__(self, count_contexts: Callable[[], int] = lambda: 0) -> None:
        self._count_contexts = count_contexts
        self._started = _now()
        self._sockets: dict[int, socket.socket] = {}
        self._pauses: dict[int, asyncio.TimerHandle] = {}
        self._connections: dict[socket.socket, _Connection] = {}  # the oldest first

    def keep(self, port: str) -> None:
        """Listen on a port that is given as text. Log a port that cannot be used, and do nothing else."""
        if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
            log.warning("%s is %r, which is not a port", VARIABLE, port)
            return
        if int(port) in self._sockets:
            return
        # asyncio's server would call getaddrinfo, which loads libraries of the image.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", int(port)))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            log.warning("cannot listen on 127.0.0.1:%s: %s", port, error.strerror)
            return
        self._sockets[int(port)] = listener
        self._watch(listener)

    def take_settings(self, claim: SandboxClaim) -> None:
        """Listen on the port that a claim names as well."""
        if port := claim.env.get(VARIABLE):
            self.keep(port)

    def close(self) -> None:
        """Stop listening, and close all connections."""
        loop = asyncio.get_running_loop()
        for pause in self._pauses.values():
            pause.cancel()
        for listener in self._sockets.values():
            loop.remove_reader(listener)
            listener.close()
        self._sockets.clear()
        self._pauses.clear()
        for connection in list(self._connections):
            self._drop(connection)

    def _watch(self, listener: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BURST):
            try:
                self._hold(listener.accept()[0])
            except BlockingIOError:
                return
            except OSError:
                break  # no descriptors are left, or the connection has been reset
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        self._pauses[listener.fileno()] = loop.call_later(PAUSE_S, self._watch, listener)

    def _hold(self, connection: socket.socket) -> None:
        """Wait for the request of a connection. If there are too many connections, close the oldest."""
        connection.settimeout(0)
        if len(self._connections) >= MAX_CONNECTIONS:
            self._drop(next(iter(self._connections)))
        loop = asyncio.get_running_loop()
        self._connections[connection] = _Connection(loop.call_later(REQUEST_WAIT_S, self._drop, connection))
        loop.add_reader(connection, self._read, connection)

    def _read(self, connection: socket.socket) -> None:
        head = self._connections[connection].head
        try:
            data = connection.recv(MAX_HEAD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # the client reset the connection
        head += data
        if b"\r\n\r\n" in head:
            try:
                connection.send(self._answer(bytes(head)))  # it always fits into the buffer of a new socket
            except OSError:
                pass  # the client reset the connection
        elif data and len(head) <= MAX_HEAD_BYTES:
            return
        self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        self._connections.pop(connection).deadline.cancel()
        asyncio.get_running_loop().remove_reader(connection)
        connection.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0].rstrip(b"/")
        if path == b"/api":
            body: dict[str, object] = {"version": JUPYTER_SERVER_VERSION}
        elif path == b"/api/status":
            count = self._count_contexts()
            body = {"started": self._started, "last_activity": _now(), "connections": count, "kernels": count}
        else:
            return _response(404)
        if method not in (b"GET", b"HEAD"):
            return _response(405)
        answer = _response(200, body)
        return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == b"HEAD" else answer


class _Connection:
    """What a connection has sent so far, and when it is closed."""

    __slots__ = ("deadline", "head")

    def __init__(self, deadline: asyncio.TimerHandle) -> None:
        self.deadline = deadline
        self.head = bytearray()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _response(status: int, body: dict[str, object] | None = None) -> bytes:
    """Return a whole HTTP response. An error has the body that Jupyter Server would send."""
    reason = _REASONS[status]
    content = msgspec.json.encode({"message": reason, "reason": None} if body is None else body)
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        "Cache-Control: no-cache\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + content
