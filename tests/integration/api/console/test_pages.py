"""The root and the pages of the console: how they are sent, and what their policy allows."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import httpx
import pytest

from controlplane.api.app import ApiSettings
from tests.support.server.api_server import API_KEY, Edge, serving
from tests.support.server.console import INDEX, SCRIPT, write_pages


@pytest.fixture
async def client(edge: Edge) -> httpx.AsyncClient:
    """A client without a key, which takes answers as they are."""
    return httpx.AsyncClient(base_url=edge.url, headers={"Accept-Encoding": "identity"})


async def test_the_front_door_tells_where_things_are(client: httpx.AsyncClient) -> None:
    """A browser goes to the console, a program learns it. Nobody needs a key for that."""
    async with client:
        told = await client.get("/", headers={"Accept": "*/*"})
        assert told.status_code == 200
        assert told.json()["name"] == "Sandlot"
        assert (told.json()["console"], told.json()["api"]) == ("/console/", "/v1")
        page = await client.get("/", headers={"Accept": "text/html,application/xhtml+xml"})
        assert (page.status_code, page.headers["location"]) == (303, "/console/")
        assert (await client.get("/console")).headers["location"] == "/console/"
        assert (await client.get("/favicon.ico")).status_code == 404


async def test_every_path_without_a_file_is_the_index(client: httpx.AsyncClient) -> None:
    """The pages have addresses of their own, which a reload asks for."""
    async with client:
        for path in ("/console/", "/console/index.html", "/console/sandboxes/x/terminal", "/console/sign-in"):
            answer = await client.get(path)
            assert (answer.status_code, answer.text) == (200, INDEX), path
            assert answer.headers["cache-control"] == "no-cache"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cross-origin-opener-policy"] == "same-origin"


async def test_the_policy_admits_our_scripts_alone(edge: Edge, client: httpx.AsyncClient) -> None:
    async with client:
        policy = (await client.get("/console/")).headers["content-security-policy"]
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"{edge.url}/console/assets/"
    assert rules["connect-src"] == f"'self' ws://{edge.address}"
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in rules["script-src"]


@pytest.mark.parametrize("host", ["a;script-src *", "a, default-src *", "a b", "[::1]:8194", "a'b"])
async def test_a_strange_host_writes_nothing_into_the_policy(client: httpx.AsyncClient, host: str) -> None:
    async with client:
        answer = await client.get("/console/", headers={"Host": host})
    if answer.status_code == 200:
        assert "script-src 'self';" in answer.headers["content-security-policy"]
        assert host not in answer.headers["content-security-policy"]


async def test_assets_are_kept_and_packed(client: httpx.AsyncClient) -> None:
    """Their names change with their contents."""
    async with client:
        for accepted, is_packed in (
            ("gzip", True),
            ("br, gzip;q=0.5", True),
            ("identity", False),
            ("gzip;q=0", False),
            ("gzip; q=0.000", False),
            ("x-gzip2", False),
        ):
            request = client.build_request("GET", "/console/assets/main.js", headers={"Accept-Encoding": accepted})
            answer = await client.send(request, stream=True)
            raw = b"".join([piece async for piece in answer.aiter_raw()])
            assert answer.headers.get("content-encoding") == ("gzip" if is_packed else None), accepted
            assert (gzip.decompress(raw) if is_packed else raw).decode() == SCRIPT
            assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
            assert "immutable" in answer.headers["cache-control"]
            assert "Accept-Encoding" in answer.headers["vary"]
        head = await client.head("/console/assets/main.js")
        assert (head.status_code, head.content) == (200, b"")
        assert (await client.get("/console/icon.svg")).headers["content-type"] == "image/svg+xml"


@pytest.mark.attack("edge", "a path of the console's pages leads out of their folder", "nothing outside is sent")
async def test_no_path_leads_out(client: httpx.AsyncClient, settings: ApiSettings) -> None:
    """An asset that is not there is no page, and never the index: a browser would take it for a script."""
    secret = settings.console_dist.parent / "secret.txt"
    secret.write_text("correct-horse")
    (settings.console_dist / "assets" / "link.js").symlink_to(secret)
    (settings.console_dist / "assets" / ".mark").write_text("correct-horse")
    os.utime(settings.console_dist / "index.html", ns=(1, 1))
    async with client:
        for path in (
            "/console/../secret.txt",
            "/console/%2e%2e/secret.txt",
            "/console/..%2fsecret.txt",
            "/console/assets/..%2f..%2fsecret.txt",
            "/console//etc/passwd",
            "/console/assets/link.js",
            "/console/assets/.mark",
            "/console/assets/missing.js",
            "/console/assets/",
            "/console/assets/main.js.gz",
            "/console/%00",
            "/console/assets/%0A",
        ):
            request = httpx.Request("GET", str(client.base_url).rstrip("/") + path)
            answer = await client.send(request)
            assert "correct-horse" not in answer.text, path
            assert "root:" not in answer.text, path
            assert answer.status_code == 404 if "/assets/" in path else answer.status_code in (200, 401, 404), path
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
            assert (await client.request(method, "/console/")).status_code == 405


async def test_pages_may_be_built_while_the_server_runs(tmp_path: Path) -> None:
    dist = tmp_path / "later"
    async with (
        serving(settings=ApiSettings(console_dist=dist)) as edge,
        httpx.AsyncClient(base_url=edge.url) as client,
    ):
        before = await client.get("/console/")
        assert before.status_code == 503
        assert "sandlot images build console" in before.text
        assert before.headers["content-type"].startswith("text/plain")
        assert before.headers["refresh"] == "5"  # whoever waits for the pages sees them when they are there
        write_pages(dist)
        assert (await client.get("/console/")).text == INDEX
        (dist / "assets" / "more.js").write_text("1")
        os.replace(dist / "index.html", dist / "index.old")
        (dist / "index.html").write_text("new")
        assert (await client.get("/console/")).text == "new"
        assert (await client.get("/console/assets/more.js")).text == "1"


async def test_all_answers_of_ours_are_what_they_say(edge: Edge, client: httpx.AsyncClient) -> None:
    """No browser takes JSON for a page, whatever names it holds."""
    key = {"OPEN-SANDBOX-API-KEY": API_KEY}
    async with client:
        for path, headers in (
            ("/v1/sandboxes", key),
            ("/v1/sandboxes", {}),
            ("/v1/sandboxes/x", key),
            ("/nowhere", key),
            ("/", {}),
            ("/health", {}),
            ("/version", {}),
            ("/metrics", key),
            ("/console/assets/main.js", {}),
            ("/console/assets/missing.js", {}),
            (edge.proxy.removeprefix(edge.url) + "/44772/ping", key),
            (edge.proxy.removeprefix(edge.url) + "/1/", key),
        ):
            answer = await client.get(path, headers=headers)
            assert answer.headers.get_list("x-content-type-options")[0] == "nosniff", path
