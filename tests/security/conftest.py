"""A sandbox's container on the real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.worlds import DockerWorld
from tests.support.server.boxes import Box, running


@pytest.fixture
async def box(world: DockerWorld) -> AsyncIterator[Box]:
    """A container with the settings that a sandbox has by default."""
    async with running(world) as box:
        yield box
