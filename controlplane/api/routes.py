"""All operations of the API, and the routes made of them."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.api.console.operations import CONSOLE
from controlplane.api.edge.guard import Guard, Guarded
from controlplane.api.edge.operation import ANY_METHOD, ON_STREAM, WEBSOCKET, Operation, Refusal, endpoint_path
from controlplane.api.edge.problems import flat
from controlplane.api.egress.operations import EGRESS
from controlplane.api.execd.operations import EXECD
from controlplane.api.lifecycle.operations import LIFECYCLE
from controlplane.api.ports.operations import PORTS, PORTS_BY_AGENT
from controlplane.api.server.operations import SERVER
from controlplane.api.stream.operations import STREAM
from controlplane.api.traced import UNTRACED, Traced
from controlplane.telemetry.tracing import SILENT, Tracer

# A path finds the first of these that it matches, so the two contracts at endpoints come before the ports.
OPERATIONS: tuple[Operation, ...] = (
    *(*PORTS_BY_AGENT, *EXECD, *EGRESS, *PORTS, *LIFECYCLE, *SERVER, *STREAM, *CONSOLE),
)

InUse = Callable[[str], AbstractContextManager[None]]


class Routes:
    """Makes routes of operations, each behind its checks."""

    def __init__(self, endpoints: Iterable[object], guard: Guard, in_use: InUse, tracer: Tracer = SILENT) -> None:
        """Make routes to the methods of *endpoints*. *in_use* holds a sandbox as in use."""
        self._tracer = tracer
        self._bound = dict(pair for each in endpoints for pair in _bound_methods(each))
        self._guard = guard
        self._in_use = in_use

    def make(self, operations: Iterable[Operation]) -> list[BaseRoute]:
        """Return the routes in the order of the operations. Raises KeyError when an endpoint is missing."""
        routes: list[BaseRoute] = []
        served = (each for each in operations if each.method != ON_STREAM)
        for port, group in itertools.groupby(served, key=lambda operation: operation.port):
            found = [self._route(each) for each in group]
            routes += [mount(endpoint_path(port), found)] if port else found
        return routes

    def _route(self, operation: Operation) -> Route | WebSocketRoute:
        endpoint = operation.endpoint
        handler = _refusing(endpoint) if isinstance(endpoint, Refusal) else self._bound[endpoint]
        middleware = [Middleware(Guarded, operation, self._guard)]
        if self._tracer is not SILENT and operation.name not in UNTRACED:
            middleware.insert(0, Middleware(Traced, operation, self._tracer))
        if operation.counts_as_use:
            middleware.append(Middleware(_Used, self._in_use))
        if operation.method == WEBSOCKET:
            return _with_any_rest(WebSocketRoute(operation.path, handler, name=operation.name, middleware=middleware))
        methods = None if operation.method == ANY_METHOD else operation.method.split()
        return _with_any_rest(
            Route(operation.path, handler, methods=methods, name=operation.name, middleware=middleware)
        )


def mount(path: str, routes: Sequence[BaseRoute]) -> Mount:
    """Return routes below a path."""
    # A framework's redirect to the path with a slash at its end would be a page that no client of ours expects.
    return _with_any_rest(Mount(path, Router(routes, redirect_slashes=False)))


AnyRoute = TypeVar("AnyRoute", Route, WebSocketRoute, Mount)


def _with_any_rest(route: AnyRoute) -> AnyRoute:
    """Let the rest of a path have newlines, as a service's path may (%0A). Starlette's own rest ends at the first."""
    route.path_regex = re.compile(route.path_regex.pattern, route.path_regex.flags | re.DOTALL)
    return route


def _bound_methods(endpoint: object) -> Iterator[tuple[Any, Any]]:
    """Yield each function of an object's class with the method that it is; and the class with the object itself."""
    yield type(endpoint), endpoint
    for name, function in vars(type(endpoint)).items():
        if inspect.isfunction(function):
            yield function, getattr(endpoint, name)


def _refusing(refusal: Refusal) -> Callable[[Request], Any]:
    """Return an endpoint that says that this server does not do that."""

    async def refuse(_: Request) -> Response:
        return flat(refusal.status, refusal.code, f"{refusal.what}: this server does not support that yet")

    return refuse


class _Used:
    """ASGI middleware: a request counts as use of its sandbox for as long as the client is connected."""

    def __init__(self, app: ASGIApp, in_use: InUse) -> None:
        self._app = app
        self._in_use = in_use

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        with self._in_use(scope["path_params"]["sandbox_id"]):
            await self._app(scope, receive, send)
