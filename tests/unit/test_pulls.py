"""Images of others, fetched when a sandbox asks for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from controlplane.composition import ControlPlane
from controlplane.errors import ImageMissing
from controlplane.sandbox import Credentials, State
from tests.control_plane import Home, a_request
from tests.fakes.agents import AgentEngine

ADA = Credentials("ada", "secret")


@pytest.fixture
async def engine() -> AgentEngine:
    engine = AgentEngine("fake/image")
    engine.registry = {"open/image:1": None, "closed/image:1": ADA, "sandlot/mine": None}
    return engine


@pytest.fixture
async def home(engine: AgentEngine) -> AsyncIterator[Home]:
    home = Home(engine)
    yield home
    await home.aclose()


@pytest.fixture
async def plane(home: Home) -> AsyncIterator[ControlPlane]:
    async with home.run() as plane:
        with capture_logs():
            yield plane


async def test_an_image_that_is_not_there_is_fetched(plane: ControlPlane) -> None:
    """With the credentials of the request, which are nowhere to be seen afterwards."""
    assert (await plane.sandboxes.create(a_request(image="open/image:1"))).state is State.RUNNING
    sandbox = await plane.sandboxes.create(a_request(image="closed/image:1", credentials=ADA))
    assert "secret" not in repr(sandbox) + repr(a_request(credentials=ADA))


@pytest.mark.parametrize("image", ["no/such:1", "closed/image:1", "sandlot/mine"])
async def test_what_cannot_be_fetched_is_missing(plane: ControlPlane, image: str) -> None:
    """No such image; not for everybody; and our own are built, never fetched."""
    with pytest.raises(ImageMissing):
        await plane.sandboxes.create(a_request(image=image))
    assert plane.sandboxes.list() == []


async def test_two_who_want_the_same_wait_for_one_pull(plane: ControlPlane, home: Home, engine: AgentEngine) -> None:
    """One of them gives up: the pull goes on."""
    home.driver.slow_pull = asyncio.Event()
    first = asyncio.ensure_future(plane.sandboxes.create(a_request(image="open/image:1")))
    second = asyncio.ensure_future(plane.sandboxes.create(a_request(image="open/image:1")))
    await asyncio.sleep(0.05)
    first.cancel()
    await asyncio.wait([first])
    engine.pulls = 0
    home.driver.slow_pull.set()
    assert (await second).state is State.RUNNING
    assert engine.pulls == 1
