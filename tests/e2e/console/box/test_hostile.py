"""Results and output that are hostile: they reach nothing of the console; and floods, which leave it usable."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.e2e.console.box.conftest import Room

REACH = """
from IPython.display import HTML
HTML('''<p id="said">before</p><script>
const tries = {
  parent: () => parent.document.body.innerHTML,
  top: () => { top.location = '/v1/sandboxes'; return top.location.href; },
  cookie: () => document.cookie,
  storage: () => localStorage.length,
};
const said = Object.entries(tries).map(([name, run]) => { try { run(); return name; } catch { return ''; } });
fetch('/v1/sandboxes').then(() => said.push('fetch'), () => 0).then(() => {
  document.getElementById('said').textContent = 'reached: ' + said.filter(Boolean).join(' ') + '.';
  for (let i = 0; i < 200; i++) parent.postMessage({height: 1e9, ready: true}, '*');
});
</script>''')
"""


@pytest.mark.attack("edge", "an HTML result reaches for its parent, cookies and the API", "it reaches nothing")
async def test_a_result_reaches_nothing(room: Room) -> None:
    await room.open("notebook")
    address = room.page.url
    await room.type_code(REACH)
    await room.page.keyboard.press("Control+Enter")
    frame = room.page.frame_locator("iframe")
    await expect(frame.locator("#said")).to_have_text("reached: .")
    assert room.page.url == address
    assert await room.page.locator("iframe").evaluate("(frame) => frame.clientHeight") <= 600
    assert await room.page.locator("iframe").get_attribute("sandbox") == "allow-scripts"
    room.tab.trouble.clear()  # what the policies of the frame have refused


@pytest.mark.attack("edge", "output has markup and escape sequences", "it is text with colours")
async def test_output_is_text(room: Room) -> None:
    await room.open("notebook")
    await room.type_code(
        r"print('\x1b[31mred\x1b[0m <img src=x onerror=owned()>\x1b]0;owned\x07\x1b[2J|\u202ebackwards|end')"
    )
    await room.page.keyboard.press("Control+Enter")
    output = room.cell().get_by_role("region", name="Output")
    await expect(output).to_have_text("red <img src=x onerror=owned()>|backwards|end")
    assert await output.locator("img").count() == 0
    assert await output.locator(".ansi-fg-1").inner_text() == "red"


async def test_a_flood_leaves_the_notebook_usable_and_says_what_it_does_not_show(room: Room) -> None:
    await room.open("notebook")
    await room.type_code("for i in range(500_000):\n    print(f'{i:08}', 'x' * 90)")  # 50 MB
    await room.page.keyboard.press("Control+Enter")
    output = room.cell().get_by_role("region", name="Output")
    await expect(output).to_contain_text("x" * 90)
    await room.page.get_by_role("button", name="Add cell").press("Enter")  # meanwhile
    await room.type_code("# still here", 2)
    await expect(room.cell(2).get_by_text("# still here")).to_be_visible()
    await expect(room.cell().get_by_text("done")).to_be_visible(timeout=300_000)
    await expect(output).to_contain_text("00499999")
    await expect(room.cell().get_by_text("495,001 earlier lines")).to_be_visible()


async def test_a_flood_of_an_agent_leaves_the_activity_usable(room: Room) -> None:
    await room.open("activity")
    await expect(room.page.get_by_role("button", name="Run", exact=True)).to_be_enabled(timeout=60_000)
    room.command("head -c 50000000 /dev/zero | tr '\\0' 'y' | fold -w 99; echo the-end")
    room.command("echo after-the-flood")
    await expect(room.page.get_by_role("option").filter(has_text="after-the-flood")).to_contain_text("done")
    await room.page.get_by_label("Search").fill("head -c")
    await room.page.get_by_role("option").filter(has_text="head -c").click()
    shown = room.page.get_by_role("region", name="The chosen operation")
    # All of it was told, or the page says that something is missing.
    told = shown.get_by_text("earlier lines")
    missing = room.page.get_by_role("option").filter(has_text="entries are missing")
    await expect(told.or_(missing).first).to_be_visible()
