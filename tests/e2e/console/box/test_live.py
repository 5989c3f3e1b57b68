"""What other clients change appears at once: by the server's events, and by nothing that the page asks again."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

from playwright.async_api import Page, Route, WebSocket, expect

from tests.e2e.console.box.conftest import Room


async def test_what_another_client_changes_appears(room: Room) -> None:
    live = told(room.page)
    await room.open("settings")
    async with asyncio.timeout(60):
        await live.wait()
    stale = json.dumps(room.request("GET"))

    async def answer(route: Route) -> None:
        """Answer whoever asks with what was true before."""
        await route.fulfill(status=200, content_type="application/json", body=stale)

    await room.page.route(f"**/v1/sandboxes/{room.id}", answer)
    end = datetime.now(UTC) + timedelta(hours=30)
    room.request("POST", "/renew-expiration", {"expiresAt": end.isoformat()})
    shown = room.page.locator(f"time[datetime^='{end:%Y-%m-%dT%H:%M}']")
    await expect(shown).to_be_visible()
    room.request("PATCH", "/metadata", {"by": "another"})
    await expect(room.page.get_by_label("Value of by")).to_have_value("another")
    await expect(room.page.get_by_role("button", name="Save")).to_be_disabled()  # nothing of it is to be undone
    await room.page.unroute_all(behavior="wait")


async def test_a_pause_by_another_client_appears(room: Room) -> None:
    await room.open("notebook")
    await expect(room.cell().get_by_role("button", name="Run")).to_be_enabled()
    room.request("POST", "/pause")
    await expect(room.page.get_by_text("This sandbox is paused")).to_be_visible()
    await expect(room.cell().get_by_role("button", name="Run")).to_be_disabled()
    room.request("POST", "/resume")
    await expect(room.page.get_by_text("This sandbox is paused")).to_have_count(0)
    await expect(room.cell().get_by_role("button", name="Run")).to_be_enabled()


def told(page: Page) -> asyncio.Event:
    """Return what is set as soon as the page hears events: after the first counters, it has read its lists."""
    live = asyncio.Event()

    def hear(frame: str | bytes) -> None:
        if b'"counters"' in (frame if isinstance(frame, bytes) else frame.encode()):
            live.set()

    def watch(socket: WebSocket) -> None:
        if "/v1/events" in socket.url:
            socket.on("framereceived", hear)

    page.on("websocket", watch)
    return live
