"""The drivers keep what `Driver` promises."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.driver import DriverContract, World
from tests.contract.worlds import docker_world, fake_world


class TestFakeDriver(DriverContract):
    """The fake that other tests trust."""

    @pytest.fixture
    async def world(self) -> AsyncIterator[World]:
        async with fake_world() as world:
            yield world


class TestDockerDriver(DriverContract):
    """The real thing."""

    @pytest.fixture
    async def world(self) -> AsyncIterator[World]:
        async with docker_world() as world:
            yield world
