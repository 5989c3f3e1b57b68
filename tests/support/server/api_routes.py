"""The routes of the application, for tests that look at all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import prometheus_client
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from controlplane.access.credentials import Credentials
from controlplane.api.app import ApiSettings, make_app
from controlplane.api.edge.guard import Guarded
from controlplane.api.edge.operation import Operation
from controlplane.api.routes import OPERATIONS
from tests.support.server.access import fixed_access
from tests.support.server.application import operator_of

BY_NAME = {operation.name: operation for operation in reversed(OPERATIONS)}  # the first of each name


def make_any_app() -> Any:
    """Return the application, of which only the routes are looked at."""
    nothing: Any = None

    class Sandboxes:
        get = ids = in_use = None

    return make_app(
        sandboxes=Sandboxes(),  # type: ignore[arg-type]
        pauses=nothing,
        snapshots=nothing,
        registry=nothing,
        relay=nothing,
        activities=nothing,
        credentials=Credentials(b""),
        access=fixed_access({}),
        settings=ApiSettings(),
        metrics_registry=prometheus_client.CollectorRegistry(),
        is_ready=lambda: True,
        operator=operator_of(),
    )


def routes_of(app: Any) -> Iterator[tuple[str, Route]]:
    """Yield all HTTP routes with their full paths, without those below /v1, which are the same once more."""
    return ((path, route) for path, route in all_routes_of(app) if isinstance(route, Route))


def sockets_of(app: Any) -> Iterator[tuple[str, WebSocketRoute]]:
    """Yield all WebSocket routes likewise."""
    return ((path, route) for path, route in all_routes_of(app) if isinstance(route, WebSocketRoute))


def all_routes_of(app: Any) -> Iterator[tuple[str, BaseRoute]]:
    """Yield all routes likewise."""

    def walk(routes: list[BaseRoute], prefix: str) -> Iterator[tuple[str, BaseRoute]]:
        for route in routes:
            if isinstance(route, Mount) and route.path != "/v1":
                yield from walk(list(route.routes), prefix + route.path)
            elif isinstance(route, Route | WebSocketRoute):
                yield prefix + route.path.replace(":path}", "}"), route

    yield from walk(list(app.routes), "")


def operation_of_route(route: Route | WebSocketRoute) -> Operation:
    """Return the operation that a route is made of."""
    assert isinstance(route.app, Guarded)
    return route.app._operation
