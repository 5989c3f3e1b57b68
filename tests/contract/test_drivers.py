"""The drivers keep what `Driver` promises."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.abilities import AbilitiesContract
from tests.contract.containers import ContainersContract
from tests.contract.driver import World
from tests.contract.images import ImagesContract
from tests.contract.volumes import VolumesContract
from tests.contract.worlds import docker_world, fake_world
from tests.support.fakes.engine import FEW, MOST


class DriverContract(ContainersContract, ImagesContract, VolumesContract, AbilitiesContract):
    """All of it. A subclass gives the fixture `world`."""


class TestFakeDriver(DriverContract):
    """The fake that other tests trust."""

    @pytest.fixture
    async def world(self) -> AsyncIterator[World]:
        async with fake_world(MOST) as world:
            yield world


class TestFrugalDriver(DriverContract):
    """The same with an engine that can do next to nothing."""

    @pytest.fixture
    async def world(self) -> AsyncIterator[World]:
        async with fake_world(FEW) as world:
            yield world


class TestDockerDriver(DriverContract):
    """The real thing."""

    @pytest.fixture
    async def world(self) -> AsyncIterator[World]:
        async with docker_world() as world:
            yield world
