"""A server with one sandbox, whose agent is a process on this machine, and a client for that sandbox."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from controlplane.api.app import ApiSettings
from tests.support.agent.live_agent import LiveAgent
from tests.support.server.api_server import Edge, serving


@pytest.fixture
def settings() -> ApiSettings:
    """The settings that the API has by default."""
    return ApiSettings()


@pytest.fixture
async def edge(agent: LiveAgent, settings: ApiSettings) -> AsyncIterator[Edge]:
    """The server."""
    async with serving(agent.link, settings) as edge:
        yield edge


@pytest.fixture
async def client(edge: Edge) -> AsyncIterator[httpx.AsyncClient]:
    """A client for the sandbox's execd endpoint."""
    async with edge.execd() as client:
        yield client
