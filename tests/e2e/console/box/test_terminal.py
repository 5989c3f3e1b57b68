"""Terminals, with the keyboard alone: replayed and taken over."""

from __future__ import annotations

from playwright.async_api import expect

from tests.e2e.console.box.conftest import Room
from tests.support.browser import Tabs
from tests.support.console import signed_in

ROWS = ".xterm-rows"


async def opened(room: Room) -> None:
    """Open a new terminal, with the cursor in it."""
    await room.open("terminal")
    await room.page.get_by_role("button", name="New terminal").press("Enter")
    await expect(room.page.locator(ROWS)).to_contain_text("#", timeout=60_000)


async def entered(room: Room, text: str, shown: str) -> None:
    """Enter a line, and wait for what it shows."""
    await room.page.keyboard.insert_text(text)
    await room.page.keyboard.press("Enter")
    await expect(room.page.locator(ROWS)).to_contain_text(shown)


async def test_two_browsers_at_one_terminal(room: Room, tabs: Tabs) -> None:
    await opened(room)
    await entered(room, "echo kept-$((1 + 1))", "kept-2")
    other = Room(room.server, room.id, await signed_in(tabs, room.server))
    await other.open("terminal")
    names = other.page.get_by_role("tab")
    await expect(names.last).to_be_visible(timeout=60_000)
    await names.last.press("Enter")
    await other.page.get_by_role("button", name="Use it here").press("Enter")
    await expect(other.page.locator(ROWS)).to_contain_text("kept-2")
    await expect(room.page.get_by_text("used in another window")).to_be_visible()
    await room.page.get_by_role("button", name="Use it here").press("Enter")
    await expect(other.page.get_by_text("used in another window")).to_be_visible()
