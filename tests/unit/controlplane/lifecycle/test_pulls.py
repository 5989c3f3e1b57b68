"""Images of others, fetched when a sandbox asks for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from controlplane.errors import ImageMissing, ImageUnfinished
from controlplane.sandbox import Credentials, State
from controlplane.server.composition import ControlPlane
from controlplane.settings.sections import EngineSettings
from tests.support.fakes.agents import AgentEngine
from tests.support.server.control_plane import Home, a_request

ADA = Credentials("ada", "secret")


@pytest.fixture
async def engine() -> AgentEngine:
    engine = AgentEngine("fake/image")
    engine.registry = {"open/image:1": None, "closed/image:1": ADA, "sandlot/mine": None}
    return engine


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


async def test_an_image_that_is_being_built_says_so(plane: ControlPlane, engine: AgentEngine) -> None:
    """Not that it is missing: nobody has to do anything."""
    engine.unfinished.add("sandlot/mine")
    with pytest.raises(ImageUnfinished, match=r"^sandlot/mine is being built$"):
        await plane.sandboxes.create(a_request(image="sandlot/mine"))


@pytest.mark.parametrize("image", ["no/such:1", "closed/image:1", "sandlot/mine"])
async def test_what_cannot_be_fetched_is_missing(plane: ControlPlane, image: str) -> None:
    """No such image; not for everybody; and our own are built, never fetched."""
    with pytest.raises(ImageMissing):
        await plane.sandboxes.create(a_request(image=image))
    assert plane.sandboxes.list() == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            "sandlot/code-interpretor",
            "the engine has no image sandlot/code-interpretor; images under sandlot/ are built on the server's machine "
            "by `make images`, and never pulled; did you mean sandlot/code-interpreter?",
        ),
        (
            "opensandbox/code-interpreter:v1.0.2",
            "opensandbox/code-interpreter:v1.0.2 stands for sandlot/code-interpreter: the engine has no image "
            "sandlot/code-interpreter; images under sandlot/ are built on the server's machine by `make images`, and "
            "never pulled",
        ),
        (
            "opensandbox/code-interpeter:v1.0.2",
            "the registry has no image opensandbox/code-interpeter:v1.0.2; did you mean sandlot/code-interpreter?",
        ),
        ("code_interpreter", "the registry has no image code_interpreter; did you mean sandlot/code-interpreter?"),
        ("fake/imagee", "the registry has no image fake/imagee; did you mean fake/image?"),
        ("no/such:1", "the registry has no image no/such:1"),
    ],
)
async def test_a_missing_image_says_what_was_meant_and_what_is_pulled(
    plane: ControlPlane, image: str, message: str
) -> None:
    """The nearest image that there could be, by name; nothing where none is near."""
    with pytest.raises(ImageMissing) as missing:
        await plane.sandboxes.create(a_request(image=image))
    assert missing.value.message == message


async def test_a_server_that_does_not_pull_says_so(home: Home) -> None:
    """And how the image gets there."""
    async with home.run(engine=EngineSettings(pull="never")) as plane:
        with pytest.raises(ImageMissing, match=r'\[engine\] pull = "never"\); `docker pull open/image:1` there'):
            await plane.sandboxes.create(a_request(image="open/image:1"))


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
