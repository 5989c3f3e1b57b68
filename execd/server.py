"""The link to the control plane: dial, serve, dial again."""

from __future__ import annotations

import asyncio
import logging

from websockets.asyncio.client import unix_connect
from websockets.exceptions import WebSocketException

from execd.config import VERSION
from execd.dispatch import Dispatcher
from execd.wire.aio import MAX_CHUNK_BYTES, Endpoint
from execd.wire.connection import Connection, Role
from execd.wire.errors import WireError
from execd.wire.messages import GENERATION, Hello

log = logging.getLogger("execd")

FIRST_RETRY_S = 0.02  # a restarting control plane is back within a second
LAST_RETRY_S = 1.0


async def serve_forever(socket_path: str, dispatcher: Dispatcher) -> None:
    """Keep one link to the control plane, whatever happens to the link. Never return."""
    delay = FIRST_RETRY_S
    while True:
        connection = Connection(Role.AGENT, Hello(generation=GENERATION, version=VERSION))
        try:
            await _serve_once(socket_path, connection, dispatcher)
        except (OSError, WebSocketException, WireError) as error:
            log.info("link lost: %s", error)
        if connection.peer is not None:  # a link existed: when the control plane restarts, every millisecond counts
            delay = FIRST_RETRY_S
        await asyncio.sleep(delay)
        delay = min(delay * 1.5, LAST_RETRY_S)


async def _serve_once(socket_path: str, connection: Connection, dispatcher: Dispatcher) -> None:
    # No compression, which costs more than it saves on a local socket; no keepalive, because EOF tells when the link is
    # lost.
    async with unix_connect(
        socket_path,
        uri="ws://controlplane/link",
        compression=None,
        ping_interval=None,
        proxy=None,
        max_size=MAX_CHUNK_BYTES,
        open_timeout=10,
        close_timeout=2,
    ) as websocket:
        await Endpoint(connection, dispatcher.open).run(websocket)
