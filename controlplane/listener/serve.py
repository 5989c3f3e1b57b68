"""The serving of an ASGI application on a socket, for the time of a block."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec
import uvicorn

from controlplane.listener.bounds import DESCRIPTORS_SHARE, MAX_MESSAGE_BYTES, PING_S
from controlplane.listener.connections import ConnectionTable
from controlplane.listener.forwarded import TrustedProxies
from controlplane.listener.http import BoundedHttp
from controlplane.listener.memory import Memory
from controlplane.listener.rounds import Rounds, SlowLane
from controlplane.listener.shared import ListenerConfig, Shared
from controlplane.listener.websocket import BoundedWebSocket


class ListenerSettings(msgspec.Struct, frozen=True):
    """The operator's settings of a listener."""

    max_connections: int = 0  # 0: as many as the file descriptors allow
    max_connections_per_address: int = 0  # 0: no limit
    trusted_proxies: Sequence[str] = ()  # addresses and networks whose X-Forwarded headers are trusted


class Server(uvicorn.Server):
    """uvicorn without its signal handling, which would end the process before the server's cleanup."""

    def __init__(self, config: ListenerConfig) -> None:
        super().__init__(config)
        self.lifespan = config.lifespan_class(config)
        self.connections = config.shared.connections
        self.memory = config.shared.memory

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle no signals."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve."""
        await super().startup(sockets)
        self.connections.watch()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish the present requests, for as long as the grace allows."""
        await super().shutdown(sockets)
        self.connections.close()


def make_server(app: Any, settings: ListenerSettings, *, grace_s: int) -> Server:
    """Return a server that does not serve yet. At its end, streams get *grace_s* seconds to finish."""
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    application = TrustedProxies(app, settings.trusted_proxies)
    connections = ConnectionTable(
        _most_connections(settings.max_connections),
        settings.max_connections_per_address,
        lambda address: address in application,
    )
    config = ListenerConfig(
        application,
        Shared(connections, Memory(), SlowLane(), Rounds()),
        http=BoundedHttp,
        ws=BoundedWebSocket,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # 16 KB may stand for 16 MB
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # TrustedProxies reads them
        timeout_graceful_shutdown=grace_s,
    )
    config.load()
    return Server(config)


@contextlib.asynccontextmanager
async def serving(
    app: Any, listener: socket.socket, settings: ListenerSettings, *, grace_s: int
) -> AsyncIterator[None]:
    """Serve *app* on a listening socket inside of the `async with` block."""
    server = make_server(app, settings, grace_s=grace_s)
    running = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await running


def _is_news(record: logging.LogRecord) -> bool:
    # uvicorn says the first of every WebSocket that was refused with an answer of its own, which is no error; the
    # second of an answer that is left incomplete so that the connection drops, of which we say why ourselves.
    text = str(record.msg)
    return "without completing handshake" not in text and "without completing response" not in text


def _most_connections(wanted: int) -> int:
    """Return the number of connections that the file descriptors allow. Links to sandboxes need the others."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return wanted
    possible = int(descriptors * DESCRIPTORS_SHARE)
    return min(wanted, possible) if wanted else possible
