"""The pages of the tests, and a browser's client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from controlplane.api.app import ApiSettings
from tests.support.server.api_server import Edge
from tests.support.server.console import browser, write_pages


@pytest.fixture
def settings(tmp_path: Path) -> ApiSettings:
    """The default settings, with pages."""
    return ApiSettings(console_dist=write_pages(tmp_path / "dist"))


@pytest.fixture
async def person(edge: Edge) -> AsyncIterator[httpx.AsyncClient]:
    """A client that asks as a page of the console."""
    async with browser(edge) as client:
        yield client
