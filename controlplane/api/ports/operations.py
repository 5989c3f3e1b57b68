"""The one operation of ports: a request of any method, and a WebSocket, to a service in the sandbox."""

from __future__ import annotations

from controlplane.access.scopes import Needs
from controlplane.api.edge.addresses import EXECD_PORT
from controlplane.api.edge.operation import ANY_METHOD, PROXY, WEBSOCKET, Operation, endpoint_path
from controlplane.api.ports.forward import Ports

PORT = Operation(
    *("port.forward", ANY_METHOD, endpoint_path("{port}"), Ports, Needs.USE),
    is_visit=True,
    errors=(*PROXY, 400, 504),
)


def _below(path: str) -> tuple[Operation, ...]:
    """Return the operation at a path, with and without a rest, for HTTP and WebSocket."""
    return tuple(PORT.at(kind, each) for each in (path, f"{path}/{{rest:path}}") for kind in (ANY_METHOD, WEBSOCKET))


PORTS: tuple[Operation, ...] = _below(PORT.path)
# The same once more, as the official agent has it: one port by way of another.
PORTS_BY_AGENT: tuple[Operation, ...] = _below(f"{endpoint_path(EXECD_PORT)}/proxy/{{port}}")
