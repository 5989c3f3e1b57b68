"""The list of sandboxes: live, by keyboard, with a thousand rows, and with hostile names."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.async_api import Route, WebSocketRoute, expect

from tests.support.browser import Tab
from tests.support.console import Look, picture
from tests.support.server.live_server import LiveServer

CREATE = {"image": {"uri": "sandlot/code-interpreter"}, "entrypoint": ["tail", "-f", "/dev/null"], "timeout": 900}
HOSTILE = '<img src=x onerror="document.title=1">'


async def test_make_find_renew_pause_and_delete_by_keyboard(person: Tab, server: LiveServer, barriers: Look) -> None:
    page, keyboard = person.page, person.page.keyboard
    await page.goto(f"{server.address}/console/sandboxes")
    await page.get_by_role("button", name="New sandbox").focus()
    await keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_label("Image")).to_be_focused()
    await picture(person, "new-sandbox")
    assert await barriers(person) == []
    await dialog.get_by_label("Metadata").focus()
    await keyboard.type("team")
    await keyboard.press("Shift+Tab")
    await dialog.get_by_role("button", name="Create").press("Enter")
    await expect(dialog.get_by_role("alert")).to_contain_text("team")
    await dialog.get_by_label("Metadata").fill(f"team=keyboard\nname={'x' * 20}")
    await dialog.get_by_role("button", name="Create").press("Enter")
    await expect(dialog).to_have_count(0)
    await page.wait_for_url(re.compile("/console/sandboxes/[^/]+"))
    sandbox = page.url.rpartition("sandboxes/")[2].partition("/")[0]
    await expect(page.get_by_role("heading", level=1)).to_contain_text("x" * 20)
    await expect(page).to_have_title(re.compile("x" * 20))

    await page.goto(f"{server.address}/console/sandboxes")
    await page.get_by_role("searchbox").fill("team=keyboard")
    rows = page.get_by_role("row").filter(has_text=sandbox)
    await expect(page.get_by_role("row")).to_have_count(2)
    await expect(rows).to_contain_text("Running")
    grid = page.get_by_role("grid")
    await grid.focus()
    await keyboard.press("Home")
    await keyboard.press("Space")
    await expect(rows).to_have_attribute("aria-selected", "true")
    bar = page.get_by_role("toolbar")
    await expect(bar).to_contain_text("1 selected")

    before = expiry(server, sandbox)
    await bar.get_by_role("button", name="Renew").press("Enter")
    await page.get_by_label("Minutes from now").fill("600")
    await keyboard.press("Enter")
    await expect(page.get_by_text("1 of 1 done")).to_be_visible()
    assert expiry(server, sandbox) > before

    for action, state in (("Pause", "Paused"), ("Resume", "Running")):
        await grid.focus()
        await keyboard.press("Space")
        await bar.get_by_role("button", name=action).press("Enter")
        await expect(rows).to_contain_text(state)

    await grid.focus()
    await keyboard.press("Space")
    await bar.get_by_role("button", name="Delete").press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text(sandbox)
    await keyboard.press("Escape")
    await expect(rows).to_contain_text("Running")
    await bar.get_by_role("button", name="Delete").press("Enter")
    await dialog.get_by_role("button", name="Delete").press("Enter")
    await expect(page.get_by_text("No sandbox matches").or_(page.get_by_text("No sandboxes yet"))).to_be_visible()
    assert person.trouble == []


def expiry(server: LiveServer, sandbox: str) -> datetime:
    return datetime.fromisoformat(server.request("GET", f"/v1/sandboxes/{sandbox}")["expiresAt"])


async def test_what_programs_do_is_seen_at_once(person: Tab, server: LiveServer) -> None:
    page = person.page
    await page.goto(f"{server.address}/console/sandboxes")
    await expect(page.get_by_text("Live", exact=True)).to_be_visible()
    sandbox = server.request("POST", "/v1/sandboxes", {**CREATE, "metadata": {"made": "by-a-program"}})["id"]
    row = page.get_by_role("row").filter(has_text=sandbox)
    await expect(row).to_contain_text("made=by-a-program")
    await expect(row.get_by_role("gridcell").nth(5)).to_contain_text("%")  # the CPU of a row on the screen is read
    server.request("POST", f"/v1/sandboxes/{sandbox}/pause")
    await expect(row).to_contain_text("Paused")
    server.request("DELETE", f"/v1/sandboxes/{sandbox}")
    await expect(row).to_have_count(0)
    assert person.trouble == []


# -- a thousand of them, from a stand-in for the server's list


def view(number: int) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "id": f"{number:032x}",
        "image": {"uri": f"sandlot/{HOSTILE}" if number % 7 == 0 else "sandlot/code-interpreter"},
        "status": {"state": "Paused" if number % 5 else "Running", "reason": HOSTILE, "message": HOSTILE},
        "metadata": {"number": str(number), HOSTILE: HOSTILE},
        "createdAt": (now - timedelta(seconds=number)).isoformat(),
        "expiresAt": (now + timedelta(seconds=30 + number)).isoformat(),
    }


class Crowd:
    """A stand-in for the events of a thousand sandboxes. While `greets` is cleared, it lets new connections wait."""

    def __init__(self) -> None:
        self.sockets: list[WebSocketRoute] = []
        self.greets = asyncio.Event()
        self.greets.set()

    def send(self, **event: object) -> None:
        """Send an event on the latest connection."""
        self.sockets[-1].send(json.dumps(event))

    async def listen(self, socket: WebSocketRoute) -> None:
        """Greet a connection."""
        await self.greets.wait()
        self.sockets.append(socket)
        self.send(type="hello", version="1", instance="i", last=0, at="2026-01-01T00:00:00Z")

    async def be_heard(self) -> None:
        """Send something each second, as a server does: a page gives a silent connection up."""
        while True:
            await asyncio.sleep(1)
            if self.sockets and self.greets.is_set():
                self.send(type="pool", name="", image="", target=0, idle=0, starting=0, hits=0, misses=0, problem="")


@pytest.fixture
async def crowd(person: Tab) -> AsyncIterator[Crowd]:
    """A stand-in for the list and the events, with a thousand sandboxes."""
    crowd = Crowd()
    views = [view(number) for number in range(1000)]

    async def answer(route: Route) -> None:
        page = int(route.request.url.partition("page=")[2].partition("&")[0])
        size = 200
        pagination = {"page": page, "pageSize": size, "totalItems": 1000, "totalPages": 5, "hasNextPage": page < 5}
        await route.fulfill(json={"items": views[(page - 1) * size : page * size], "pagination": pagination})

    async def usage(route: Route) -> None:
        fields = {"cpu_count": 1, "cpu_used_pct": 50, "mem_total_mib": 512, "mem_used_mib": 100, "timestamp": 0}
        await route.fulfill(json=fields)

    await person.page.route("**/v1/sandboxes?**", answer)
    await person.page.route("**/proxy/44772/metrics", usage)
    await person.page.route_web_socket("**/v1/events", crowd.listen)
    being_heard = asyncio.ensure_future(crowd.be_heard())
    yield crowd
    being_heard.cancel()
    await asyncio.wait([being_heard])


LONG_TASKS = """
window.tasks = [];
new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((entry) => entry.duration)))
  .observe({type: "longtask", buffered: true});
