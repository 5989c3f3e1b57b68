"""Ports, metrics and the life of a sandbox: renewed, described, paused, resumed, deleted."""

from __future__ import annotations

from playwright.async_api import expect

from tests.e2e.console.box.conftest import CREATE, Room


async def test_a_port_opens_at_an_origin_of_its_own(room: Room) -> None:
    room.command(
        "cd /tmp && echo '<h1>from inside</h1>' > index.html && (python3 -m http.server 8000 > /dev/null 2>&1 &)"
    )
    await room.open("ports")
    link = room.page.get_by_role("link", name="Open port 8000")
    await expect(link).to_be_visible(timeout=60_000)
    assert await link.get_attribute("rel") == "noopener noreferrer"
    async with room.tab.context.expect_page() as opening:
        await link.press("Enter")
    opened = await opening.value
    await expect(opened.get_by_role("heading")).to_have_text("from inside")
    assert await opened.evaluate("origin") != await room.page.evaluate("origin")
    assert await opened.evaluate("document.cookie + String(opener)") == "null"
    await room.page.get_by_label("Another port").fill("99999")
    await room.page.keyboard.press("Enter")
    await expect(room.page.get_by_text("Enter a number from 1 to 65535.")).to_be_visible()


async def test_metrics(room: Room) -> None:
    await room.open("metrics")
    for name, value in (("CPU", "%"), ("Memory", "MB"), ("Processes", ""), ("Connections", "0")):
        figure = room.page.get_by_role("figure").filter(has_text=name)
        await expect(figure).to_contain_text(value)
        await expect(figure).not_to_contain_text("–")
        await expect(figure.locator("canvas")).to_be_visible()


async def test_metadata_and_time(room: Room) -> None:
    await room.open("settings")
    await room.page.get_by_role("button", name="Add a key").press("Enter")
    await room.page.get_by_label("Key").last.fill("team")
    await room.page.get_by_label("Value of team").fill("blue")
    await room.page.keyboard.press("Enter")
    await expect(room.page.get_by_text("The metadata is saved")).to_be_visible()
    assert room.request("GET")["metadata"] == {"team": "blue"}
    await room.page.get_by_label("Minutes from now").fill("90")
    await room.page.keyboard.press("Enter")
    await expect(room.page.get_by_text("The sandbox has a new end")).to_be_visible()
    await room.page.get_by_label("Minutes from now").fill("soon")
    await room.page.keyboard.press("Enter")
    await expect(room.page.get_by_text("Enter a number of minutes")).to_be_visible()


async def test_a_paused_sandbox_is_shown_as_such_and_goes_on(room: Room) -> None:
    await room.open("settings")
    await room.page.get_by_role("button", name="Pause").press("Enter")
    await expect(room.page.get_by_text("This sandbox is paused")).to_be_visible(timeout=30_000)
    await room.page.get_by_role("link", name="Notebook").press("Enter")
    await expect(room.cell().get_by_role("button", name="Run")).to_be_disabled()
    await room.page.get_by_role("button", name="Resume").press("Enter")
    await expect(room.page.get_by_text("This sandbox is paused")).to_have_count(0)
    await room.type_code("6 * 7")
    await expect(room.cell().get_by_text("6 * 7")).to_be_visible()
    await expect(room.cell().get_by_role("button", name="Run")).to_be_enabled()
    await room.page.keyboard.press("Control+Enter")
    await expect(room.cell().get_by_role("region", name="Output")).to_have_text("42")


async def test_an_ended_sandbox_and_one_that_never_was(room: Room) -> None:
    other = Room(room.server, room.server.request("POST", "/v1/sandboxes", CREATE)["id"], room.tab)
    await other.open("notebook")
    await expect(other.cell().get_by_role("button", name="Run")).to_be_enabled(timeout=60_000)
    other.request("DELETE")
    await expect(room.page.get_by_text("This sandbox has ended")).to_be_visible(timeout=30_000)
    await expect(room.page.get_by_text("The sandbox is running")).to_have_count(0)
    await expect(room.page.get_by_text("Time left")).to_have_count(0)
    await expect(other.cell().get_by_role("button", name="Run")).to_be_disabled()
    room.tab.trouble.clear()
    await Room(room.server, "0" * 8 + "-0000-4000-8000-" + "0" * 12, room.tab).open("notebook")
    await expect(room.page.get_by_role("alert")).to_contain_text("404")
    room.tab.trouble.clear()  # the answer 404


async def test_deleting_asks_first(room: Room) -> None:
    other = Room(room.server, room.server.request("POST", "/v1/sandboxes", CREATE)["id"], room.tab)
    await other.open("settings")
    await room.page.get_by_role("button", name="Delete this sandbox").press("Enter")
    await room.page.get_by_role("dialog").get_by_role("button", name="Delete this sandbox").press("Enter")
    await expect(room.page).to_have_url(f"{room.server.address}/console/sandboxes")
    room.tab.trouble.clear()  # requests about a sandbox that has just gone
