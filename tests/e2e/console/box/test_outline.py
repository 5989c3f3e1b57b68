"""A server whose sandboxes keep an outline of what happens in them: a person still sees what they run themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.async_api import expect

from tests.e2e.console.box.conftest import Room
from tests.support.server.live_server import LiveServer


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A server that keeps an outline."""
    with LiveServer(["--activity-keep", "outline"]) as live:
        yield live


async def test_a_person_sees_what_they_run_and_why_no_more(room: Room) -> None:
    room.command("echo by-agent-$((1 + 1))")
    await room.open("activity")
    chosen = room.page.get_by_role("region", name="The chosen operation")
    await expect(chosen).to_contain_text("echo by-agent")
    await expect(chosen).to_contain_text("keep is outline")
    await expect(chosen.get_by_role("region", name="Output")).to_have_count(0)
    await expect(room.page.get_by_role("button", name="Run", exact=True)).to_be_enabled()
    await room.page.get_by_label("Command or code to run").focus()
    await room.page.keyboard.insert_text("echo by-hand-$((2 + 2))")
    await room.page.keyboard.press("Enter")
    await expect(chosen.get_by_role("region", name="Output")).to_have_text("by-hand-4")
    await expect(chosen).to_contain_text("done")
    await expect(chosen.get_by_text(re.compile("by console "))).to_be_visible()
    await expect(room.page.get_by_role("option").filter(has_text="by-hand")).to_have_count(1)


async def test_a_question_stays_until_it_is_answered(room: Room) -> None:
    await room.open("activity")
    await room.page.get_by_label("Run with").select_option("python")
    await room.page.get_by_label("Command or code to run").focus()
    await room.page.keyboard.insert_text("print('before'); print('hi', input('who? ')); 6 * 7")
    await room.page.keyboard.press("Enter")
    answer = room.page.get_by_label("The program asks: who?")
    await expect(room.page.get_by_role("region", name="Output")).to_contain_text("before")
    await answer.focus()
    await room.page.keyboard.insert_text("Grace")
    await room.page.keyboard.press("Enter")
    await expect(room.page.get_by_role("region", name="Output").first).to_contain_text("hi Grace")
    await expect(room.page.get_by_role("region", name="The chosen operation")).to_contain_text("42")
    await expect(answer).to_have_count(0)
