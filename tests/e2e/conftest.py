"""One server with a warm pool for all e2e tests, and the official SDKs in an environment of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.leaks import LEAKS
from tests.support.server.live_server import LiveServer, sdk_python


@pytest.fixture(scope="session", autouse=True)
def no_leaks() -> Iterator[None]:
    """At the end of the run, no server has written a key or a token anywhere."""
    yield
    assert LEAKS == []


@pytest.fixture(scope="session")
def sdk() -> Path:
    """The interpreter that has the official SDKs."""
    return sdk_python()


@pytest.fixture(scope="session")
def server() -> Iterator[LiveServer]:
    """A server with a warm pool of two, which lets sandboxes ask for all they can ask for."""
    with LiveServer(["--pool-size", "2", "--allow-user-namespaces", "true"]) as live:
        yield live


@pytest.fixture(scope="module")
def sandbox(server: LiveServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """The id of a sandbox for all tests of a module, made by the module's `CREATE`."""
    sandbox_id = server.request("POST", "/v1/sandboxes", request.module.CREATE)["id"]
    yield sandbox_id
    server.request("DELETE", f"/v1/sandboxes/{sandbox_id}")
