"""Files, with the keyboard alone: made, edited, guarded, uploaded, renamed, removed; with names that are hostile."""

from __future__ import annotations

import pytest
from playwright.async_api import Locator, expect

from tests.e2e.console.box.conftest import Room


def entry(room: Room, name: str) -> Locator:
    """A row of the tree."""
    return room.page.get_by_role("treeitem").filter(has=room.page.get_by_text(name, exact=True))


async def test_a_file_is_made_edited_renamed_and_removed(room: Room) -> None:
    room.command("rm -rf /workspace/made && mkdir -p /workspace/made")
    await room.open("files", query="?path=/workspace/made")
    await expect(entry(room, "made")).to_have_attribute("aria-selected", "true")
    await room.page.get_by_role("button", name="New file").press("Enter")
    await room.page.keyboard.insert_text("one.py")
    await room.page.keyboard.press("Enter")
    await room.page.get_by_role("textbox", name="Content of /workspace/made/one.py").focus()
    await room.page.keyboard.insert_text("print('saved')\n")
    await room.page.keyboard.press("Control+s")
    await expect(room.page.get_by_text("/workspace/made/one.py is saved")).to_be_visible()
    await room.page.get_by_role("tree", name="Files").focus()
    await room.page.keyboard.press("F2")
    await room.page.keyboard.press("Control+a")
    await room.page.keyboard.insert_text("two.py")
    await room.page.keyboard.press("Enter")
    await expect(entry(room, "two.py")).to_be_visible()
    async with room.page.expect_download() as downloading:
        await room.page.get_by_role("button", name="Download").first.press("Enter")
    assert (await (await downloading.value).path()).read_text() == "print('saved')\n"
    await room.page.get_by_role("tree", name="Files").focus()
    await room.page.keyboard.press("Delete")
    await room.page.get_by_role("dialog").get_by_role("button", name="Delete").press("Enter")
    await expect(entry(room, "two.py")).to_have_count(0)


async def test_nothing_is_written_over_what_somebody_else_wrote(room: Room) -> None:
    room.command("printf 'one\\n' > /workspace/shared.txt")
    await room.open("files", query="?path=/workspace/shared.txt")
    text = room.page.get_by_role("textbox", name="Content of /workspace/shared.txt")
    await expect(text).to_be_visible(timeout=60_000)
    await text.focus()
    await room.page.keyboard.insert_text("mine ")
    room.command("printf 'two\\n' > /workspace/shared.txt")
    await room.page.keyboard.press("Control+s")
    alert = room.page.get_by_role("alert").filter(has_text="409")
    await expect(alert.get_by_role("region", name="Difference")).to_contain_text("mine one")
    await expect(alert.get_by_role("region", name="Difference")).to_contain_text("two")
    await alert.get_by_role("button", name="Take what is in the sandbox").press("Enter")
    await expect(text).to_have_text("two")
    await text.focus()
    await room.page.keyboard.insert_text("more ")
    await room.page.keyboard.press("Control+s")
    await expect(room.page.get_by_text("/workspace/shared.txt is saved")).to_be_visible()


async def test_uploads(room: Room) -> None:
    room.command("rm -rf /workspace/up && mkdir -p /workspace/up")
    await room.open("files", query="?path=/workspace/up")
    await expect(entry(room, "up")).to_have_attribute("aria-selected", "true")
    files = [{"name": name, "mimeType": "", "buffer": b"x" * size} for name, size in (("a.bin", 3 << 20), ("b.txt", 5))]
    await room.page.locator("input[type=file]").set_input_files(files)  # type: ignore[arg-type]
    await expect(room.page.get_by_role("list", name="Uploads").get_by_text("done")).to_have_count(2)
    await expect(entry(room, "a.bin")).to_contain_text("3.1 MB")
    await room.page.locator("input[type=file]").set_input_files(files[1:])  # type: ignore[arg-type]
    await expect(room.page.get_by_role("dialog")).to_contain_text("exist already")
    await room.page.keyboard.press("Escape")


@pytest.mark.attack("edge", "files have names with markup, line feeds and reversed text", "the names are text")
async def test_names_are_text(room: Room) -> None:
    room.command(
        "mkdir -p /workspace/names && cd /workspace/names && touch '<img src=x onerror=owned()>' '<script>owned()<' "
        r"$'two\nlines' $'\u202egpj.exe' '&amp;' ' ' '{{7*7}}' '${7*7}'"
    )
    await room.open("files", query="?path=/workspace/names")
    await expect(entry(room, "names")).to_have_attribute("aria-selected", "true")
    await room.page.get_by_role("tree", name="Files").focus()
    await room.page.keyboard.press("ArrowRight")
    for name in ("<img src=x onerror=owned()>", "<script>owned()<", "two␊lines", "⟨U+202E⟩gpj.exe", "&amp;", "{{7*7}}"):
        await expect(entry(room, name)).to_have_count(1)
    assert await room.page.locator("[role=tree] img, [role=tree] script").count() == 0


async def test_an_image_is_shown_and_a_binary_file_is_not(room: Room) -> None:
    room.command(
        'printf \'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>owned()</script></svg>\' '
        "> /workspace/a.svg; head -c 100 /dev/zero > /workspace/a.dat"
    )
    await room.open("files", query="?path=/workspace/a.svg")
    image = room.page.get_by_role("img", name="/workspace/a.svg")
    await expect(image).to_have_js_property("naturalWidth", 9)
    await room.open("files", query="?path=/workspace/a.dat")
    await expect(room.page.get_by_text("This file is not text")).to_be_visible(timeout=60_000)
