"""The activity: an agent at work as a person sees it, live and from the start; and the person steps in."""

from __future__ import annotations

from playwright.async_api import Locator, expect

from tests.e2e.console.box.conftest import Room

ENDS_IN_SIGHT = """async (element) => {
  const panel = element.closest(".detail");
  const isAtEnd = () => panel.scrollTop + panel.clientHeight + 9 > panel.scrollHeight;
  while (!isAtEnd()) await new Promise(requestAnimationFrame);
  return true;
}"""


def row(room: Room, text: str) -> Locator:
    """The row of an operation."""
    return room.page.get_by_role("option").filter(has_text=text)


async def test_an_agent_is_seen_live_and_from_the_start(room: Room) -> None:
    room.command("echo before-$((20 + 1)); exit 3")
    await room.open("activity")
    await expect(row(room, "echo before")).to_contain_text("failed")
    room.command("echo while-$((20 + 2)); seq 3")
    await expect(row(room, "echo while")).to_contain_text("done")
    await expect(room.page.get_by_role("region", name="Output")).to_have_text("while-22\n1\n2\n3")
    await room.page.get_by_role("listbox", name="Activity").focus()
    await room.page.keyboard.press("ArrowUp")
    await expect(room.page.get_by_role("region", name="Output")).to_have_text("before-21")
    await expect(room.page.get_by_text("exit code 3")).to_be_visible()


async def test_filters(room: Room) -> None:
    room.command("echo for-the-filter")
    await room.open("activity")
    await expect(row(room, "for-the-filter")).to_be_visible(timeout=60_000)
    await room.page.get_by_role("button", name="Files", exact=True).press("Enter")
    await expect(row(room, "for-the-filter")).to_have_count(0)
    await room.page.get_by_role("button", name="Files", exact=True).press("Enter")
    await room.page.get_by_label("Search").fill("no such text")
    await expect(room.page.get_by_text("Nothing to show")).to_be_visible()
    await room.page.get_by_label("Search").fill("FILTER")
    await expect(row(room, "for-the-filter")).to_be_visible()
    await room.page.get_by_label("By whom").select_option(index=1)
    await expect(row(room, "for-the-filter")).to_be_visible()
    await room.page.get_by_label("Outcome").select_option("interrupted")
    await expect(row(room, "for-the-filter")).to_have_count(0)


async def test_a_person_steps_in(room: Room) -> None:
    await room.open("activity")
    line = room.page.get_by_label("Command or code to run")
    await expect(room.page.get_by_role("button", name="Run", exact=True)).to_be_enabled(timeout=60_000)
    await line.focus()
    await room.page.keyboard.insert_text("echo by-hand; sleep 600")
    await room.page.keyboard.press("Enter")
    await expect(room.page.get_by_role("region", name="Output")).to_have_text("by-hand")
    await expect(room.page.get_by_text("by console ")).to_be_visible()
    await room.page.get_by_role("button", name="Interrupt").press("Enter")
    await expect(row(room, "by-hand")).not_to_contain_text("running")
    await room.page.get_by_role("button", name="Run again").press("Enter")
    await expect(row(room, "by-hand")).to_have_count(2)
    await room.page.get_by_role("button", name="Interrupt").press("Enter")
    await expect(room.page.get_by_role("button", name="Interrupt")).to_have_count(0)


async def test_a_person_answers_the_agents_input(room: Room) -> None:
    await room.open("activity")
    await room.page.get_by_label("Run with").select_option("python")
    await room.page.get_by_label("Command or code to run").focus()
    await room.page.keyboard.insert_text("print('hi', input('who? '))")
    await room.page.keyboard.press("Enter")
    await expect(room.page.get_by_label("The program asks: who?")).to_be_visible(timeout=60_000)
    await room.page.get_by_label("The program asks: who?").focus()
    await room.page.keyboard.insert_text("Grace")
    await room.page.keyboard.press("Enter")
    await expect(room.page.get_by_role("region", name="Output")).to_contain_text("hi Grace")


async def test_much_output_leaves_the_command_whole_and_its_end_in_sight(room: Room) -> None:
    await room.open("activity")
    await expect(room.page.get_by_role("button", name="Run", exact=True)).to_be_enabled(timeout=60_000)
    await room.page.get_by_label("Command or code to run").fill("seq 300; echo the-end-$((20 + 3)); sleep 600")
    await room.page.keyboard.press("Enter")
    output = room.page.get_by_role("region", name="Output")
    await expect(output).to_contain_text("the-end-23")
    whole = "element => element.clientHeight >= element.scrollHeight"
    assert await room.page.get_by_role("region", name="What was run").evaluate(whole)
    assert await output.evaluate(ENDS_IN_SIGHT)
    await expect(room.page.get_by_role("button", name="Interrupt")).to_be_in_viewport(ratio=1)
    await room.page.get_by_role("button", name="Interrupt").press("Enter")
