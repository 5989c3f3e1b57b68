"""Terminals, with the keyboard alone: several, replayed, taken over."""

from __future__ import annotations

from playwright.async_api import expect

from tests.e2e.console.box.conftest import Room
from tests.support.browser import Tabs
from tests.support.console import signed_in

ROWS = ".xterm-rows"


async def opened(room: Room) -> None:
    """Open a new terminal, with the cursor in it."""
    await room.open("terminal")
    tabs = room.page.get_by_role("tab")
    await expect(tabs.or_(room.page.get_by_text("No terminal is open")).first).to_be_visible(timeout=60_000)
    await another(room, await tabs.count() + 1)


async def another(room: Room, number: int) -> None:
    """Open one more terminal, and wait until it can be typed into."""
    await room.page.get_by_role("button", name="New terminal").press("Enter")
    await expect(room.page.get_by_role("textbox", name=f"Terminal {number}")).to_be_focused()
    await expect(room.page.locator(ROWS)).to_contain_text("#")


async def entered(room: Room, text: str, shown: str) -> None:
    """Enter a line, and wait for what it shows."""
    await room.page.keyboard.insert_text(text)
    await room.page.keyboard.press("Enter")
    await expect(room.page.locator(ROWS)).to_contain_text(shown)


async def test_a_terminal_is_typed_into_replayed_and_left(room: Room) -> None:
    await opened(room)
    await entered(room, "echo first-$((40 + 2))", "first-42")
    await room.page.reload()
    await expect(room.page.locator(ROWS)).to_contain_text("first-42")
    await room.page.keyboard.press("Shift+Escape")
    await expect(room.page.get_by_role("tab", name="Terminal", exact=False).first).to_be_focused()
    await another(room, 2)
    await entered(room, "echo second", "second")
    await room.page.get_by_role("button", name="Close this terminal").press("Enter")
    await room.page.get_by_role("dialog").get_by_role("button", name="Close this terminal").press("Enter")
    await expect(room.page.get_by_role("tab")).to_have_count(1)


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
