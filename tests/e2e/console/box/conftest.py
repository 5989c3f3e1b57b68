"""A sandbox for the tests of its pages, and somebody in front of them."""

from __future__ import annotations

import json
import shlex
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from tests.support.browser import Tab, Tabs
from tests.support.console import signed_in
from tests.support.server.live_server import LiveServer

CREATE = {"image": {"uri": "sandlot/code-interpreter"}, "entrypoint": ["tail", "-f", "/dev/null"], "timeout": 1800}


class Room:
    """A sandbox, a person at its pages, and an agent that uses it by the API meanwhile."""

    def __init__(self, server: LiveServer, sandbox_id: str, tab: Tab) -> None:
        self.server = server
        self.id = sandbox_id
        self.tab = tab

    @property
    def page(self) -> Page:
        """The page of the browser."""
        return self.tab.page

    async def open(self, name: str, *, query: str = "") -> Page:
        """Open a page of the sandbox, and wait until it can be used."""
        await self.page.goto(f"{self.server.address}/console/sandboxes/{self.id}/{name}{query}")
        await expect(self.page.get_by_role("navigation", name="Pages of this sandbox")).to_be_visible()
        return self.page

    def command(self, *words: str) -> None:
        """Run a command as an agent does, to its end. Several words are quoted."""
        text = words[0] if len(words) == 1 else shlex.join(words)
        request = urllib.request.Request(
            f"{self.server.address}/v1/sandboxes/{self.id}/proxy/44772/command",
            json.dumps({"command": text}).encode(),
            {"OPEN-SANDBOX-API-KEY": self.server.key, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()

    def read(self, path: str) -> bytes:
        """Return the content of a file, as an agent reads it."""
        request = urllib.request.Request(
            f"{self.server.address}/v1/sandboxes/{self.id}/proxy/44772/files/download?path={path}",
            headers={"OPEN-SANDBOX-API-KEY": self.server.key},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
        return content

    def request(self, method: str, path: str = "", body: dict[str, Any] | None = None) -> Any:
        """Send a request about the sandbox with the server's key."""
        return self.server.request(method, f"/v1/sandboxes/{self.id}{path}", body)

    # -- parts of pages

    def cell(self, number: int = 1) -> Locator:
        """A cell of the notebook's first branch."""
        return self.page.get_by_role("region", name=f"Cell {number}", exact=True).first

    async def type_code(self, code: str, number: int = 1) -> None:
        """Put the cursor into a cell, and type."""
        box = self.cell(number).get_by_role("textbox", name="Code of cell")
        await box.focus()
        await self.page.keyboard.insert_text(code)


@pytest.fixture(scope="module")
def sandbox_id(server: LiveServer) -> Iterator[str]:
    """The sandbox of a module's tests."""
    made = server.request("POST", "/v1/sandboxes", CREATE)["id"]
    yield made
    server.request("DELETE", f"/v1/sandboxes/{made}")


@pytest.fixture
async def room(server: LiveServer, sandbox_id: str, tabs: Tabs) -> AsyncIterator[Room]:
    """A person at the pages of the module's sandbox. Nothing on them was refused or went wrong."""
    tab = await signed_in(tabs, server, viewport={"width": 1280, "height": 860})
    yield Room(server, sandbox_id, tab)
    assert tab.trouble == []
