"""The parts of the lifecycle, over a driver that does nothing by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.server.parts import Parts, parts


@pytest.fixture
async def world() -> AsyncIterator[Parts]:
    """The parts, with no sandbox yet."""
    async with parts() as world:
        yield world
