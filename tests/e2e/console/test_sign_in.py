"""Signing in to the console, with the keyboard alone: by a key, by a link, and again when a sign-in has ended."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.support.browser import Tab, Tabs
from tests.support.console import Look, picture
from tests.support.server.live_server import LiveServer


async def kept(tab: Tab) -> str:
    """Return everything that a script of the page could read later."""
    script = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href, history.state])"
    return str(await tab.page.evaluate(script))


async def test_a_key_signs_in_and_is_kept_nowhere(tab: Tab, server: LiveServer, barriers: Look) -> None:
    await tab.page.goto(f"{server.address}/console/sandboxes?q=abc")
    field = tab.page.get_by_label("Key", exact=True)
    await expect(field).to_be_focused()
    assert await barriers(tab) == []
    await picture(tab, "sign-in")

    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_role("alert")).to_have_text("Enter a key.")
    await tab.page.keyboard.type("sandlot_wrong")
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_role("alert")).to_contain_text("key")
    await tab.page.keyboard.press("Control+A")
    await tab.page.keyboard.type(server.key)
    await tab.page.keyboard.press("Enter")

    await expect(tab.page.get_by_role("heading", level=1)).to_have_text("Sandboxes")
    await expect(tab.page.get_by_role("searchbox")).to_have_value("abc")
    assert server.key not in await kept(tab)
    assert tab.hosts == {server.address.removeprefix("http://")}


async def test_a_link_signs_in_once_and_leaves_no_trace(tabs: Tabs, tab: Tab, server: LiveServer) -> None:
    url = server.request("POST", "/v1/console/links")["url"]
    code = url.partition("#")[2]
    await tab.page.goto(url)
    await expect(tab.page.get_by_role("heading", level=1)).to_have_text("This server")
    assert code
    assert code not in await kept(tab)
    await tab.page.reload()
    await expect(tab.page.get_by_role("heading", level=1)).to_have_text("This server")

    stranger = await tabs.open()
    await stranger.page.goto(url)
    await expect(stranger.page.get_by_role("alert")).to_contain_text("The link has been used")


async def test_nothing_is_lost_when_the_sign_in_ends(person: Tab, server: LiveServer, barriers: Look) -> None:
    await person.page.goto(f"{server.address}/console/sandboxes")
    await person.page.get_by_role("searchbox").fill("nothing like this")
    await expect(person.page.get_by_text("Live", exact=True)).to_be_visible()
    ended = await person.context.request.delete(
        f"{server.address}/v1/console/sign-in", headers={"Sandlot-Console": "1", "Origin": server.address}
    )
    assert ended.status == 204
    dialog = person.page.get_by_role("dialog")
    await expect(dialog).to_contain_text("nothing on this page is lost")
    assert await barriers(person) == []
    await person.page.keyboard.press("Escape")
    await expect(dialog).to_be_visible()
    await dialog.get_by_label("Key", exact=True).fill(server.key)
    await person.page.keyboard.press("Enter")
    await expect(dialog).to_have_count(0)
    await expect(person.page.get_by_text("Live", exact=True)).to_be_visible()
    await expect(person.page.get_by_role("searchbox")).to_have_value("nothing like this")


async def test_signing_out_shows_the_door(person: Tab, server: LiveServer) -> None:
    await person.page.goto(f"{server.address}/console/")
    await person.page.get_by_role("button", name="Sign out").focus()
    await person.page.keyboard.press("Enter")
    await expect(person.page.get_by_role("heading", level=1)).to_have_text("Sign in to this server")
    await person.page.reload()
    await expect(person.page.get_by_role("heading", level=1)).to_have_text("Sign in to this server")


@pytest.mark.parametrize("scope", ["read", "create"])
async def test_a_lesser_key_sees_what_it_may(tab: Tab, server: LiveServer, scope: str) -> None:
    key = server.request("POST", "/v1/keys", {"name": f"console-{scope}", "scopes": [scope]})
    try:
        await tab.sign_in(server.address, key["key"])
        await tab.page.goto(f"{server.address}/console/")
        await expect(tab.page.get_by_role("button", name="New sandbox")).to_have_count(int(scope == "create"))
        await expect(tab.page.get_by_text("needs the scope")).to_have_count(int(scope == "create"))
        await tab.page.goto(f"{server.address}/console/server/log")
        await expect(tab.page.get_by_text("needs the scope" if scope == "create" else "Only keys with")).to_be_visible()
        assert tab.violations == []
    finally:
        server.request("DELETE", f"/v1/keys/{key['id']}")
