"""The public specifications are those of the code that runs."""

from __future__ import annotations

import pytest

from tests.architecture.api_specs import SHAPES, SPECS, documents, make_any_app, operation_of, routes_of

# What has a name and no place in a specification: a port carries what the service behind it says.
LEFT_OUT = {"port.forward", "health", "version", "metrics", "refusal"}


@pytest.mark.parametrize("name", sorted(documents()))
def test_a_specification_is_current(name: str) -> None:
    """Run `python -m tests.architecture.api_specs`, look at what changed, and commit it."""
    assert (SPECS / name).read_text() == documents()[name]


def test_every_route_is_in_a_specification() -> None:
    """But for those that say that something is not served."""
    routes = [(path, route) for path, route in routes_of(make_any_app()) if operation_of(path, route) is None]
    assert {route.name for _, route in routes} <= LEFT_OUT


def test_every_shape_has_its_route() -> None:
    """None has gone astray."""
    found = {operation_of(path, route) for path, route in routes_of(make_any_app())}
    assert set(SHAPES) <= found
