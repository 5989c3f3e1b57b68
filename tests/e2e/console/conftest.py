"""The console's pages as they are built, the server of all e2e tests behind them, and who looks at them."""

from __future__ import annotations

import asyncio
import io
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiodocker
import pytest

from controlplane.images.build import build_images
from controlplane.images.pages import publish_pages
from tests.support.browser import PATIENCE_MS, Tab, Tabs
from tests.support.console import Look, signed_in
from tests.support.server.live_server import LiveServer

ROOT = Path(__file__).parents[3]
STAGE = "sandlot/stage:console-build"
SERIOUS = ("serious", "critical")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests of pages more time: the first of them builds the pages, and the machine may be loaded."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session", autouse=True)
def pages() -> None:
    """Build the pages, unless they are those of the sources."""
    playwright = pytest.importorskip("playwright.async_api", reason="no Playwright; make venv")
    playwright.expect.set_options(timeout=PATIENCE_MS)
    with ThreadPoolExecutor(1) as aside:  # a fixture of the session has no event loop of its own
        aside.submit(asyncio.run, _build()).result()


async def _build() -> None:
    async with aiodocker.Docker() as docker:
        await build_images(docker, ROOT / "images", ["console"], print)
        await publish_pages(docker, print)


@pytest.fixture(scope="session")
def axe() -> str:
    """The program that looks for barriers, from the packages with which the pages are built."""
    made = subprocess.run(["docker", "create", STAGE, "/none"], capture_output=True, text=True, check=True)
    container = made.stdout.strip()
    try:
        path = f"{container}:/web/node_modules/axe-core/axe.min.js"
        copied = subprocess.run(["docker", "cp", path, "-"], capture_output=True, check=True)
    finally:
        subprocess.run(["docker", "rm", container], capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(copied.stdout)) as tar:
        file = tar.extractfile("axe.min.js")
        assert file is not None
        return file.read().decode()


@pytest.fixture
def barriers(axe: str) -> Look:
    """Return the barriers of a page that are serious or critical, a line for each."""

    async def look(tab: Tab) -> list[str]:
        await tab.page.evaluate(axe)
        found: list[dict[str, Any]] = await tab.page.evaluate("axe.run().then((found) => found.violations)")
        return [
            f"{one['id']}: {node['html'][:200]} {node['failureSummary']}"
            for one in found
            if one["impact"] in SERIOUS
            for node in one["nodes"]
        ]

    return look


@pytest.fixture
async def person(tabs: Tabs, server: LiveServer) -> Tab:
    """Somebody with a browser who has signed in with the server's own key."""
    return await signed_in(tabs, server)