"""


async def test_a_thousand_stay_smooth(
    person: Tab, crowd: Crowd, server: LiveServer, capsys: pytest.CaptureFixture[str], barriers: Look
) -> None:
    """Only the rows on the screen exist, whatever happens to the others; long tasks are only told."""
    page, keyboard = person.page, person.page.keyboard
    await page.add_init_script(LONG_TASKS)
    await page.goto(f"{server.address}/console/sandboxes")
    await expect(page.get_by_text("1000 of 1000")).to_be_visible()
    grid = page.get_by_role("grid")
    assert await grid.get_attribute("aria-rowcount") == "1001"
    await page.evaluate("window.tasks.length = 0")

    for _ in range(10):
        await grid.hover()
        await page.mouse.wheel(0, 3000)
    for number in range(1000):  # every sandbox changes, several times in each frame
        changed = {**view(number), "status": {"state": "Running"}}
        crowd.send(type="sandbox", id=changed["id"], event="changed", sandbox=changed)
    await page.get_by_label("State").select_option("Running")
    await expect(page.get_by_text("1000 of 1000")).to_be_visible()
    await grid.focus()
    await keyboard.press("End")
    await expect(page.get_by_role("row").last).to_contain_text("number=999")
    rows = await page.get_by_role("row").count()
    long = await page.evaluate("window.tasks")
    with capsys.disabled():
        sys.stderr.write(f"\n1000 sandboxes: {rows} rows exist; tasks over 50 ms: {[round(each) for each in long]}\n")
    assert rows <= 60
    await page.get_by_role("searchbox").fill("number=77")
    await expect(page.get_by_text("19 of 1000")).to_be_visible()
    await picture(person, "sandboxes-crowd")
    assert await barriers(person) == []


async def test_hostile_names_are_text(person: Tab, crowd: Crowd, server: LiveServer) -> None:
    del crowd
    await person.page.goto(f"{server.address}/console/sandboxes")
    await expect(person.page.get_by_role("row").nth(1)).to_contain_text(HOSTILE)
    assert await person.page.evaluate("document.querySelectorAll('img').length") == 0
    assert await person.page.title() == "Sandboxes · Sandlot"
    assert person.trouble == []


async def test_all_can_be_chosen_and_are_asked_about(person: Tab, crowd: Crowd, server: LiveServer) -> None:
    del crowd
    asked: list[str] = []

    async def refuse(route: Route) -> None:
        asked.append(route.request.method)
        await route.fulfill(status=409, json={"code": "X", "message": "not now"})

    await person.page.route("**/v1/sandboxes/*", refuse)
    await person.page.goto(f"{server.address}/console/sandboxes?q=number%3D99")
    await expect(person.page.get_by_text("19 of 1000")).to_be_visible()
    await person.page.get_by_label("Select all").check()
    await person.page.get_by_role("toolbar").get_by_role("button", name="Delete").click()
    dialog = person.page.get_by_role("dialog")
    await expect(dialog).to_contain_text("Delete 19 sandboxes?")
    await expect(dialog).to_contain_text("and 11 more")
    assert asked == []
    await dialog.get_by_role("button", name="Delete").click()
    await expect(person.page.get_by_text("19 of 19 failed. The first: not now")).to_be_visible()
    assert asked == ["DELETE"] * 19


async def test_a_lost_connection_is_said_and_made_again(person: Tab, crowd: Crowd, server: LiveServer) -> None:
    await person.page.goto(f"{server.address}/console/sandboxes")
    await expect(person.page.get_by_text("Live", exact=True)).to_be_visible()
    crowd.greets.clear()
    await crowd.sockets[-1].close()
    await expect(person.page.get_by_text("Not connected. Trying again…").filter(visible=True)).to_have_count(1)
    crowd.greets.set()
    await expect(person.page.get_by_text("Live", exact=True)).to_be_visible()
    assert len(crowd.sockets) >= 2
    await person.context.set_offline(True)
    await expect(person.page.get_by_text("This computer is offline.").filter(visible=True)).to_have_count(1)
    await person.context.set_offline(False)
    await expect(person.page.get_by_text("Live", exact=True)).to_be_visible()
