"""An execd on this machine, and the container engine with execd published in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiodocker
import pytest

from controlplane.images.build import build_images
from controlplane.images.publish import publish_execd
from tests.support.agent.live_agent import LiveAgent

IMAGES = Path(__file__).parents[2] / "images"


@pytest.fixture
async def agent() -> AsyncIterator[LiveAgent]:
    """A process that runs execd, and the control plane's end of its link."""
    async with LiveAgent() as agent:
        yield agent


@pytest.fixture
async def engine() -> AsyncIterator[aiodocker.Docker]:
    """A client of the container engine."""
    async with aiodocker.Docker() as docker:
        yield docker


@pytest.fixture(scope="session")
def volume() -> str:
    """The volume that has execd, with the images `execd` and `python` built."""
    with ThreadPoolExecutor(1) as aside:  # a fixture of the session has no event loop of its own
        return aside.submit(asyncio.run, _publish()).result()


async def _publish() -> str:
    async with aiodocker.Docker() as docker:
        await build_images(docker, IMAGES, ["execd", "python"], print)
        return await publish_execd(docker, print)
