"""What browsers get: CORS, and pages of sandboxes that share no origin with the API."""

from __future__ import annotations

import time

import httpx
import pytest
from aiohttp import web
from websockets.asyncio.client import connect

from controlplane.api.app import ApiSettings
from controlplane.api.edge.addresses import signed_label
from tests.support.agent.live_agent import LiveAgent
from tests.support.server.api_server import API_KEY, SANDBOX_ID, Edge, serving
from tests.support.server.port_services import MIRROR, application, chatting

PAGE = "https://app.example.com"
CHROMIUM = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
SAFARI = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari"


def preflight(origin: str, method: str = "POST", headers: str = "open-sandbox-api-key,content-type") -> dict[str, str]:
    """The headers of a preflight."""
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


def signed(edge: Edge, port: int) -> str:
    """A signed path."""
    expires, signature = edge.sign(port, int(time.time()) + 60)
    return f"/v1/sandboxes/{SANDBOX_ID}/signed/{port}/{expires}/{signature}"


async def test_a_preflight_needs_no_key(edge: Edge) -> None:
    """On the API, at the agent's endpoint and at a port with a token, by path and by name. No credentials, ever."""
    async with httpx.AsyncClient(base_url=edge.url) as client:
        for path, host in (
            ("/v1/sandboxes", ""),
            ("/sandboxes/x/endpoints/1", ""),
            (f"/v1/sandboxes/{SANDBOX_ID}/proxy/44772/command", ""),
            (f"/v1/sandboxes/{SANDBOX_ID}/proxy/8080/x", ""),
            ("/x", f"8080-{SANDBOX_ID}.localhost"),
        ):
            headers = preflight(PAGE, "PATCH") | ({"Host": host} if host else {})
            answer = await client.options(path, headers=headers)
            assert (answer.status_code, answer.content) == (204, b""), path
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "PATCH" in answer.headers["access-control-allow-methods"]
            assert answer.headers["access-control-allow-headers"] == "open-sandbox-api-key,content-type"
            assert "access-control-allow-credentials" not in answer.headers
            assert answer.headers["x-request-id"]
        assert (await client.options("/v1/sandboxes", headers={"Origin": PAGE})).status_code == 401


async def test_answers_may_be_read(edge: Edge) -> None:
    """Errors too, and the headers that a client needs."""
    async with httpx.AsyncClient(base_url=edge.url, headers={"Origin": PAGE}) as client:
        for sent, status in (({"OPEN-SANDBOX-API-KEY": API_KEY}, 200), ({}, 401)):
            answer = await client.get("/v1/sandboxes", headers=sent)
            assert answer.status_code == status
            assert answer.headers.get_list("access-control-allow-origin") == ["*"]
            exposed = answer.headers["access-control-expose-headers"].lower()
            assert "x-request-id" in exposed
            assert "execd-commands-tail-cursor" in exposed
    async with edge.client() as client:
        assert "access-control-allow-origin" not in (await client.get("/sandboxes")).headers


@pytest.mark.parametrize(
    ("allowed", "origin", "is_allowed"),
    [
        (("https://app.example.com",), PAGE, True),
        (("https://APP.example.com",), PAGE, True),
        (("https://app.example.com",), "http://app.example.com", False),
        (("https://app.example.com",), "https://app.example.com:8443", False),
        (("https://app.example.com",), "https://appxexample.com", False),
        (("https://app.example.com",), "https://app.example.com.evil.example", False),
        (("https://*.example.com",), PAGE, True),
        (("https://*.example.com",), "https://a.b.example.com", True),
        (("https://*.example.com",), "https://example.com", False),
        (("https://*.example.com",), "https://evil-example.com", False),
        (("https://*.example.com",), "https://evil.example/.example.com", False),
        (("http://localhost:*",), "http://localhost:5173", True),
        (("http://localhost:*",), f"http://8080-{SANDBOX_ID}.localhost:8194", False),
        (("https://*",), "https://any.example", True),
        (("https://*",), "http://any.example", False),
        (("http://[::1]:3000",), "http://[::1]:3000", True),
        (("https://other.example", "https://app.example.com"), PAGE, True),
        (("https://app.example.com",), "null", False),
        ((), PAGE, False),
    ],
)
async def test_origins_can_be_chosen(allowed: tuple[str, ...], origin: str, is_allowed: bool) -> None:
    """The origin is said back, and caches hear that the answer depends on it. Others get 401, as ever."""
    async with (
        serving(settings=ApiSettings(allowed_origins=allowed)) as edge,
        httpx.AsyncClient(base_url=edge.url) as client,
    ):
        asked = await client.options("/v1/sandboxes", headers=preflight(origin))
        got = await client.get("/v1/sandboxes", headers={"Origin": origin, "OPEN-SANDBOX-API-KEY": API_KEY})
        without = await client.get("/v1/sandboxes", headers={"OPEN-SANDBOX-API-KEY": API_KEY})

    assert asked.status_code == (204 if is_allowed else 401)
    assert got.status_code == 200
    for answer in (asked, got):
        assert answer.headers.get("access-control-allow-origin") == (origin if is_allowed else None)
    for answer in (asked, got, without):
        assert "Origin" in answer.headers.get("vary", "")


