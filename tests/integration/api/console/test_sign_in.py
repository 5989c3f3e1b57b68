"""Signing in at the console, and what the cookie opens: the API for the console's pages, nothing for others."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from controlplane.access.attempts import Attempts
from controlplane.access.audit import Audit
from controlplane.access.connections import KeyConnections
from controlplane.access.control import AccessControl
from controlplane.access.keys import Keys
from controlplane.access.sign_ins import Links, SignIns
from controlplane.api.app import ApiSettings
from controlplane.api.edge import origins
from controlplane.listener.serve import ListenerSettings
from controlplane.store.store import Store
from tests.support.agent.live_agent import LiveAgent
from tests.support.server.api_server import API_KEY, PATIENCE_S, SANDBOX_ID, Edge, serving
from tests.support.server.console import ASKS, SIGN_IN, browser, page_headers, signed_in
from tests.support.server.port_services import MIRROR, application, chatting

STREAM = f"/v1/sandboxes/{SANDBOX_ID}/stream"
FOREIGN = "http://8080-0123456789abcdef.localhost:8194"


def access_of(store: Store | None, connections: KeyConnections, *, failed: int = 0, audit: Audit | None = None) -> Any:
    """The control of access with one configured key, and the store of an earlier run."""
    keys = Keys({"key-1": API_KEY}, store, on_narrowed=connections.end)
    return AccessControl(
        keys=keys,
        sign_ins=SignIns(keys, store, on_ended=connections.end_others),
        links=Links(keys),
        connections=connections,
        attempts=Attempts(failed),
        audit=audit or Audit(None, "off"),
    )


async def reason_of_close(socket: ClientConnection) -> str:
    """Wait until a socket is closed, and return why it was."""
    async with asyncio.timeout(PATIENCE_S):
        await socket.wait_closed()
    return socket.close_reason or ""


async def test_a_key_signs_in(edge: Edge, person: httpx.AsyncClient) -> None:
    """The cookie is for this server alone, and no script reads it."""
    answer = await person.post(SIGN_IN, json={"key": API_KEY})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["name"], told["owner"], told["scopes"]) == ("key-1", "admin", ["admin"])
    assert told["expires_at"]
    assert API_KEY not in answer.text
    assert answer.headers["cache-control"] == "no-store"
    name, _, attributes = answer.headers["set-cookie"].partition("=")
    assert name == f"sandlot-console-{edge.address.rpartition(':')[2]}"
    parts = {part.strip().lower() for part in attributes.split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= parts
    assert not any(part.startswith("domain") for part in parts)
    age = next(int(part.partition("=")[2]) for part in parts if part.startswith("max-age"))
    assert 12 * 3600 - 60 < age <= 12 * 3600

    who = await person.get(SIGN_IN)
    assert who.json() == told
    listed = await person.get("/v1/sandboxes")
    assert listed.status_code == 200
    assert listed.headers["cache-control"] == "no-store"


async def test_over_https_the_cookie_is_of_this_host_alone() -> None:
    """A trusted proxy tells the scheme and the host."""
    proxied = ListenerSettings(trusted_proxies=("127.0.0.1",))
    told = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "box.example", "Origin": "https://box.example", **ASKS}
    async with serving(listener_settings=proxied) as edge, httpx.AsyncClient(base_url=edge.url, headers=told) as client:
        answer = await client.post(SIGN_IN, json={"key": API_KEY})
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-sandlot-console=")
        assert "Secure" in cookie
        sent = {"Cookie": cookie.partition(";")[0]}
        client.cookies.clear()
        assert (await client.get("/v1/sandboxes", headers=sent)).status_code == 200
        plain = {"Cookie": sent["Cookie"].removeprefix("__Host-")}  # what a neighbour may set for the whole domain
        assert (await client.get("/v1/sandboxes", headers=plain)).status_code == 401


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"key": "sandlot_wrong"}, 401),
        ({"code": "wrong"}, 401),
        ({"key": ""}, 400),
        ({}, 400),
        ({"key": API_KEY, "code": "x"}, 400),
        ({"key": API_KEY, "more": 1}, 400),
        ({"key": 1}, 400),
        ({"key": "x" * 5000}, 400),
        ({"code": "x" * 4000}, 401),
        ([], 400),
    ],
)
async def test_a_wrong_sign_in_says_what_is_wrong(person: httpx.AsyncClient, sent: object, status: int) -> None:
    answer = await person.post(SIGN_IN, json=sent)
    assert answer.status_code == status, answer.text
    assert answer.json()["message"]
    assert "set-cookie" not in answer.headers


async def test_who_is_not_signed_in_is_nobody(person: httpx.AsyncClient) -> None:
    assert (await person.get(SIGN_IN)).status_code == 401
    assert (await person.head(SIGN_IN)).status_code == 401
    assert (await person.delete(SIGN_IN)).status_code == 401


async def test_a_key_itself_may_ask_who_it_is(edge: Edge) -> None:
    async with edge.client() as client:
        told = (await client.get("/console/sign-in")).json()
        assert (told["name"], told["expires_at"]) == ("key-1", None)


@pytest.mark.attack(
    "edge", "a form, a link or a page of another origin signs a browser in with the attacker's key", "it cannot"
)
async def test_nobody_signs_another_in(edge: Edge) -> None:
    """No form sends the header; a page that may send it has its origin told by the browser."""
    async with httpx.AsyncClient(base_url=edge.url) as client:
        body = json.dumps({"key": API_KEY})
        for headers, status in (
            ({}, 400),
            ({"Content-Type": "text/plain", "Origin": FOREIGN}, 400),
            (page_headers(edge, Origin=FOREIGN), 403),
            (page_headers(edge, Origin="null"), 403),
            (ASKS | {"Sec-Fetch-Site": "same-site"}, 403),
            (ASKS | {"Sec-Fetch-Site": "cross-site"}, 403),
            (ASKS | {"Sec-Fetch-Site": "none"}, 403),
        ):
            answer = await client.post(SIGN_IN, content=body, headers=headers)
            assert (answer.status_code, "set-cookie" in answer.headers) == (status, False), headers


@pytest.mark.attack(
    "edge",
    "a page of another origin sends a request with the cookie of a person who has signed in",
    "the cookie opens nothing without the console's header and origin",
)
async def test_the_cookie_alone_opens_nothing(edge: Edge, person: httpx.AsyncClient) -> None:
    cookie = {"Cookie": await signed_in(person)}
    own = page_headers(edge)
    cases: list[tuple[dict[str, str], int]] = [
        (own, 200),
        (ASKS, 200),  # over http, a browser says nothing of a GET to its own origin
        ({}, 401),
        ({"Sandlot-Console": "0", "Origin": edge.url}, 401),
        ({"Origin": edge.url, "Sec-Fetch-Site": "same-origin"}, 401),
        (own | {"Origin": FOREIGN}, 403),
        (own | {"Origin": "null"}, 403),
        (own | {"Origin": edge.url.replace("127.0.0.1", "127.0.0.2")}, 403),
        (own | {"Origin": edge.url.rpartition(":")[0] + ":1"}, 403),
        (own | {"Origin": edge.url.replace("http", "https")}, 403),
        (own | {"Origin": f"{edge.url}.evil.example"}, 403),
        (own | {"Sec-Fetch-Site": "same-site"}, 403),
        (own | {"Sec-Fetch-Site": "none"}, 403),
        (own | {"OPEN-SANDBOX-API-KEY": "wrong"}, 401),
    ]
    async with httpx.AsyncClient(base_url=edge.url) as client:
        for headers, status in cases:
            for method, path in (("GET", "/v1/sandboxes"), ("PATCH", f"/v1/sandboxes/{SANDBOX_ID}/metadata")):
                answer = await client.request(method, path, headers=headers | cookie, json={})
                assert answer.status_code == status, (headers, answer.text)
        twice = [*own.items(), *cookie.items(), ("Origin", FOREIGN)]
        assert (await client.get("/v1/sandboxes", headers=twice)).status_code == 403
        assert (await client.get("/sandboxes", headers=own | cookie)).status_code == 401  # an address for old clients


@pytest.mark.attack(
    "edge",
    "a request of a signed-in browser for a service in a sandbox, by any of its addresses",
    "the cookie opens no service, and none sees it",
)
async def test_the_cookie_opens_no_service(edge: Edge, person: httpx.AsyncClient) -> None:
    """Only the agent's and the sidecar's own endpoints."""
    cookie = await signed_in(person)
    own = page_headers(edge, Cookie=cookie)
    below = f"/v1/sandboxes/{SANDBOX_ID}"
    async with application(MIRROR) as port, httpx.AsyncClient(base_url=edge.url) as client:
        moment, _ = edge.sign(port, int(time.time()) + 600)
        for path, status in (
            (f"{below}/proxy/44772/ping", 200),
            (f"{below}/proxy/18080/policy", 200),
            (f"{below}/proxy/{port}/", 401),
            (f"{below}/proxy/44772/proxy/{port}/", 401),
            (f"{below}/proxy/44772/%70roxy/{port}/", 401),
            (f"{below}/proxy/44772%2Fproxy/{port}/", 401),
            (f"{below}/proxy/044772/", 401),
            (f"{below}/proxy/44772%0A/ping", 401),
            (f"{below}/proxy", 404),
            (f"{below}/signed/{port}/{moment}/aaaaaaaaaaaaaaaa/", 401),
        ):
            answer = await client.get(path, headers=own)
            assert answer.status_code == status, (path, answer.status_code, answer.text)
        by_name = await client.get("/", headers=own | {"Host": f"{port}-{SANDBOX_ID}.localhost"})
        assert by_name.status_code == 401
        agent_by_name = await client.get("/ping", headers=own | {"Host": f"44772-{SANDBOX_ID}.localhost"})
        assert agent_by_name.status_code == 401


async def test_no_service_sees_the_cookie(edge: Edge, person: httpx.AsyncClient) -> None:
    """Whoever opens a signed address in the same browser sends the cookie along; the service's own cookies stay."""
    cookie = await signed_in(person)
    value = cookie.partition("=")[2]
    variants = (cookie, f"sandlot-console={value}", f"__Host-sandlot-console={value}", f"sandlot-console-1={value}")
    async with application(MIRROR) as port, httpx.AsyncClient(base_url=edge.url) as client:
        moment, signature = edge.sign(port, int(time.time()) + 600)
        signed = f"/v1/sandboxes/{SANDBOX_ID}/signed/{port}/{moment}/{signature}/"
        for ours in variants:
            for sent, seen in (
                (ours, None),
                (f"a=1; {ours}", "a=1"),
                (f"{ours}; a=1", "a=1"),
                (f"a=1; {ours}; b=2", "a=1; b=2"),
                (f"{ours} ;{ours}", None),
                (f"my-sandlot-console=1; {ours}", "my-sandlot-console=1"),
            ):
                headers = dict((await client.get(signed, headers={"Cookie": sent})).json()["headers"])
                assert headers.get("cookie") == seen, sent
                assert value not in json.dumps(headers)
    async with chatting() as (port, _):
        moment, signature = edge.sign(port, int(time.time()) + 600)
        url = f"ws://{edge.address}/v1/sandboxes/{SANDBOX_ID}/signed/{port}/{moment}/{signature}/chat"
        async with connect(url, additional_headers={"Cookie": f"{cookie}; b=2"}, proxy=None) as socket:
            await socket.send("who")
            assert str(await socket.recv()).startswith("b=2 ")


