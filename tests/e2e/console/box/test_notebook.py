"""The notebook, with the keyboard alone: cells, languages, input, forks side by side, export."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.async_api import WebSocketRoute, expect

from tests.e2e.console.box.conftest import Room


async def test_a_cell_runs_and_the_next_one_is_there(room: Room) -> None:
    await room.open("notebook")
    await room.type_code("x = 20\nprint('out')\nx + 22")
    await room.page.keyboard.press("Shift+Enter")
    await expect(room.cell().get_by_text("done")).to_be_visible(timeout=60_000)
    await expect(room.cell().get_by_role("region", name="Output")).to_have_text(["out", "42"])
    await expect(room.cell(2).get_by_role("textbox", name="Code of cell 2")).to_be_focused()
    await room.page.keyboard.insert_text("x / 0")
    await room.page.keyboard.press("Control+Enter")
    await expect(room.cell(2).get_by_text("ZeroDivisionError").first).to_be_visible()
    await expect(room.cell(2).get_by_text("line 1").first).to_be_visible()


async def test_languages_of_the_image(room: Room) -> None:
    await room.open("notebook")
    for number, (language, code, output) in enumerate(
        [("bash", "echo $((6 * 7))", "42"), ("javascript", "[1, 2].map((x) => x * 21)", "42")], 1
    ):
        if number > 1:
            await room.page.get_by_role("button", name="Add cell").press("Enter")
        await room.cell(number).get_by_label("Language").select_option(language)
        await room.type_code(code, number)
        await room.page.keyboard.press("Control+Enter")
        await expect(room.cell(number).get_by_role("region", name="Output")).to_contain_text(output)


async def test_completion_and_explanation(room: Room) -> None:
    await room.open("notebook")
    await room.type_code("import json")
    await room.page.keyboard.press("Control+Enter")
    await expect(room.cell().get_by_text("done")).to_be_visible(timeout=60_000)
    await room.page.keyboard.press("Control+a")
    await room.page.keyboard.insert_text("json.dum")
    await room.page.keyboard.press("Tab")
    await expect(room.page.get_by_role("listbox", name="Completions")).to_contain_text("dump")
    await room.page.keyboard.press("Escape")
    await room.page.keyboard.insert_text("ps")
    await room.page.keyboard.press("Shift+Tab")
    await expect(room.cell().get_by_role("region", name="About the name")).to_contain_text("obj")


async def test_input_is_answered_and_a_run_interrupted(room: Room) -> None:
    await room.open("notebook")
    await room.type_code("print('hello', input('your name? '))")
    await room.page.keyboard.press("Control+Enter")
    answer = room.cell().get_by_label("The program asks: your name?")
    await expect(answer).to_be_focused(timeout=60_000)
    await room.page.keyboard.insert_text("Ada")
    await room.page.keyboard.press("Enter")
    await expect(room.cell().get_by_role("region", name="Output")).to_contain_text("hello Ada")
    await room.page.get_by_role("button", name="Add cell").press("Enter")
    await room.type_code("import time\nprint('begun', flush=True)\ntime.sleep(600)", 2)
    await room.page.keyboard.press("Control+Enter")
    await expect(room.cell(2).get_by_role("region", name="Output")).to_contain_text("begun")
    await room.cell(2).get_by_role("button", name="Interrupt").press("Enter")
    await expect(room.cell(2).get_by_text("interrupted")).to_be_visible()


async def test_a_fork_beside_its_origin_and_what_differs(room: Room) -> None:
    await room.open("notebook")
    await room.type_code("seen = []")
    await room.page.keyboard.press("Shift+Enter")
    await expect(room.cell().get_by_text("done")).to_be_visible(timeout=60_000)
    await room.page.keyboard.insert_text("seen.append(1); len(seen)")
    await room.page.keyboard.press("Control+Enter")
    await expect(room.cell(2).get_by_role("region", name="Output")).to_have_text("1")
    await room.page.get_by_role("button", name="Fork").press("Enter")
    branch = room.page.get_by_role("region", name="Branch 1")
    await expect(branch.get_by_text("from the branch before the fork").first).to_be_visible(timeout=30_000)
    copy = branch.get_by_role("region", name="Cell 2", exact=True)
    await expect(copy.get_by_text("same in all branches")).to_be_visible()
    await copy.get_by_role("button", name="Run").press("Enter")
    await expect(copy.get_by_text("differs between branches")).to_be_visible()
    await expect(copy.get_by_role("region", name="Output")).to_have_text("2")  # the variables came along
    await branch.get_by_role("button", name="More").first.press("Enter")
    await room.page.get_by_role("menuitem", name="Close this branch").press("Enter")
    await expect(branch).to_have_count(0)


async def test_the_exported_notebook_is_one(room: Room, tmp_path: Path) -> None:
    await room.open("notebook")
    await room.type_code("print('hi')\n{'a': 1}")
    await room.page.keyboard.press("Control+Enter")
    await expect(room.cell().get_by_text("done")).to_be_visible(timeout=60_000)
    await room.page.get_by_role("button", name="More").first.press("Enter")
    async with room.page.expect_download() as downloading:
        await room.page.get_by_role("menuitem", name="Export .ipynb").press("Enter")
    download = await downloading.value
    await download.save_as(tmp_path / "notebook.ipynb")
    notebook = json.loads((tmp_path / "notebook.ipynb").read_text())
    assert (download.suggested_filename, notebook["nbformat"], notebook["nbformat_minor"]) == ("notebook.ipynb", 4, 5)
    assert [output["output_type"] for output in notebook["cells"][0]["outputs"]] == ["stream", "execute_result"]


# Says ten lines, and the others when it may.
WAITING = """
import os, time
for i in range(30):
    print('line', i, flush=True)
    while i == 10 and not os.path.exists('/tmp/go-on'): time.sleep(.01)
"""


async def test_a_lost_connection_loses_nothing_of_a_run(room: Room) -> None:
    sockets: list[WebSocketRoute] = []

    def pass_on(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        socket.connect_to_server()

    await room.page.route_web_socket(re.compile(r"/stream$"), pass_on)
    await room.open("notebook")
    await room.type_code(WAITING)
    await room.page.keyboard.press("Control+Enter")
    output = room.cell().get_by_role("region", name="Output")
    await expect(output).to_contain_text("line 10")
    await sockets[0].close(code=1011)
    room.command("touch /tmp/go-on")
    await expect(room.cell().get_by_text("done")).to_be_visible()
    await expect(output).to_contain_text("line 29")
    assert (await output.inner_text()).split("\n")[:30] == [f"line {i}" for i in range(30)]
    assert len(sockets) > 1
