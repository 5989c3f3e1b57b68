"""Somebody in front of the console, and pictures of what they see."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.support.browser import Tab, Tabs
from tests.support.server.live_server import LiveServer

DOCS_PICTURES = Path(__file__).parents[2] / "docs" / "pictures"

MAX_PICTURE_BYTES = 80_000  # of the documentation

Look = Callable[[Tab], Awaitable[list[str]]]
"""Returns the barriers of a page, a line for each: the fixture `barriers` of tests/e2e/console."""


async def signed_in(tabs: Tabs, server: LiveServer, **options: Any) -> Tab:
    """Open a browser of somebody who has signed in. *options* are those of `Tabs.open`."""
    tab = await tabs.open(**options)
    await tab.sign_in(server.address, server.key)
    return tab


async def picture(tab: Tab, name: str, *, for_docs: bool = False, of: str = "") -> Path:
    """Take a picture to look at, and return its path; with CONSOLE_PICTURES=1, one for the docs goes there too.

    *of* selects a part of the page.
    """
    path = await tab.picture(f"console-{name}")
    if of:
        await tab.page.locator(of).screenshot(path=path)
    if for_docs and os.environ.get("CONSOLE_PICTURES"):
        DOCS_PICTURES.mkdir(exist_ok=True)
        (DOCS_PICTURES / f"{name}.png").write_bytes(path.read_bytes())
    return path