@pytest.mark.attack(
    "edge",
    "a page of another origin asks by a preflight for leave to send the console's header, or to send cookies",
    "it gets neither, whatever origins are allowed",
)
@pytest.mark.parametrize("allowed", [("*",), (FOREIGN,), ()])
async def test_no_preflight_allows_the_header(allowed: tuple[str, ...]) -> None:
    """Other headers are allowed as ever."""
    async with (
        serving(settings=ApiSettings(allowed_origins=allowed)) as edge,
        httpx.AsyncClient(base_url=edge.url) as client,
    ):
        for path in ("/v1/sandboxes", "/v1/console/sign-in", "/console/", f"/v1/sandboxes/{SANDBOX_ID}/proxy/44772/x"):
            for asked in ("sandlot-console", "content-type,Sandlot-Console", "SANDLOT-CONSOLE , x", None):
                headers = {"Origin": FOREIGN, "Access-Control-Request-Method": "POST"}
                if asked is not None:
                    headers["Access-Control-Request-Headers"] = asked
                answer = await client.options(path, headers=headers)
                told = answer.headers.get("access-control-allow-headers", "").lower()
                assert "sandlot-console" not in told
                assert "*" not in told
                assert "access-control-allow-credentials" not in answer.headers
                assert (answer.status_code == 204) is bool(allowed), (path, answer.text)
                assert not allowed or asked is None or ("content-type" in told) is ("content-type" in asked)


