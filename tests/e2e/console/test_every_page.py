"""Every page, light and dark, wide and narrow, English and Chinese: without barriers, strangers and refusals."""

from __future__ import annotations

import sys

import pytest
from playwright.async_api import expect

from tests.support.browser import Tab, Tabs
from tests.support.console import Look, picture, signed_in
from tests.support.server.live_server import LiveServer

PAGES = {
    "": ("This server", "此服务器"),
    "sandboxes": ("Sandboxes", "沙箱"),
    "images": ("Pools and images", "预热池与镜像"),
    "storage": ("Snapshots and volumes", "快照与卷"),
    "server": ("Server", "服务器"),
    "server/report": ("Server", "服务器"),
    "server/log": ("Server", "服务器"),
    "server/settings": ("Server", "服务器"),
    "server/keys": ("Server", "服务器"),
    "server/audit": ("Server", "服务器"),
    "api": ("API", "API"),
}
LOOKS = {
    "light": {"viewport": {"width": 1280, "height": 800}},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 400, "height": 800}},
    "chinese": {"viewport": {"width": 1280, "height": 800}, "locale": "zh-CN"},
}
CREATE = {"image": {"uri": "sandlot/code-interpreter"}, "entrypoint": ["tail", "-f", "/dev/null"], "timeout": 900}


@pytest.fixture(scope="module", autouse=True)
def sandbox(server: LiveServer) -> str:
    """A sandbox to see, with a name that is hostile."""
    body = {**CREATE, "metadata": {"team": "blue", "name": "report-7"}}
    return str(server.request("POST", "/v1/sandboxes", body)["id"])


async def settle(tab: Tab) -> None:
    """Wait until the page has shown what it reads."""
    await expect(tab.page.get_by_text("Loading…")).to_have_count(0)
    await tab.page.wait_for_load_state("load")


@pytest.mark.parametrize("look", LOOKS)
async def test_pages_are_whole(tabs: Tabs, server: LiveServer, barriers: Look, look: str) -> None:
    tab = await signed_in(tabs, server, **LOOKS[look])
    for path, titles in PAGES.items():
        await tab.page.goto(f"{server.address}/console/{path}")
        await expect(tab.page.get_by_role("heading", level=1)).to_have_text(titles[look == "chinese"])
        await settle(tab)
        name = path.replace("/", "-") or "start"
        await picture(tab, f"{name}-{look}")
        assert await barriers(tab) == [], path
        assert await tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is too wide"
    assert tab.trouble == []
    assert tab.hosts == {server.address.removeprefix("http://")}


async def test_there_is_no_such_page(person: Tab, server: LiveServer) -> None:
    await person.page.goto(f"{server.address}/console/nothing/here")
    await expect(person.page.get_by_text("There is no such page")).to_be_visible()
    await person.page.get_by_role("link", name="To the start page").click()
    await expect(person.page.get_by_role("heading", level=1)).to_have_text("This server")


async def test_light_dark_and_language_can_be_chosen_and_stay(person: Tab, server: LiveServer) -> None:
    await person.page.goto(f"{server.address}/console/")
    background = "getComputedStyle(document.body).backgroundColor"
    light = await person.page.evaluate(background)
    await person.page.get_by_label("Light or dark").select_option("Dark")
    dark = await person.page.evaluate(background)
    await person.page.get_by_label("Language").select_option("中文")
    await expect(person.page.get_by_role("heading", level=1)).to_have_text("此服务器")
    await person.page.reload()
    await expect(person.page.get_by_role("heading", level=1)).to_have_text("此服务器")
    assert light != dark == await person.page.evaluate(background)


async def test_the_first_view_is_small(tab: Tab, server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    """At most 150 KB are transferred until a signed-in person sees the start page. The time is only told."""
    await tab.sign_in(server.address, server.key)
    session = await tab.context.new_cdp_session(tab.page)
    sizes: list[float] = []
    await session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    await tab.page.goto(f"{server.address}/console/")
    await expect(tab.page.get_by_role("heading", level=1)).to_be_visible()
    await expect(tab.page.get_by_role("meter").first).to_be_visible()
    paint = await tab.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
    with capsys.disabled():
        sys.stderr.write(
            f"\nfirst view: {sum(sizes) / 1000:.1f} KB in {len(sizes)} answers, first paint after {paint:.0f} ms\n"
        )
    assert 10_000 < sum(sizes) <= 150_000
