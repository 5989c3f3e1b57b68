"""What holds for every route: flat errors, request ids, keys, and both spellings of a path."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from controlplane.api.app import ApiSettings
from controlplane.errors import CapacityExhausted, InvalidRequest
from tests.support.server.api_server import API_KEY, SANDBOX_ID, Edge, serving, serving_agent

KEY = {"OPEN-SANDBOX-API-KEY": API_KEY}


def assert_flat(response: httpx.Response) -> None:
    """Check what must be true of every error."""
    assert response.status_code >= 400
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"code", "message"}
    assert response.headers["x-request-id"]


async def ask(edge: Edge, method: str, path: str, **options: Any) -> httpx.Response:
    """Ask once, with the key."""
    async with httpx.AsyncClient(base_url=edge.url, headers=KEY) as client:
        return await client.request(method, path, **options)


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_health_and_version_need_no_key(prefix: str) -> None:
    """With and without /v1."""
    async with serving() as edge, httpx.AsyncClient(base_url=edge.url) as client:
        health, version = await client.get(f"{prefix}/health"), await client.get(f"{prefix}/version")

    assert (health.status_code, health.json()) == (200, {"status": "healthy"})
    assert version.json()["version"]


async def test_health_says_when_the_server_is_not_ready() -> None:
    """503, and flat like every error."""
    async with serving(is_ready=lambda: False) as edge:
        response = await ask(edge, "GET", "/health")

    assert response.status_code == 503
    assert_flat(response)


NOTHING_THERE = (
    ("GET", "/docs", 404),
    ("GET", "/v1/nothing", 404),
    ("GET", "/v1/sandboxes/", 404),
    ("POST", "/v2/sandboxes", 404),
    ("GET", f"/v1/sandboxes/{SANDBOX_ID}/proxy/44772/nothing", 404),
    ("GET", f"/v1/sandboxes/{SANDBOX_ID}/proxy/18080/nothing", 404),
    ("PUT", "/v1/sandboxes", 405),
    ("POST", "/health", 405),
    ("GET", f"/v1/sandboxes/{SANDBOX_ID}/proxy/44772/command", 405),
    ("TRACE", f"/v1/sandboxes/{SANDBOX_ID}", 405),
    ("GET", "/v1/sandboxes/%00", 404),
    ("GET", "/v1/sandboxes/..%2f..%2fetc", 404),
    ("GET", "/v1/sandboxes/a%0ab", 404),
)

NOT_SERVED_YET = (
    ("PUT", "sandboxes/x/networkpolicy", 400),
    ("POST", "templates", 501),
    ("GET", "templates/t", 501),
    ("GET", "pools", 501),
    ("PUT", "pools/p", 501),
    ("GET", "sandboxes/x/proxy/44772/v1/isolated/session/y/diff", 503),
    ("PATCH", "sandboxes/x/proxy/18080/policy", 400),
    ("GET", "sandboxes/x/proxy/18080/credential-vault", 404),
    ("POST", "sandboxes/x/proxy/18080/credential-vault", 400),
)


async def test_no_framework_page_ever() -> None:
    """Unknown paths, wrong methods, hostile paths."""
    async with serving() as edge:
        for method, path, status in NOTHING_THERE:
            response = await ask(edge, method, path)

            assert response.status_code == status, path
            assert_flat(response)
            assert status != 405 or response.headers["allow"]


async def test_what_is_not_served_yet_says_so() -> None:
    """A flat error with a status that the contract has for it, with and without /v1."""
    async with serving() as edge:
        for method, path, status in NOT_SERVED_YET:
            for prefix in ("/", "/v1/"):
                response = await ask(edge, method, prefix + path)

                assert response.status_code == status, path
                assert_flat(response)
                assert "does not support" in response.json()["message"]


async def test_everything_else_needs_a_key() -> None:
    """401 before anything else is looked at, known path or not; both ways to bring a key."""
    async with serving() as edge, httpx.AsyncClient(base_url=edge.url) as client:
        for path in ("/v1/sandboxes", "/sandboxes/x", "/nothing", "/metrics", "/v1/sandboxes/x/proxy/44772/ping"):
            missing = await client.get(path)
            wrong = await client.get(path, headers={"OPEN-SANDBOX-API-KEY": API_KEY + "x"})
            basic = await client.get(path, headers={"Authorization": "Basic x"})

            assert [missing.status_code, wrong.status_code, basic.status_code] == [401, 401, 401]
            assert (missing.json()["code"], wrong.json()["code"]) == ("MISSING_API_KEY", "INVALID_API_KEY")
            assert_flat(missing)
        for headers in (KEY, {"Authorization": f"bearer {API_KEY}"}):
            assert (await client.get("/v1/sandboxes", headers=headers)).status_code == 200


async def test_a_sandbox_token_opens_no_more_than_its_sandbox() -> None:
    """Not the lifecycle API, not the sandbox's own record, not another sandbox's endpoint."""
    async with serving() as edge, httpx.AsyncClient(base_url=edge.url) as client:
        for path in (
            "/v1/sandboxes",
            f"/v1/sandboxes/{SANDBOX_ID}",
            "/v1/sandboxes/other/proxy/44772/ping",
            "/metrics",
        ):
            for name in ("X-EXECD-ACCESS-TOKEN", "OpenSandbox-Secure-Access", "OPEN-SANDBOX-API-KEY"):
                assert (await client.get(path, headers={name: edge.token})).status_code == 401


async def test_metrics_are_prometheus_text_behind_a_key_unless_opened() -> None:
    """The given registry, in its format."""
    async with serving() as edge:
        closed = await ask(edge, "GET", "/metrics")
    async with serving(settings=ApiSettings(open_metrics=True)) as edge, httpx.AsyncClient(base_url=edge.url) as client:
        opened = await client.get("/metrics")

    assert closed.headers["content-type"].startswith("text/plain")
    assert opened.status_code == 200


async def test_request_ids_are_echoed_if_sane_and_made_if_not() -> None:
    """On answers and errors alike."""
    async with serving() as edge:
        echoed = await ask(edge, "GET", "/health", headers={"X-Request-ID": "mine-1.2:3"})
        failed = await ask(edge, "GET", "/v1/nothing", headers={"X-Request-ID": "mine"})
        insane = await ask(edge, "GET", "/health", headers={"X-Request-ID": 'x"<script>'})
        first, second = await ask(edge, "GET", "/health"), await ask(edge, "GET", "/health")

    assert (echoed.headers["x-request-id"], failed.headers["x-request-id"]) == ("mine-1.2:3", "mine")
    assert len(insane.headers["x-request-id"]) == 32
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


async def test_a_bug_is_a_flat_500_without_its_details() -> None:
    """They stand in the log, with the request id that the client got."""
    async with serving() as edge:
        edge.sandboxes.list = lambda: 1 // 0  # type: ignore[method-assign]
        with capture_logs() as logs:
            response = await ask(edge, "GET", "/v1/sandboxes", headers={"X-Request-ID": "abc"})

    assert (response.status_code, response.json()["code"]) == (500, "GENERAL::UNKNOWN_ERROR")
    assert_flat(response)
    assert "Zero" not in response.text
    crashed = next(entry for entry in logs if entry["event"] == "request.crashed")
    assert crashed["exc_info"]
    assert next(entry for entry in logs if entry["event"] == "request")["status"] == 500


async def test_one_line_in_the_access_log_without_query_strings() -> None:
    """Reads are debug, changes and errors are info."""
    async with serving() as edge:
        with capture_logs() as logs:
            await ask(edge, "GET", "/v1/sandboxes?metadata=secret%3Dx")
            await ask(edge, "DELETE", "/v1/sandboxes/x")

    lines = [entry for entry in logs if entry["event"] == "request"]
    assert [(line["log_level"], line["method"], line["status"]) for line in lines] == [
        ("debug", "GET", 200),
        ("info", "DELETE", 404),
    ]
    assert "secret" not in str(logs)


async def test_a_refusal_is_told_whole_in_the_access_log() -> None:
    """Code, reason, client, the name of the key, and the sandbox; no secret, right or wrong."""
    async with serving_agent({}) as edge:
        place = f"/v1/sandboxes/{SANDBOX_ID}"
        with capture_logs() as logs:
            await ask(edge, "GET", "/v1/sandboxes/nobody")
            await ask(edge, "POST", "/v1/sandboxes", json={"image": {"uri": "x"}})
            await ask(edge, "GET", place, headers={"OPEN-SANDBOX-API-KEY": "wrong-secret"})
            async with edge.execd() as client:
                await client.get("/no/such/path")

    lines = [entry for entry in logs if entry["event"] == "request"]
    assert {line["client"].partition(":")[0] for line in lines} == {"127.0.0.1"}
    told = [{name: line.get(name) for name in ("status", "code", "reason", "key", "sandbox")} for line in lines]
    assert told == [
        {
            "status": 404,
            "code": "DOCKER::SANDBOX_NOT_FOUND",
            "reason": "there is no sandbox nobody",
            "key": "key-1",
            "sandbox": "nobody",
        },
        {
            "status": 400,
            "code": "DOCKER::INVALID_ENTRYPOINT",
            "reason": "entrypoint: is required together with image, and needs at least one item",
            "key": "key-1",
            "sandbox": None,
        },
        {
            "status": 401,
            "code": "INVALID_API_KEY",
            "reason": "the API key or token is wrong",
            "key": None,
            "sandbox": SANDBOX_ID,
        },
        {
            "status": 404,
            "code": "NOT_FOUND",
            "reason": f"there is nothing at {place}/proxy/44772/no/such/path",
            "key": "token",
            "sandbox": SANDBOX_ID,
        },
    ]
    for secret in (API_KEY, "wrong-secret", edge.token):
        assert secret not in str(logs)


@pytest.mark.parametrize("mistyped", ["/{}", "{} ", "{}%0A", "/x{}", "{}/%0A/y"])
@pytest.mark.parametrize("headers", [{}, KEY])
async def test_the_access_log_has_no_signature_of_a_mistyped_address(mistyped: str, headers: dict[str, str]) -> None:
    """Copied with a slash or a line end too many, it opens nothing, but what is in it still does."""
    async with serving() as edge, httpx.AsyncClient(base_url=edge.url) as client:
        expires, signature = edge.sign(8080, int(time.time()) + 60)
        path = f"/v1/sandboxes/{SANDBOX_ID}/signed/8080/{expires}/{signature}"
        with capture_logs() as logs:
            await client.get(edge.url + mistyped.format(path), headers=headers)

    assert [entry["event"] for entry in logs] == ["request"]
    assert signature not in str(logs)


async def test_a_reason_in_the_access_log_has_a_bound() -> None:
    """A client decides how long some messages are."""
    async with serving() as edge:
        edge.creation.fails_with = InvalidRequest("x" * 10_000)
        body = {"image": {"uri": "x"}, "entrypoint": ["y"]}
        with capture_logs() as logs:
            await ask(edge, "POST", "/v1/sandboxes", json=body)
    (line,) = [entry for entry in logs if entry["event"] == "request"]
    assert line["reason"] == "x" * 500


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_readiness_is_told_with_its_reason(prefix: str) -> None:
    """Needs no key; health, which is liveness, does not look at it."""
    for is_ready, reason, expected in (
        (True, "", (200, {"status": "ready"})),
        (True, "no image", (503, {"code": "SERVER_NOT_READY", "message": "no image"})),
        (False, "", (503, {"code": "SERVER_NOT_READY", "message": "the container engine does not answer"})),
    ):
        async with (
            serving(is_ready=lambda: is_ready, why_not_ready=lambda: reason) as edge,  # noqa: B023 - within the block
            httpx.AsyncClient(base_url=edge.url) as client,
        ):
            answer = await client.get(f"{prefix}/ready")
            health = await client.get(f"{prefix}/health")
        assert (answer.status_code, answer.json()) == expected
        assert health.status_code == (200 if is_ready else 503)


async def test_no_room_is_429_with_the_time_to_wait() -> None:
    """Retry-After, which the SDKs honour."""
    async with serving() as edge:
        edge.creation.fails_with = CapacityExhausted("too many", retry_after_s=7)
        body = {"image": {"uri": "x"}, "entrypoint": ["y"]}
        response = await ask(edge, "POST", "/v1/sandboxes", json=body)

    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert response.json()["code"] == "KUBERNETES::POOL_CAPACITY_EXHAUSTED"


async def test_ping_is_the_sandbox_s_state_and_its_agent_s_presence() -> None:
    """200 for one that can be used, 404 for none."""
    async with serving_agent({}) as edge, edge.execd() as client:
        assert (await client.get("/ping")).status_code == 200
        gone = await ask(edge, "GET", f"/sandboxes/{'f' * 16}/proxy/44772/ping")

    assert (gone.status_code, gone.json()["code"]) == (404, "DOCKER::SANDBOX_NOT_FOUND")
