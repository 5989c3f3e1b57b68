"""Terminals, with the keyboard alone: several, replayed, taken over; and what programs try with them."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.e2e.console.box.conftest import Room
from tests.e2e.console.box.terminals import ROWS, another, entered, last, opened
from tests.support.browser import Tabs
from tests.support.console import signed_in


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
    await last(other)
    await other.page.get_by_role("button", name="Use it here").press("Enter")
    await expect(other.page.locator(ROWS)).to_contain_text("kept-2")
    await expect(room.page.get_by_text("used in another window")).to_be_visible()
    await room.page.get_by_role("button", name="Use it here").press("Enter")
    await expect(other.page.get_by_text("used in another window")).to_be_visible()


# A title, a question for it, a clipboard, a setting that is asked for by a command's name, and a link to a script.
TRICKS = (
    r"\e]0;echo owned-$((30 + 3))\a\e[21t\e[20t\e]52;c;b3duZWQ=\a\e]52;c;?\a\eP$q;echo owned-$((30 + 3))\e\\"
    r"\e]8;;https://owned.example/\e\\a link\e]8;;\e\\ <img src=x onerror=owned()>"
)

WATCH = "() => { window.asked = []; window.open = window.confirm = (text) => { window.asked.push(text); }; }"


@pytest.mark.attack(
    "edge", "A program asks the terminal for its title, its clipboard and a link", "The page and the shell get none"
)
async def test_what_programs_try_with_a_terminal(room: Room) -> None:
    await opened(room)
    title = await room.page.title()
    await room.tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await room.page.evaluate("navigator.clipboard.writeText('mine')")
    await entered(room, f"clear; printf '{TRICKS}'; echo; echo mark-$((2 + 3))", "mark-5")
    await entered(room, "echo clean-$((3 + 4))", "clean-7")  # nothing was typed before it
    await expect(room.page.locator(ROWS)).not_to_contain_text("owned-33")
    await room.page.evaluate(WATCH)
    await room.page.locator(ROWS).get_by_text("a link").last.click(force=True)  # the screen is in front of it
    assert await room.page.evaluate("window.asked") == []
    assert await room.page.title() == title
    assert await room.page.evaluate("navigator.clipboard.readText()") == "mine"
    assert await room.page.locator(f"{ROWS} img").count() == 0
    assert len(room.tab.context.pages) == 1


@pytest.mark.attack("edge", "Kept output asks the terminal what it is whenever it is shown", "The answer is typed once")
async def test_a_question_is_answered_once(room: Room) -> None:
    await opened(room)
    ask = r"stty -echo -icanon; printf '\e[c\e[5n\e]10;?\a\e[>c'; cat > /tmp/answers"
    await entered(room, f"clear; echo asked-$((4 + 5)); {ask}", "asked-9")
    room.command("until grep -q '>0;276' /tmp/answers; do sleep 0.1; done")
    answers = room.read("/tmp/answers")
    assert answers.count(b"\x1b[?1;2c") == answers.count(b"\x1b[0n") == 1
    await room.page.reload()
    number = await last(room)
    await expect(room.page.locator(ROWS)).to_contain_text("asked-9")
    await expect(room.page.get_by_role("textbox", name=f"Terminal {number}")).to_be_focused()
    await room.page.keyboard.insert_text("typed")
    room.command("until grep -q typed /tmp/answers; do sleep 0.1; done")
    assert room.read("/tmp/answers") == answers + b"typed"
    await room.page.keyboard.press("Control+C")
