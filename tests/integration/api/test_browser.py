"""A real browser, which alone can say what an origin is: Chromium, headless. Skipped where there is none."""

from __future__ import annotations

import asyncio
import json
import time

from aiohttp import web

from tests.support.agent.live_agent import LiveAgent
from tests.support.browser import Tabs
from tests.support.server.api_server import SANDBOX_ID, Edge, serving
from tests.support.server.port_services import application

# Not redirected to a host name: it says that it does not resolve these by itself.
OTHER_BROWSER = "Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15"

PAGE = """<!doctype html><body><script type="module">
import {word} from "./module.js";
const said = {word, host: location.host, path: location.pathname, origin: self.origin};
const attempt = async (name, what) => { try { said[name] = await what(); } catch (error) { said[name] = error.name; } };
await attempt("cookie", () => { document.cookie = "a=1; path=/"; return document.cookie; });
await attempt("storage", () => { localStorage.setItem("a", "1"); return localStorage.getItem("a"); });
await attempt("own service", async () => (await fetch("api", {method: "PUT", headers: {"X-Own": "1"}})).text());
await attempt("other page", async () => (await fetch("OTHER")).status);
await attempt("frame", async () => {
  const frame = document.createElement("iframe");
  frame.src = "OTHER";
  const loaded = new Promise((resolve) => { frame.onload = resolve; });
  document.body.append(frame);
  await loaded;
  return frame.contentDocument === null ? "unreadable" : "readable";
});
await fetch("said", {method: "POST", body: JSON.stringify(said)});
</script></body>"""


async def test_a_page_shares_no_origin_with_the_api(tabs: Tabs) -> None:
    """By host name it has one of its own; at a path address it has none, and yet its scripts work."""
    async with LiveAgent() as agent, serving(agent.link) as edge:
        other = f"http://localhost:{edge.address.rpartition(':')[2]}/health"

        async def page(_: web.Request) -> web.Response:
            return web.Response(text=PAGE.replace("OTHER", other), content_type="text/html")

        async def module(_: web.Request) -> web.Response:
            return web.Response(text="export const word = 'module';", content_type="text/javascript")

        said: asyncio.Queue[dict[str, str]] = asyncio.Queue()

        async def hear(request: web.Request) -> web.Response:
            said.put_nowait(json.loads(await request.text()))
            return web.Response()

        async def api(request: web.Request) -> web.Response:
            return web.Response(text=f"{request.method} {request.headers['X-Own']}")

        routes = (web.get("/", page), web.get("/module.js", module), web.put("/api", api), web.post("/said", hear))
        async with application(*routes) as port:
            path = signed_url(edge, port)
            await (await tabs.open()).page.goto(path)
            by_name = await said.get()
            await (await tabs.open(user_agent=OTHER_BROWSER)).page.goto(path)
            by_path = await said.get()

    assert by_name["host"].startswith(f"{port}-{SANDBOX_ID.replace('-', '')}-")
    assert by_name["path"] == "/"
    assert by_name["origin"] == f"http://{by_name['host']}"
    assert (by_name["cookie"], by_name["storage"]) == ("a=1", "1")
    assert (by_path["host"], by_path["origin"]) == (other.split("/")[2], "null")
    assert (by_path["cookie"], by_path["storage"]) == ("SecurityError", "SecurityError")
    for page_said in (by_name, by_path):
        assert (page_said["word"], page_said["own service"]) == ("module", "PUT 1")
        assert page_said["frame"] == "unreadable"  # the API is another origin, for both


def signed_url(edge: Edge, port: int) -> str:
    """A signed path on localhost, without the slash at its end."""
    expires, signature = edge.sign(port, int(time.time()) + 60)
    return (
        f"http://localhost:{edge.address.rpartition(':')[2]}"
        f"/v1/sandboxes/{SANDBOX_ID}/signed/{port}/{expires}/{signature}"
    )