@pytest.mark.attack(
    "edge", "a page of another origin opens a WebSocket of the API with the cookie of a person", "it is refused"
)
async def test_a_websocket_needs_the_console_s_origin(edge: Edge, person: httpx.AsyncClient) -> None:
    """The handshake cannot carry the header, and always carries the origin."""
    cookie = await signed_in(person)
    url = f"ws://{edge.address}"
    for path, origin, status in (
        (STREAM, edge.url, 101),
        (STREAM, None, 401),
        (STREAM, "null", 403),
        (STREAM, FOREIGN, 403),
        (STREAM, edge.url.replace("http", "https"), 403),
        (f"/v1/sandboxes/{SANDBOX_ID}/proxy/8080/", edge.url, 401),
    ):
        headers = {"Cookie": cookie} | ({"Origin": origin} if origin is not None else {})
        got = 101
        try:
            async with connect(url + path, additional_headers=headers, proxy=None):
                pass
        except InvalidStatus as error:
            got = error.response.status_code
        assert got in ({403, 401} if status != 101 else {101}), (path, origin, got)
        assert origin is None or got == status


@pytest.mark.attack(
    "edge",
    "a cookie that was guessed, changed, of another server, or of a person who has signed out",
    "it opens nothing, and counts as a failed attempt",
)
async def test_no_other_cookie_opens_anything(edge: Edge, person: httpx.AsyncClient) -> None:
    good = await signed_in(person)
    name, _, value = good.partition("=")
    async with serving() as other, browser(other) as stranger:
        foreign = (await signed_in(stranger)).partition("=")[2]
    async with httpx.AsyncClient(base_url=edge.url, headers=page_headers(edge)) as client:
        for wrong in (foreign, value[:-1], value + "A", value.swapcase(), "", "x" * 5000, "%00", '"' + value + '"'):
            answer = await client.get(SIGN_IN, headers={"Cookie": f"{name}={wrong}"})
            assert answer.status_code == 401, wrong[:80]
        for other_name in ("sandlot-console", f"__Host-{name}", f"{name}0", name.upper()):
            answer = await client.get(SIGN_IN, headers={"Cookie": f"{other_name}={value}"})
            assert answer.status_code == 401, other_name
        assert (await client.get(SIGN_IN, headers={"Cookie": good})).status_code == 200


