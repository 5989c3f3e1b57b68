"""One server with a warm pool for all e2e tests, and the official SDKs in an environment of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live_server import LiveServer, sdk_python


@pytest.fixture(scope="session")
def sdk() -> Path:
    """The interpreter that has the official SDKs."""
    return sdk_python()


@pytest.fixture(scope="session")
def server() -> Iterator[LiveServer]:
    """A server with a warm pool of two, which lets sandboxes ask for all they can ask for."""
    with LiveServer(["--pool-size", "2", "--allow-user-namespaces", "true"]) as live:
        yield live
