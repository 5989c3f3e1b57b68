"""A control plane on an engine in memory, served over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.support.fakes.agents import AgentEngine, end_agents
from tests.support.server.application import World, served
from tests.support.server.control_plane import IMAGE, Home


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A server with a pool of one container, and an administrator's key."""
    engine = AgentEngine(IMAGE)
    home = Home(engine)
    try:
        async with contextlib.AsyncExitStack() as stack:
            plane = await stack.enter_async_context(home.run(pool_size=1))
            address = await stack.enter_async_context(served(plane))
            yield World(home, plane, address, stack)
    finally:
        await end_agents(engine)
        await home.aclose()