@pytest.mark.attack(
    "edge",
    "a site of the same domain sets a cookie named as the console's, to put its own sign-in in the place of a person's",
    "a wrong one is ignored, and of two right ones none counts",
)
async def test_a_cookie_that_a_neighbour_set(edge: Edge, person: httpx.AsyncClient) -> None:
    good = await signed_in(person)
    name = good.partition("=")[0]
    async with browser(edge) as attacker, httpx.AsyncClient(base_url=edge.url, headers=page_headers(edge)) as client:
        own = await signed_in(attacker)
        for sent, status, code in (
            (f"{name}=tossed; {good}", 200, None),
            (f"{good}; {name}=tossed", 200, None),
            (f"{good}; {good}", 200, None),
            (f"{own}; {good}", 401, "SIGN_IN_AMBIGUOUS"),
            (f"{good}; {own}", 401, "SIGN_IN_AMBIGUOUS"),
            ("; ".join([*(f"{name}={number}" for number in range(20)), good]), 401, "SIGN_IN_ENDED"),
        ):
            answer = await client.get(SIGN_IN, headers={"Cookie": sent})
            assert (answer.status_code, answer.json().get("code")) == (status, code), sent
        # The header may come in pieces.
        pieces = [*page_headers(edge).items(), ("Cookie", "a=1"), ("Cookie", good)]
        assert (await client.get(SIGN_IN, headers=pieces)).status_code == 200


# -- the end of a sign-in ----------------------------------------


async def test_who_signs_out_is_out(edge: Edge, person: httpx.AsyncClient) -> None:
    """The cookie goes, and a copy of it opens nothing. Open sockets end at once."""
    cookie = await signed_in(person)
    socket_headers = {"Cookie": cookie, "Origin": edge.url}
    async with connect(f"ws://{edge.address}{STREAM}", additional_headers=socket_headers, proxy=None) as socket:
        answer = await person.delete(SIGN_IN)
        assert (answer.status_code, answer.content) == (204, b"")
        assert "max-age=0" in answer.headers["set-cookie"].lower()
        assert "sign-in" in await reason_of_close(socket)
    async with httpx.AsyncClient(base_url=edge.url, headers=page_headers(edge)) as thief:
        answer = await thief.get(SIGN_IN, headers={"Cookie": cookie})
    assert (answer.status_code, answer.json()["code"]) == (401, "SIGN_IN_ENDED")


