"""A control plane on a fake engine, whose agents a test directs, and an empty store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from controlplane.store.store import Store
from tests.support.fakes.agents import AgentEngine
from tests.support.server.control_plane import IMAGE, Home


@pytest.fixture
async def engine() -> AgentEngine:
    """An engine that has two images."""
    return AgentEngine(IMAGE, "other/image")


@pytest.fixture
async def home(engine: AgentEngine) -> AsyncIterator[Home]:
    """State and sockets of a control plane, which outlive it."""
    home = Home(engine)
    yield home
    await home.aclose()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store in `state`, below the test's directory."""
    store = Store(tmp_path / "state")
    yield store
    store.close()
