"""A server with a console before one sandbox, and what signs in there: programs that behave as a browser does."""

from __future__ import annotations

import gzip
from pathlib import Path

import httpx

from controlplane.api.edge.origins import CONSOLE_HEADER, COOKIE
from tests.support.server.api_server import API_KEY, PATIENCE_S, Edge

ASKS = {CONSOLE_HEADER: "1"}
SIGN_IN = "/v1/console/sign-in"

# Pages for tests of what surrounds them; the console's own are built from `controlplane/console/web`.
INDEX = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Console</title>
<link rel="icon" href="/console/icon.svg">
<link rel="stylesheet" href="/console/assets/style.css"><script type="module" src="/console/assets/main.js"></script>
<main>console</main></html>"""
SCRIPT = "document.querySelector('main').textContent = 'ready';"
STYLE = "main { color: rgb(0, 0, 255); }"


def write_pages(dist: Path) -> Path:
    """Write some pages as a build does, and return their folder."""
    assets = dist / "assets"
    assets.mkdir(parents=True)
    for name, text in (("main.js", SCRIPT), ("style.css", STYLE)):
        (assets / name).write_text(text)
        (assets / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    (dist / "icon.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"></svg>')
    (dist / "index.html").write_text(INDEX)
    return dist


def page_headers(edge: Edge, **more: str) -> dict[str, str]:
    """Return what a page of the console sends along by itself."""
    return {"Origin": edge.url, "Sec-Fetch-Site": "same-origin", **ASKS, **more}


def browser(edge: Edge) -> httpx.AsyncClient:
    """Return a client with cookies, which asks as a page of the console."""
    return httpx.AsyncClient(base_url=edge.url, headers=page_headers(edge), timeout=PATIENCE_S)


async def signed_in(client: httpx.AsyncClient, key: str = API_KEY) -> str:
    """Sign a client in. Return the cookie, as `name=value`."""
    answer = await client.post(SIGN_IN, json={"key": key})
    assert answer.status_code == 200, answer.text
    name, value = next((name, value) for name, value in answer.cookies.items() if COOKIE in name)
    return f"{name}={value}"