@pytest.mark.attack(
    "edge",
    "A page keeps a ticket of the console, and uses the ticket after the person has signed out",
    "The ticket opens nothing, and what another one opened before is closed",
)
@pytest.mark.parametrize("place", [STREAM, "/v1/events"])
async def test_no_ticket_outlives_the_sign_in(edge: Edge, person: httpx.AsyncClient, place: str) -> None:
    await signed_in(person)
    used, kept = [(await person.post(f"{place}/tickets")).json()["ticket"] for _ in range(2)]
    async with connect(f"ws://{edge.address}{place}?ticket={used}", proxy=None) as socket:
        await person.delete(SIGN_IN)
        assert "sign-in" in await reason_of_close(socket)
    with pytest.raises(InvalidStatus, match="401"):
        await connect(f"ws://{edge.address}{place}?ticket={kept}", proxy=None)


async def test_who_signs_in_again_leaves_no_sign_in_behind(edge: Edge, person: httpx.AsyncClient) -> None:
    first = await signed_in(person)
    second = await signed_in(person)
    assert first != second
    async with httpx.AsyncClient(base_url=edge.url, headers=page_headers(edge)) as client:
        assert (await client.get(SIGN_IN, headers={"Cookie": first})).status_code == 401
        assert (await client.get(SIGN_IN, headers={"Cookie": second})).status_code == 200


async def test_a_sign_in_outlives_the_server(tmp_path: Path) -> None:
    """So does its end."""
    cookies = []
    store = Store(tmp_path)
    async with serving(access=access_of(store, KeyConnections())) as edge:
        for _ in range(2):
            async with browser(edge) as person:
                cookies.append((await signed_in(person)).partition("=")[2])
        name = f"sandlot-console-{edge.address.rpartition(':')[2]}"
        async with httpx.AsyncClient(base_url=edge.url, headers=page_headers(edge)) as client:
            gone = await client.delete(SIGN_IN, headers={"Cookie": f"{name}={cookies[1]}"})
            assert gone.status_code == 204
    store.close()
    kept = b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))  # noqa: ASYNC240 - small files
    assert not any(cookie.encode() in kept for cookie in cookies)
    store = Store(tmp_path)
    async with serving(access=access_of(store, KeyConnections())) as edge:
        name = f"sandlot-console-{edge.address.rpartition(':')[2]}"
        async with httpx.AsyncClient(base_url=edge.url, headers=page_headers(edge)) as client:
            statuses = [
                (await client.get(SIGN_IN, headers={"Cookie": f"{name}={cookie}"})).status_code for cookie in cookies
            ]
    store.close()
    assert statuses == [200, 401]


@pytest.mark.attack(
    "edge", "the cookie of a key that was withdrawn", "it opens nothing, and its connections have ended"
)
async def test_a_sign_in_ends_with_its_key(tmp_path: Path) -> None:
    store, connections = Store(tmp_path), KeyConnections()
    access = access_of(store, connections)
    key, text = access.keys.create("short-lived", ("create",), access.keys.get("key-1").quotas, owner="admin")
    async with LiveAgent() as agent, serving(agent.link, access=access) as edge, browser(edge) as person:
        cookie = await signed_in(person, text)
        headers = {"Cookie": cookie, "Origin": edge.url}
        async with connect(f"ws://{edge.address}{STREAM}", additional_headers=headers, proxy=None) as socket:
            access.keys.withdraw(key.id)
            assert "API key" in await reason_of_close(socket)
        assert (await person.get(SIGN_IN)).status_code == 401
    store.close()


async def test_a_sign_in_has_the_scopes_of_its_key(tmp_path: Path) -> None:
    """No more than these."""
    store = Store(tmp_path)
    access = access_of(store, KeyConnections())
    _, text = access.keys.create("watcher", ("read",), access.keys.get("key-1").quotas, owner="admin")
    async with LiveAgent() as agent, serving(agent.link, access=access) as edge, browser(edge) as person:
        await signed_in(person, text)
        assert (await person.get(SIGN_IN)).json()["scopes"] == ["read"]
        assert (await person.get(f"/v1/sandboxes/{SANDBOX_ID}")).status_code == 200
        assert (await person.post(f"/v1/sandboxes/{SANDBOX_ID}/pause")).status_code == 403
        assert (await person.get("/v1/keys")).status_code == 403
    store.close()


