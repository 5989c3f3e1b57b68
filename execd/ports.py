"""The port that the official code-interpreter SDK probes: it must accept connections on 127.0.0.1:$JUPYTER_PORT.

There is no Jupyter, and nothing is said there: each connection is accepted and closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket

from execd.dispatch import Handler
from execd.wire.aio import Stream
from execd.wire.messages import SandboxClaim

log = logging.getLogger("execd")

DEFAULT_PORT = "44771"
VARIABLE = "JUPYTER_PORT"

# Whoever floods the port waits in the kernel's queue for the next pause to end, and execd does something else
# meanwhile. A short queue would leave those who find it full half connected, for seconds.
BURST = 32
PAUSE_S = 0.02
BACKLOG = 1024


class ProbePorts:
    """Listeners on the loopback, at most one for the image's port and one for the claim's."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._pauses: dict[int, asyncio.TimerHandle] = {}

    def keep(self, port: str) -> None:
        """Listen on a port given as text. When that cannot be, it is logged and nothing else happens."""
        if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
            log.warning("%s is %r, which is no port", VARIABLE, port)
            return
        if int(port) in self._sockets:
            return
        # Not asyncio's server: it asks getaddrinfo, which loads the image's libraries.
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

    def kept_by(self, claim: Handler) -> Handler:
        """Return the claim's handler, made to keep the claimed port first."""

        async def serve(stream: Stream, request: SandboxClaim) -> None:
            if port := request.env.get(VARIABLE):
                self.keep(port)
            await claim(stream, request)

        return serve

    def close(self) -> None:
        """Stop listening."""
        loop = asyncio.get_running_loop()
        for pause in self._pauses.values():
            pause.cancel()
        for listener in self._sockets.values():
            loop.remove_reader(listener)
            listener.close()
        self._sockets.clear()
        self._pauses.clear()

    def _watch(self, listener: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BURST):
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                return
            except OSError:
                break  # no descriptors left, or the connection is gone again
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        self._pauses[listener.fileno()] = loop.call_later(PAUSE_S, self._watch, listener)
