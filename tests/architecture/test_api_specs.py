"""The public specifications are those of the code that runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.responses import Response
from starlette.routing import BaseRoute, WebSocketRoute

from controlplane.api import sse
from controlplane.api.ports import OPERATION as PORT_OPERATION
from controlplane.api.problems import BY_AGENT_CODE, BY_CLASS, BY_CODE, ENDPOINT, documented_status, problem_of
from controlplane.errors import AgentError, SandlotError
from tests.architecture.api_specs import (
    LEFT_OUT,
    SHAPES,
    SIGNED,
    SPECS,
    asyncapis,
    documents,
    make_any_app,
    openapis,
    place_of,
    routes_of,
    sockets_of,
)
from tests.architecture.event_schema import KINDS

APP = make_any_app()
ROUTES = list(routes_of(APP))
SOCKETS = list(sockets_of(APP))
OPENAPIS = openapis()


@pytest.mark.parametrize("name", sorted(documents()))
def test_a_specification_is_current(name: str) -> None:
    """Run `python -m tests.architecture.api_specs`, look at what changed, and commit it."""
    assert (SPECS / name).read_text() == documents()[name]


def test_there_are_no_others() -> None:
    """But the link's, which has a test of its own."""
    assert {path.name for path in SPECS.glob("*.*api.yaml")} == {*documents(), "link.asyncapi.yaml"}


def test_every_route_is_in_a_specification() -> None:
    """With all its methods; but for those that are left out with a reason."""
    for path, route in ROUTES:
        place = place_of(path)
        if place is None:
            assert LEFT_OUT[path]
            continue
        methods = {method.upper() for method in OPENAPIS[place.document]["paths"][place.path]}
        assert (route.methods or {"TRACE", "OPTIONS"}) - {"HEAD"} <= methods, path


def test_every_shape_has_its_route_and_nothing_is_left_out_that_is_not_there() -> None:
    """None has gone astray."""
    assert set(SHAPES) | {PORT_OPERATION} == {route.name for _, route in ROUTES}
    assert set(LEFT_OUT) <= {path for path, _ in ROUTES}


def undescribed(sockets: list[tuple[str, WebSocketRoute]]) -> set[str]:
    """Return the paths of WebSocket routes that are in no specification. A port's are in OpenAPI, for any service."""
    addresses = {channel["address"] for each in asyncapis().values() for channel in each["channels"].values()}
    ports = {path for path, route in ROUTES if route.name == PORT_OPERATION}
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
    assert {400, 404, 409, 416, 429, 500, 502, 503, 504} == {problem_of(error).status for error in ERRORS}


@pytest.mark.parametrize(("path", "route"), [pytest.param(*each, id=f"{each[1].name} {each[0]}") for each in ROUTES])
def test_whatever_goes_wrong_has_a_status_of_the_specification(path: str, route: BaseRoute) -> None:
    """Of that very operation, for all its methods: also what nobody has thought of, which is 500."""
    place = place_of(path) or place_of("/sandboxes/{sandbox_id}/proxy/{port}/{rest}")
    assert place is not None
    name = str(route.name)  # type: ignore[attr-defined]
    statuses = {str(documented_status(name, error, problem_of(error).status)) for error in ERRORS} | {"500"}
    methods = {"get", "post"} if name == PORT_OPERATION else {method.lower() for method in route.methods - {"HEAD"}}  # type: ignore[attr-defined]
    for method in methods:
        operation = OPENAPIS[place.document]["paths"][place.path][method]
        if name == PORT_OPERATION:
            statuses -= {"416", "503"}  # codes of other operations: a port has no file ranges, and no isolation
        assert statuses <= set(operation["responses"]), method


@pytest.mark.parametrize(
    ("path", "route"), [pytest.param(*each, id=each[1].name) for each in SOCKETS if each[1].name != PORT_OPERATION]
)
def test_what_goes_wrong_before_a_websocket_has_a_status_of_the_specification(path: str, route: WebSocketRoute) -> None:
    """It is said in the channel's description."""
    statuses = {documented_status(route.name, error, problem_of(error).status) for error in ERRORS} | {401, 500}
    (channel,) = (
        channel
        for each in asyncapis().values()
        for channel in each["channels"].values()
        if channel["address"] == f"/v1{path}"
    )
    said = re.search(r"in place of the handshake, with ([\d, or]+)", channel["description"])
    assert said is not None
    assert statuses <= {int(number) for number in re.findall(r"\d+", said[1])}


@pytest.mark.parametrize(("path", "route"), [pytest.param(*each, id=f"{each[1].name} {each[0]}") for each in ROUTES])
def test_operations_of_an_endpoint_are_those_behind_the_proxy(path: str, route: BaseRoute) -> None:
    """What the proxy says is documented for them, and for no other."""
    name = str(route.name)  # type: ignore[attr-defined]
    place = place_of(path)
    assert (name in ENDPOINT) == (place is not None and place.document != "lifecycle")


# -- events ----------------------------------------


def test_every_event_has_a_schema() -> None:
    """Those that `sse.py` makes, wherever it makes them."""
    source = Path(sse.__file__).read_text()
    made = set(re.findall(r'"type": ?"([a-z_]+)"|text_event\("([a-z_]+)"', source))
    kinds = {kind for pair in made for kind in pair if kind} | {"stdout", "stderr"}
    assert len(kinds) > 7
    assert kinds == set(KINDS)