async def test_a_service_s_own_word_on_origins_counts(edge: Edge) -> None:
    """At a signed address the preflight reaches the service; where it does not answer that, we do."""

    async def strict(request: web.Request) -> web.Response:
        headers = {"Access-Control-Allow-Origin": "https://its.own.example", "X-Asked": request.method}
        return web.Response(text="strict", headers=headers)

    async def plain_one(_: web.Request) -> web.Response:
        return web.Response()

    async with (
        application(web.route("*", "/strict", strict), web.post("/plain", plain_one)) as port,
        httpx.AsyncClient(base_url=edge.url) as client,
    ):
        path = signed(edge, port)
        asked = await client.options(f"{path}/strict", headers=preflight(PAGE))
        token = {"OpenSandbox-Secure-Access": edge.token, "Origin": PAGE}
        got = await client.get(f"/v1/sandboxes/{SANDBOX_ID}/proxy/{port}/strict", headers=token)
        plain = await client.options(f"{path}/plain", headers=preflight(PAGE))
        posted = await client.post(f"{path}/plain", headers={"Origin": PAGE})

    assert (asked.text, asked.headers["x-asked"]) == ("strict", "OPTIONS")
    for answer in (asked, got):
        assert answer.headers.get_list("access-control-allow-origin") == ["https://its.own.example"]
    assert (plain.status_code, plain.headers["access-control-allow-origin"]) == (204, "*")
    assert posted.headers["access-control-allow-origin"] == "*"


async def test_a_page_at_a_path_address_has_an_origin_of_its_own(edge: Edge) -> None:
    """Services, and files that the agent hands out; by host name that is not needed."""
    async with application(MIRROR) as port, httpx.AsyncClient(base_url=edge.url) as client:
        token = {"OpenSandbox-Secure-Access": edge.token}
        ping = signed(edge, 44772) + "/ping"
        for path, sent in (
            (signed(edge, port) + "/", {}),
            (f"/v1/sandboxes/{SANDBOX_ID}/proxy/{port}/", token),
            (f"/v1/sandboxes/{SANDBOX_ID}/proxy/44772/proxy/{port}/", token),
            (ping, {}),
        ):
            policy = (await client.get(path, headers=sent)).headers["content-security-policy"]
            assert policy.split()[0] == "sandbox", path
            assert "allow-scripts" in policy, path
            assert "allow-same-origin" not in policy, path
        by_name = await client.get("/", headers={"Host": f"{port}-{SANDBOX_ID}.localhost", **token})
        assert by_name.status_code == 200
        assert "content-security-policy" not in by_name.headers
        api = await client.get("/v1/sandboxes", headers={"OPEN-SANDBOX-API-KEY": API_KEY})
        assert "content-security-policy" not in api.headers


