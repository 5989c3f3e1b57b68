"""The size of a terminal is that of its window, before and after the window changes."""

from __future__ import annotations

from playwright.async_api import expect

from tests.e2e.console.box.conftest import Room
from tests.e2e.console.box.terminals import ROWS, entered, opened

LINES = f"{ROWS} > div"
# Goes on until the terminal has so many rows; how soon it does is up to the machine.
UNTIL = 'until [ "$(stty size | cut -d " " -f 1)" = {rows} ]; do sleep 0.1; done; echo rows-$((4000 + {rows}))'


async def test_its_size_is_that_of_the_window(room: Room) -> None:
    await opened(room)
    before = await room.page.locator(LINES).count()
    await entered(room, UNTIL.format(rows=before), f"rows-{4000 + before}")
    await room.page.set_viewport_size({"width": 1280, "height": 620})
    await expect(room.page.locator(LINES)).not_to_have_count(before)
    after = await room.page.locator(LINES).count()
    assert after < before
    await entered(room, UNTIL.format(rows=after), f"rows-{4000 + after}")


async def test_its_width_is_that_of_the_window(room: Room) -> None:
    await opened(room)
    await entered(room, "wide=$(tput cols); echo wide-$((wide > 100))", "wide-1")
    await room.page.set_viewport_size({"width": 700, "height": 860})
    until = "until [ $(tput cols) -lt $((wide - 20)) ]; do sleep 0.1; done; echo narrow-$((2 + 3))"
    await entered(room, until, "narrow-5")
