"""Every page of a sandbox, light and dark, wide and narrow, English and Chinese: without barriers and strangers."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.e2e.console.box.conftest import Room
from tests.support.browser import Tabs
from tests.support.console import Look, picture, signed_in
from tests.support.server.live_server import LiveServer

# Each page, and what is there once it has read what it shows.
PAGES = {
    "activity": "[role=option]",
    "notebook": ".cm-content",
    "terminal": "button",
    "files": "[role=treeitem]",
    "ports": "form",
    "metrics": "canvas",
    "settings": "form",
}
LOOKS = {
    "light": {"viewport": {"width": 1280, "height": 800}},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 400, "height": 800}},
    "chinese": {"viewport": {"width": 1280, "height": 800}, "locale": "zh-CN"},
}
DOCUMENTED = {"activity", "notebook"}
CODE = "import pandas as pd\npd.DataFrame({'city': ['Oslo', 'Quito'], 'people': [709_000, 2_011_000]})"


@pytest.mark.parametrize("look", LOOKS)
async def test_pages_are_whole(tabs: Tabs, server: LiveServer, sandbox_id: str, barriers: Look, look: str) -> None:
    tab = await signed_in(tabs, server, **LOOKS[look])
    room = Room(server, sandbox_id, tab)
    room.command(
        "mkdir -p /workspace/data && echo 'city,people' > /workspace/data/cities.csv; ls -la --color /workspace"
    )
    for path, there in PAGES.items():
        await tab.page.goto(f"{server.address}/console/sandboxes/{sandbox_id}/{path}")
        await expect(tab.page.locator(f"main {there}").first).to_be_visible(timeout=60_000)
        if path == "notebook" and look == "light":
            await room.type_code(CODE)
            await tab.page.keyboard.press("Control+Enter")
            await expect(tab.page.frame_locator("iframe").get_by_text("Quito")).to_be_visible(timeout=60_000)
        await picture(tab, f"sandbox-{path}-{look}", for_docs=look == "light" and path in DOCUMENTED)
        assert await barriers(tab) == [], path
        assert await tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is too wide"
    assert tab.trouble == []
    assert tab.hosts == {server.address.removeprefix("http://")}
