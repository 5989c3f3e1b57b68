"""A person at the terminals of a sandbox, with the keyboard alone."""

from __future__ import annotations

from playwright.async_api import expect

from tests.e2e.console.box.conftest import Room

ROWS = ".xterm-rows"


async def opened(room: Room) -> None:
    """Open a new terminal, with the cursor in it."""
    await room.open("terminal")
    tabs = room.page.get_by_role("tab")
    await expect(tabs.or_(room.page.get_by_text("No terminal is open")).first).to_be_visible()
    await another(room, await tabs.count() + 1)


async def another(room: Room, number: int) -> None:
    """Open one more terminal. What is typed from now on is for it."""
    await room.page.get_by_role("button", name="New terminal").press("Enter")
    await expect(room.page.get_by_role("textbox", name=f"Terminal {number}")).to_be_focused()


async def last(room: Room) -> int:
    """Choose the newest terminal, and return its number."""
    names = room.page.get_by_role("tab")
    await expect(names.last).to_be_visible()
    await names.last.press("Enter")
    return await names.count()


async def entered(room: Room, text: str, shown: str) -> None:
    """Enter a line, and wait for what it shows."""
    await room.page.keyboard.insert_text(text)
    await room.page.keyboard.press("Enter")
    await expect(room.page.locator(ROWS)).to_contain_text(shown)
