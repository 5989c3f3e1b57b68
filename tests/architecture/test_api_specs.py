"""The public specifications are those of the code that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from controlplane.api.edge.operation import Operation
from controlplane.api.edge.problems import BY_AGENT_CODE, BY_CLASS, BY_CODE, documented_status, problem_of
from controlplane.api.execd.terminals import Terminals
from controlplane.api.ports.operations import PORT
from controlplane.api.routes import OPERATIONS
from controlplane.api.runs import sse
from controlplane.errors import AgentError, SandlotError
from specs.generate.api import (
    LEFT_OUT,
    SIGNED,
    SPECS,
    document_of,
    documents,
    openapis,
    path_of,
)
from specs.generate.events import KINDS
from specs.generate.sockets import asyncapis
from tests.support.server.api_routes import make_any_app, operation_of_route, routes_of, sockets_of

APP = make_any_app()
ROUTES = list(routes_of(APP))
SOCKETS = list(sockets_of(APP))
OPENAPIS = openapis()


@pytest.mark.parametrize("name", sorted(documents()))
def test_a_specification_is_current(name: str) -> None:
    """Run `make specs`, look at what changed, and commit it."""
    assert (SPECS / name).read_text() == documents()[name]


def test_there_are_no_others() -> None:
    """But the link's, which has a test of its own."""
    assert {path.name for path in SPECS.glob("*.*api.yaml")} == {*documents(), "link.asyncapi.yaml"}


def test_every_route_is_in_a_specification() -> None:
    """With all its methods; but for those that are left out with a reason."""
    for path, route in ROUTES:
        operation = operation_of_route(route)
        if (document := document_of(operation)) is None:
            assert LEFT_OUT[path]
            continue
        methods = {method.upper() for method in OPENAPIS[document]["paths"][path_of(operation)]}
        assert (route.methods or {"TRACE", "OPTIONS"}) - {"HEAD"} <= methods, path


def test_nothing_is_left_out_that_is_not_there() -> None:
    """A path of LEFT_OUT is a route."""
    assert set(LEFT_OUT) <= {path for path, _ in ROUTES}


def undescribed(sockets: list[tuple[str, WebSocketRoute]]) -> set[str]:
    """Return the paths of WebSocket routes that are in no specification. A port's are in OpenAPI, for any service."""
    addresses = {channel["address"] for each in asyncapis().values() for channel in each["channels"].values()}
    ports = {path for path, route in ROUTES if route.name == PORT.name}
    return {path for path, _ in sockets if f"/v1{path}" not in addresses and path not in ports}


def test_every_websocket_is_in_a_specification() -> None:
    """The stream, the terminals, and the ports, whose description says that they take WebSockets as well."""
    assert len(SOCKETS) > 2
    assert undescribed(SOCKETS) == set()
    for path in ("/sandboxes/{sandbox_id}/proxy/{port}/{rest}", SIGNED):
        assert "WebSocket" in OPENAPIS["lifecycle"]["paths"][path]["description"]


def test_a_websocket_without_a_specification_is_found() -> None:
    """The test above would fail for a new one."""
    one = WebSocketRoute("/sandboxes/{sandbox_id}/other", Response())
    assert undescribed([*SOCKETS, (one.path, one)]) == {one.path}


# -- what goes wrong ----------------------------------------


def every_error() -> list[SandlotError]:
    """Return an error of each class, with each code that it may have: its own, any of the table's, or an unheard-of."""
    found: list[SandlotError] = []
    for kind in BY_CLASS:
        codes = BY_AGENT_CODE if issubclass(kind, AgentError) else BY_CODE
        found.append(kind("x"))
        for code in [*codes, "unheard.of"]:
            found.append(kind("x"))
            found[-1].code = code
    return found


ERRORS = every_error()


def test_all_errors_are_tried() -> None:
    """The list is not empty, nor all of one status."""
    assert len(ERRORS) > 500
    assert {400, 403, 404, 409, 416, 429, 500, 501, 502, 503, 504} == {problem_of(error).status for error in ERRORS}


@pytest.mark.parametrize(("path", "route"), [pytest.param(*each, id=f"{each[1].name} {each[0]}") for each in ROUTES])
def test_whatever_goes_wrong_has_a_status_of_the_specification(path: str, route: Route) -> None:
    """Of that very operation, for all its methods: also what nobody has thought of, which is 500."""
    operation = operation_of_route(route)
    is_port = operation.name == PORT.name
    document = "lifecycle" if is_port else document_of(operation)
    place = f"{PORT.path}/{{rest}}" if is_port else path_of(operation)
    assert document is not None
    statuses = {str(documented_status(operation, error, problem_of(error).status)) for error in ERRORS} | {"500"}
    for method in {"get", "post"} if is_port else {method.lower() for method in operation.method.split()}:
        assert statuses <= set(OPENAPIS[document]["paths"][place][method]["responses"]), method


@pytest.mark.parametrize(
    ("path", "route"), [pytest.param(*each, id=each[1].name) for each in SOCKETS if each[1].name != PORT.name]
)
def test_what_goes_wrong_before_a_websocket_has_a_status_of_the_specification(path: str, route: WebSocketRoute) -> None:
    """The channel's description lists the statuses."""
    operation = operation_of_route(route)
    statuses = {documented_status(operation, error, problem_of(error).status) for error in ERRORS} | {401, 500}
    (channel,) = (
        channel
        for each in asyncapis().values()
        for channel in each["channels"].values()
        if channel["address"] == f"/v1{path}"
    )
    said = re.search(r"refuses a handshake with status ([\d, or]+)", channel["description"])
    assert said is not None
    assert statuses <= {int(number) for number in re.findall(r"\d+", said[1])}


@pytest.mark.parametrize("operation", [pytest.param(each, id=f"{each.name} {each.path}") for each in OPERATIONS])
def test_what_the_proxy_says_is_documented_at_endpoints_only(operation: Operation) -> None:
    """For every operation there, and for no other one."""
    is_at_endpoint = document_of(operation) in {"execd", "egress"} or operation.endpoint == Terminals.attach
    assert (operation.port != 0) == is_at_endpoint
    assert (502 in operation.documented_with_proxy) >= is_at_endpoint


# -- events ----------------------------------------


def test_every_event_has_a_schema() -> None:
    """Those that `sse.py` makes, wherever it makes them."""
    source = Path(sse.__file__).read_text()
    made = set(re.findall(r'"type": ?"([a-z_]+)"|text_event\("([a-z_]+)"', source))
    kinds = {kind for pair in made for kind in pair if kind} | {"stdout", "stderr"}
    assert len(kinds) > 7
    assert kinds == set(KINDS)
