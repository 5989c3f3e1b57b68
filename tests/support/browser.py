"""A real browser for tests of pages: the machine's Chromium, headless, driven by Playwright's library.

Each process that runs tests starts one Chromium, and each test has profiles of its own in it, without cookies and
storage. The browser reaches names below `localhost` and `example`, which are this machine, and no other host. A test
asks for the fixture `tab`, or for `tabs` if it needs several people or devices; it is skipped where there is no
Chromium (`apt-get install chromium`).

    async def test_a_page(tab: Tab, edge: Edge) -> None:
        await tab.sign_in(edge.url, API_KEY)
        await tab.page.goto(f"{edge.url}/console/")
        await tab.picture("start")
        assert tab.trouble == []
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request

PICTURES = Path(__file__).parents[2] / "build" / "pictures"
PATIENCE_MS = 60_000  # until something appears on a page; the machine may be loaded
VIOLATIONS = ("Content Security Policy", "TrustedHTML", "TrustedScript", "Trusted Type")

_SIGN_IN = """async (key) => {
  const headers = {"Sandlot-Console": "1"};
  const answer = await fetch("/v1/console/sign-in", {method: "POST", headers, body: JSON.stringify({key})});
  return answer.ok ? "" : answer.text();
}"""
_LISTENS = "DevTools listening on "
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_RULES = "MAP *.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE *.localhost, EXCLUDE 127.0.0.1"
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--remote-debugging-port=0", f"--host-resolver-rules={_RULES}"),
)


class Tab:
    """One page of a browser, with what it complained about and whom it asked."""

    def __init__(self, context: BrowserContext, page: Page) -> None:
        self.context = context
        self.page = page
        self.trouble: list[str] = []  # errors of the console, uncaught errors, and violations of a policy
        self.hosts: set[str] = set()  # host:port of every request that was sent
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.trouble.append(f"uncaught: {error}"))
        context.on("requestfinished", self._note)
        context.on("requestfailed", self._note)

    @property
    def violations(self) -> list[str]:
        """What a Content-Security-Policy or Trusted Types have refused."""
        return [text for text in self.trouble if any(word in text for word in VIOLATIONS)]

    async def sign_in(self, url: str, key: str) -> None:
        """Give the browser the cookie of a signed-in person, as the page of the sign-in does."""
        page = await self.context.new_page()
        await page.goto(f"{url}/version")
        refusal = await page.evaluate(_SIGN_IN, key)
        await page.close()
        assert not refusal, refusal

    async def picture(self, name: str, *, full_page: bool = False) -> Path:
        """Take a picture of the page into build/pictures, for people to look at, and return its path."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        path = PICTURES / f"{name}.png"
        await self.page.screenshot(path=path, full_page=full_page)
        return path

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.trouble.append(message.text)

    def _note(self, request: Request) -> None:
        host = urlsplit(request.url).netloc
        if host and request.failure != "csp":  # what a policy has refused was not sent
            self.hosts.add(host)


class Tabs:
    """Opens tabs, each in a profile of its own."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._opened: list[BrowserContext] = []

    async def open(self, **options: Any) -> Tab:
        """Open a tab in a new profile. *options* are those of Playwright's `new_context`.

        Among them: `viewport={"width": 400, "height": 800}`, `color_scheme="dark"`, `locale="zh-CN"`, `user_agent`.
        """
        context = await self._browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        self._opened.append(context)
        return Tab(context, await context.new_page())

    async def beside(self, tab: Tab) -> Tab:
        """Open another tab in the profile of a tab: with the same cookies."""
        return Tab(tab.context, await tab.context.new_page())

    async def aclose(self) -> None:
        """Close all profiles."""
        for context in self._opened:
            await context.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[str]:
    """The address by which a running Chromium is driven."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no Chromium on this machine; apt-get install chromium")
    pytest.importorskip("playwright", reason="no Playwright; make venv")
    folder = Path(tempfile.mkdtemp(prefix="chromium-"))
    # Ends with us, also if we are killed.
    with_us = ["setpriv", "--pdeathsig=KILL", "--"] if shutil.which("setpriv") else []
    process = subprocess.Popen(
        [*with_us, program, *_FLAGS, f"--user-data-dir={folder}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield _address(process, folder)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _address(process: subprocess.Popen[str], folder: Path) -> str:
    """Wait until Chromium listens, and return where. What it says later is read and dropped."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(_LISTENS):
            threading.Thread(target=_drain, args=(process.stderr,), daemon=True).start()
            return line.removeprefix(_LISTENS).strip()
    raise RuntimeError(f"Chromium ended with {process.wait()}, in {folder}:\n{''.join(lines)[-3000:]}")


def _drain(lines: IO[str]) -> None:
    with lines:
        lines.read()


@pytest.fixture
async def tabs(chromium: str) -> AsyncIterator[Tabs]:
    """The browser, for tests of several people."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(chromium, timeout=PATIENCE_MS)
        tabs = Tabs(browser)
        try:
            yield tabs
        finally:
            await tabs.aclose()
            await browser.close()  # the connection; the browser goes on


@pytest.fixture
async def tab(tabs: Tabs) -> Tab:
    """A tab in a new profile."""
    return await tabs.open()
