"""The operations of the native stream: the socket itself, and what only its messages can do."""

from __future__ import annotations

from controlplane.access.scopes import Needs
from controlplane.api.edge.operation import SANDBOX_PATH, WEBSOCKET, Operation
from controlplane.api.stream.opened import LANGUAGES, RESIZE
from controlplane.api.stream.socket import Streams

STREAM: tuple[Operation, ...] = (
    Operation(
        *("sandbox.stream", WEBSOCKET, f"{SANDBOX_PATH}/stream", Streams.serve, Needs.USE),
        takes_token=True,
        counts_as_use=True,
        errors=(400, 404, 409),
    ),
    RESIZE,
    LANGUAGES,
)
