"""The pictures of docs/console.md and of the README: they can be taken, and are small.

With CONSOLE_PICTURES=1, they are written to docs/pictures.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.async_api import expect

from tests.support.browser import Tabs
from tests.support.console import DOCS_PICTURES, MAX_PICTURE_BYTES, picture, signed_in
from tests.support.server.live_server import LiveServer

WORK = (
    ("import pandas as pd\nsales = pd.DataFrame({'month': ['Jan', 'Feb', 'Mar'], 'euros': [1200, 950, 1730]})\nsales"),
    ("sales.euros.sum()"),
)
TEAMS = ("reports", "billing", "research")


@pytest.fixture
def sandboxes(server: LiveServer) -> Iterator[list[str]]:
    """Sandboxes of three teams; in the first, an agent has worked."""
    found = []
    for number, team in enumerate(TEAMS):
        body = {
            "image": {"uri": "sandlot/code-interpreter"},
            "entrypoint": ["tail", "-f", "/dev/null"],
            "timeout": 1800 + 900 * number,
            "metadata": {"name": f"{team}-{number + 1}", "team": team, "agent": "yes"},
        }
        found.append(server.request("POST", "/v1/sandboxes", body)["id"])
    for code in WORK:
        server.request("POST", "/v1/contexts/execute", {"sandbox_id": found[0], "code": code})
    yield found
    for sandbox in found:
        server.request("DELETE", f"/v1/sandboxes/{sandbox}")


async def test_pictures_of_the_documentation(tabs: Tabs, server: LiveServer, sandboxes: list[str]) -> None:
    tab = await signed_in(tabs, server, viewport={"width": 1000, "height": 620})
    page = tab.page
    await page.goto(f"{server.address}/console/")
    await expect(page.get_by_role("meter").first).to_be_visible()
    await picture(tab, "start", for_docs=True)
    await page.goto(f"{server.address}/console/sandboxes?q=agent%3D")
    for row in range(len(sandboxes)):
        await expect(page.get_by_role("row").nth(row + 1).get_by_role("gridcell").nth(6)).to_contain_text("MB")
    await picture(tab, "sandboxes", for_docs=True)
    await page.set_viewport_size({"width": 1000, "height": 700})
    await page.goto(f"{server.address}/console/sandboxes/{sandboxes[0]}/activity")
    await expect(page.get_by_text("sales.euros.sum()").first).to_be_visible()
    await page.get_by_text("import pandas").first.click()
    await expect(page.frame_locator("iframe").get_by_text("1730")).to_be_visible()
    await picture(tab, "activity", for_docs=True, of="main")
    assert tab.trouble == []


def test_pictures_are_small() -> None:
    """Of the repository, which everybody fetches with them."""
    sizes = {path.name: path.stat().st_size for path in DOCS_PICTURES.iterdir()}
    assert sizes.keys() == {"activity.png", "sandboxes.png", "start.png"}
    assert {name: size for name, size in sizes.items() if size > MAX_PICTURE_BYTES} == {}