async def test_a_service_s_own_policy_stays_beside_ours(edge: Edge) -> None:
    """Browsers enforce each of several policies."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(headers={"Content-Security-Policy": "default-src 'self'"})

    async with application(web.get("/", page)) as port, httpx.AsyncClient(base_url=edge.url) as client:
        policies = (await client.get(signed(edge, port) + "/")).headers.get_list("content-security-policy")
    assert policies[0] == "default-src 'self'"
    assert policies[1].startswith("sandbox ")


async def test_the_isolation_of_pages_can_be_lifted() -> None:
    async with (
        LiveAgent() as agent,
        serving(agent.link, ApiSettings(isolate_pages=False)) as edge,
        application(MIRROR) as port,
        httpx.AsyncClient(base_url=edge.url, headers={"User-Agent": CHROMIUM, "Accept": "text/html"}) as client,
    ):
        answer = await client.get(signed(edge, port) + "/", headers={"Host": "localhost:8194"})
    assert answer.status_code == 200
    assert "content-security-policy" not in answer.headers


async def test_an_isolated_page_may_talk_to_its_own_service(edge: Edge) -> None:
    """To which it is foreign: its origin is `null`. So may no page that does not know the signature."""

    async def api(_: web.Request) -> web.Response:
        return web.json_response({}, headers={"Access-Control-Allow-Origin": "http://localhost:3000"})

    async with application(web.put("/api", api)) as port, httpx.AsyncClient(base_url=edge.url) as client:
        path = signed(edge, port)
        asked = await client.options(f"{path}/api", headers=preflight("null", "PUT", "content-type"))
        put = await client.put(f"{path}/api", headers={"Origin": "null"})
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, "*")
    assert put.status_code == 200
    assert put.headers.get_list("access-control-allow-origin") == ["*"]


async def test_it_may_so_whatever_origins_are_allowed() -> None:
    async with (
        LiveAgent() as agent,
        serving(agent.link, ApiSettings(allowed_origins=())) as edge,
        application(MIRROR) as port,
        httpx.AsyncClient(base_url=edge.url, headers={"Origin": "null"}) as client,
    ):
        own = await client.get(signed(edge, port) + "/")
        api = await client.get("/v1/sandboxes", headers={"OPEN-SANDBOX-API-KEY": API_KEY})
    assert own.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in api.headers


@pytest.mark.parametrize(
    ("domain", "host", "sent", "goes"),
    [
        ("", "localhost:8194", {"Sec-Fetch-Mode": "navigate"}, "localhost:8194"),
        ("", "127.0.0.1:8194", {"Sec-Fetch-Mode": "navigate"}, "localhost:8194"),
        ("", "[::1]:8194", {"Sec-Fetch-Mode": "navigate"}, "localhost:8194"),
        ("", "localhost", {"Accept": "text/html,*/*"}, "localhost"),
        ("", "localhost:8194", {"Sec-Fetch-Mode": "cors", "Accept": "text/html"}, ""),
        ("", "localhost:8194", {"Accept": "*/*"}, ""),
        ("", "localhost:8194", {"Accept": "text/html", "User-Agent": SAFARI}, ""),
        ("", "box.example:8194", {"Accept": "text/html"}, ""),
        ("ports.example:81", "box.example:8194", {"Accept": "text/html"}, "ports.example:81"),
        ("ports.example:81", "box.example:8194", {"Accept": "text/html", "User-Agent": SAFARI}, "ports.example:81"),
    ],
)
async def test_a_browser_is_sent_to_the_host_name(domain: str, host: str, sent: dict[str, str], goes: str) -> None:
    """Where it can resolve one. Programs stay: not every resolver knows names below localhost."""
    async with (
        LiveAgent() as agent,
        serving(agent.link, ApiSettings(port_domain=domain)) as edge,
        application(MIRROR) as port,
        httpx.AsyncClient(base_url=edge.url, headers={"User-Agent": CHROMIUM, "Accept": "*/*"}) as client,
    ):
        expires, signature = edge.sign(port, int(time.time()) + 60)
        path = f"/v1/sandboxes/{SANDBOX_ID}/signed/{port}/{expires}/{signature}"
        answer = await client.get(f"{path}/a%20b?c=d", headers={"Host": host, **sent})
        if not goes:
            assert answer.status_code == 200
            return
        name = f"{signed_label(SANDBOX_ID, port, expires, signature)}.{goes}"
        assert (answer.status_code, answer.headers["location"]) == (307, f"//{name}/a%20b?c=d")
        there = await client.get("/a%20b?c=d", headers={"Host": name})
        assert there.json()["target"] == "/a%20b?c=d"
        wrong = await client.get(f"{path[:-1]}/", headers={"Host": host, **sent})
        assert wrong.status_code == 401
        assert (await client.post(f"{path}/x", headers={"Host": host, **sent})).status_code == 200


async def test_a_port_without_a_token_says_how_to_get_one(edge: Edge) -> None:
    """As a browser has it that opens the host name of a port."""
    async with httpx.AsyncClient(base_url=edge.url) as client:
        answer = await client.get("/", headers={"Host": f"8080-{SANDBOX_ID}.localhost:8194"})
    assert (answer.status_code, answer.json()["code"]) == (401, "MISSING_API_KEY")
    assert f"GET /v1/sandboxes/{SANDBOX_ID}/endpoints/8080" in answer.json()["message"]
    assert "?expires=" in answer.json()["message"]


async def test_a_websocket_of_an_isolated_page(edge: Edge) -> None:
    """Its handshake's answer has cookies and redirects as any other."""
    async with chatting() as (port, _):
        url = edge.url.replace("http", "ws") + signed(edge, port) + "/chat"
        async with connect(url, origin="null", proxy=None) as client:  # type: ignore[arg-type]
            await client.send("who")
            assert await client.recv() == "None null /chat"