async def test_failed_sign_ins_count_as_failed_attempts() -> None:
    """A right one is served all the same."""
    async with serving(access=access_of(None, KeyConnections(), failed=3)) as edge, browser(edge) as person:
        statuses = [(await person.post(SIGN_IN, json={"key": f"wrong-{n}"})).status_code for n in range(5)]
        assert statuses == [401, 401, 401, 429, 429]
        assert int((await person.post(SIGN_IN, json={"code": "x"})).headers["retry-after"]) > 0
        assert (await person.post(SIGN_IN, json={"key": API_KEY})).status_code == 200


# -- links ----------------------------------------


async def test_a_link_signs_in_once(edge: Edge, person: httpx.AsyncClient) -> None:
    """Its code is behind the #, which no browser sends."""
    async with edge.client() as client:
        answer = await client.post("/console/links")
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    place, _, code = answer.json()["url"].partition("/console/#code=")
    assert (place, len(code) > 30) == (edge.url.replace("127.0.0.1", "localhost"), True)
    first = await person.post(SIGN_IN, json={"code": code})
    assert (first.status_code, first.json()["name"]) == (200, "key-1")
    again = await person.post(SIGN_IN, json={"code": code})
    assert again.status_code == 401
    assert "sandlot console" in again.json()["message"]


async def test_who_has_signed_in_makes_no_links(person: httpx.AsyncClient) -> None:
    """A link would prolong a stolen sign-in."""
    await signed_in(person)
    answer = await person.post("/v1/console/links")
    assert (answer.status_code, answer.json()["code"]) == (403, "INSUFFICIENT_SCOPE")


async def test_strangers_make_no_links(edge: Edge) -> None:
    async with httpx.AsyncClient(base_url=edge.url) as client:
        assert (await client.post("/v1/console/links")).status_code == 401
        assert (await client.post("/console/links")).status_code == 405  # pages are there


# -- the logs, and a console that is off ----------------------------------------


async def test_the_audit_log_tells_who_signed_in(tmp_path: Path) -> None:
    """By the name of the key, and that the person came by the console. No code and no cookie stands there."""
    audit = Audit(tmp_path, "changes")
    async with serving(access=access_of(None, KeyConnections(), audit=audit)) as edge, browser(edge) as person:
        async with edge.client() as client:
            code = (await client.post("/console/links")).json()["url"].rpartition("=")[2]
        cookie = await signed_in(person)
        await person.post(SIGN_IN, json={"key": "wrong"})
        await person.delete(SIGN_IN)
    await audit.flush()
    text = (tmp_path / "audit" / "audit.jsonl").read_text()
    told = [
        (entry["operation"], entry.get("keyName"), entry.get("via"), entry["outcome"])
        for entry in map(json.loads, text.splitlines())
    ]
    assert told == [
        ("console.link", "key-1", None, "done"),
        ("console.sign_in", "key-1", "console", "done"),
        ("console.sign_in", None, None, "refused"),
        ("console.sign_out", "key-1", "console", "done"),
    ]
    assert code not in text
    assert cookie.partition("=")[2] not in text


async def test_the_console_can_be_off(tmp_path: Path) -> None:
    settings = ApiSettings(console_is_off="[console] enabled = false")
    async with serving(settings=settings) as edge, browser(edge) as person:
        answer = await person.post(SIGN_IN, json={"key": API_KEY})
        assert (answer.status_code, answer.json()["code"]) == (404, "CONSOLE_OFF")
        assert "[console] enabled" in answer.json()["message"]
        assert (await person.get("/console/", headers={"OPEN-SANDBOX-API-KEY": API_KEY})).status_code == 404
        assert (await person.get("/console/")).status_code == 401
        assert (await person.get("/", headers={"Accept": "text/html"})).json()["console"] == ""


async def test_a_service_has_a_second_lock(
    edge: Edge, person: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the first one open, a service would not hear of the request."""
    monkeypatch.setattr(origins, "_is_opened", lambda _: True)
    await signed_in(person)
    asked: list[str] = []

    async def hear(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response()

    async with application(web.get("/x", hear)) as port:
        for path in (f"{port}/x", f"44772/proxy/{port}/x"):
            answer = await person.get(f"/v1/sandboxes/{SANDBOX_ID}/proxy/{path}")
            assert (answer.status_code, answer.json()["code"]) == (403, "INSUFFICIENT_SCOPE")
    assert asked == []
