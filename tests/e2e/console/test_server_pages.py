"""What an operator does on the pages of the server: first programs, checks, keys, images, and the API by hand."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from playwright.async_api import expect

from tests.support.browser import Tab
from tests.support.console import Look
from tests.support.server.live_server import LiveServer

CREATE = {"image": {"uri": "sandlot/code-interpreter"}, "entrypoint": ["tail", "-f", "/dev/null"], "timeout": 900}


async def example(person: Tab, name: str) -> str:
    """Return the first program of the start page in that language."""
    await person.page.get_by_role("tab", name=name, exact=True).click()
    code = person.page.locator(f"pre[aria-label='{name}']")
    await expect(code).to_be_visible()
    return await code.inner_text()


async def test_first_programs_run_as_they_stand(person: Tab, server: LiveServer, sdk: Path) -> None:
    await person.page.goto(f"{server.address}/console/")
    host = server.address.removeprefix("http://")
    python, curl = await example(person, "Python"), await example(person, "curl")
    for name in ("JavaScript", "CLI", "MCP"):
        assert host in await example(person, name)
    done = subprocess.run(  # noqa: ASYNC221
        [sdk, "-c", python], env=server.sdk_environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.splitlines() == ["Hello from a sandbox", "42"], done.stderr
    assert f"OPEN_SANDBOX_DOMAIN={host} " in python
    script = "set -e\n" + curl.replace("API-KEY: KEY", f"API-KEY: {server.key}")
    ended = subprocess.run(  # noqa: ASYNC221
        ["bash", "-c", script], env=os.environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert '"42"' in ended.stdout, ended.stderr


async def test_tabs_are_moved_by_arrows(person: Tab, server: LiveServer) -> None:
    await person.page.goto(f"{server.address}/console/")
    await person.page.get_by_role("tab", name="Python").focus()
    await person.page.keyboard.press("ArrowRight")
    await expect(person.page.get_by_role("tab", name="JavaScript")).to_have_attribute("aria-selected", "true")
    await person.page.keyboard.press("End")
    await expect(person.page.get_by_role("tab", name="MCP")).to_be_focused()


async def test_the_checks_of_the_doctor(person: Tab, server: LiveServer, barriers: Look) -> None:
    await person.page.goto(f"{server.address}/console/server/report")
    await person.page.get_by_role("button", name="Run the checks").press("Enter")
    await expect(person.page.get_by_text("Well", exact=True).first).to_be_visible()
    assert await barriers(person) == []
    assert person.trouble == []


async def test_the_log_and_the_audit_say_what_was_done(person: Tab, server: LiveServer) -> None:
    sandbox = server.request("POST", "/v1/sandboxes", CREATE)["id"]
    server.request("DELETE", f"/v1/sandboxes/{sandbox}")
    await person.page.goto(f"{server.address}/console/server/log")
    await person.page.get_by_role("searchbox").fill(f"sandbox.created sandbox={sandbox}")
    await expect(person.page.get_by_role("log").get_by_text(sandbox)).to_have_count(1)
    await person.page.get_by_label("Level").select_option("error")
    await expect(person.page.get_by_text("Nothing was logged yet.")).to_be_visible()
    await person.page.get_by_role("link", name="Audit").click()
    row = person.page.get_by_role("row").filter(has_text=sandbox).filter(has_text="sandbox.delete")
    again = person.page.get_by_role("button", name="Read again")
    while not await row.count():  # the audit log is written a little later
        await again.click()
        await expect(again).not_to_have_attribute("aria-busy", "true")
    await expect(row).to_contain_text("done")


async def test_a_key_is_shown_once_and_withdrawn(person: Tab, server: LiveServer) -> None:
    page, keyboard = person.page, person.page.keyboard
    await page.goto(f"{server.address}/console/server/keys")
    await page.get_by_role("button", name="New key").press("Enter")
    dialog = page.get_by_role("dialog")
    await keyboard.press("Enter")
    await expect(dialog.get_by_role("alert")).to_have_text("Enter a name.")
    await keyboard.type("from-the-console")
    await dialog.get_by_label("read", exact=True).check()
    await keyboard.press("Enter")
    await expect(dialog).to_contain_text("This is the key.")
    key = (await dialog.locator("pre").inner_text()).strip()
    await dialog.get_by_role("button", name="Close").last.click()
    row = page.get_by_role("row").filter(has_text="from-the-console")
    await expect(row).to_contain_text("createread")
    assert key not in await page.content()
    await row.get_by_role("button", name="Withdraw").press("Enter")
    await page.get_by_role("dialog").get_by_role("button", name="Withdraw").press("Enter")
    await expect(row).to_have_count(0)
    assert person.trouble == []


async def test_why_an_image_in_use_stays_is_said(person: Tab, server: LiveServer) -> None:
    await person.page.goto(f"{server.address}/console/images")
    await person.page.get_by_role("button", name="Delete sandlot/code-interpreter:latest").press("Enter")
    dialog = person.page.get_by_role("dialog")
    await dialog.get_by_role("button", name="Delete").press("Enter")
    await expect(dialog.get_by_role("alert")).to_contain_text("409")
    await person.page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)


async def test_an_operation_is_read_and_tried(person: Tab, server: LiveServer, barriers: Look) -> None:
    sandbox = server.request("POST", "/v1/sandboxes", CREATE)["id"]
    page = person.page
    await page.goto(f"{server.address}/console/api")
    await page.get_by_role("searchbox").fill("get /v1/sandboxes/{sandbox_id} return a sandbox")
    operation = page.get_by_role("listitem").filter(has_text="Return a sandbox.")
    await operation.locator("summary").first.press("Enter")
    await expect(operation).to_contain_text("createdAt")
    await operation.get_by_role("button", name="Try it").press("Enter")
    await operation.get_by_label("sandbox_id (path)").fill(sandbox)
    await page.keyboard.press("Enter")
    await expect(operation.get_by_role("status")).to_contain_text('"state": "Running"')
    assert await barriers(person) == []
    await operation.get_by_label("sandbox_id (path)").fill("none/../such")
    await page.keyboard.press("Enter")
    await expect(operation.get_by_role("status")).to_contain_text("404")
    server.request("DELETE", f"/v1/sandboxes/{sandbox}")
    await page.get_by_label("Specification").select_option("stream.asyncapi.yaml")
    await expect(page.get_by_role("heading", level=2)).to_have_text("Text of the specification")
    assert person.violations == []
