"""Terminals, with the keyboard alone: several, replayed, taken over, and what programs try with them."""

from __future__ import annotations

import pytest
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


async def test_a_terminal_is_typed_into_replayed_and_left(room: Room) -> None:
    await opened(room)
    await entered(room, "echo first-$((40 + 2))", "first-42")
    await room.page.reload()
    await expect(room.page.locator(ROWS)).to_contain_text("first-42", timeout=60_000)
    await room.page.keyboard.press("Shift+Escape")
    await expect(room.page.get_by_role("tab", name="Terminal", exact=False).first).to_be_focused()
    await room.page.get_by_role("button", name="New terminal").press("Enter")
    await expect(room.page.get_by_role("tab")).to_have_count(2)
    await entered(room, "echo second", "second")
    await room.page.get_by_role("button", name="Close this terminal").press("Enter")
    await room.page.get_by_role("dialog").get_by_role("button", name="Close this terminal").press("Enter")
    await expect(room.page.get_by_role("tab")).to_have_count(1)


async def test_its_size_is_that_of_the_window(room: Room) -> None:
    await opened(room)
    await entered(room, "clear; echo width-$(tput cols)-", "width-")
    before = await room.page.locator(ROWS).inner_text()
    await room.page.set_viewport_size({"width": 700, "height": 860})
    await entered(room, "clear; echo narrow-$(tput cols)-", "narrow-")
    after = await room.page.locator(ROWS).inner_text()
    assert int(after.split("narrow-")[-1].split("-")[0]) < int(before.split("width-")[-1].split("-")[0])


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


@pytest.mark.attack("console", "a program asks the terminal for its title, its clipboard and a link", "nothing happens")
async def test_what_programs_try_with_a_terminal(room: Room) -> None:
    await opened(room)
    title = await room.page.title()
    # A title, a clipboard, a link to a script, a question for the title, markup; then a mark.
    tricks = (
        r"\e]0;owned\a\e]52;c;b3duZWQ=\a\e]8;;javascript:owned()\e\\link\e]8;;\e\\\e[21t<img src=x onerror=owned()>"
    )
    await entered(room, f"clear; printf '{tricks}'; echo; echo mark-$((2 + 3))", "mark-5")
    await room.page.get_by_text("link", exact=True).last.click()
    assert await room.page.title() == title
    assert await room.page.locator(f"{ROWS} img").count() == 0
    assert len(room.tab.context.pages) == 1
