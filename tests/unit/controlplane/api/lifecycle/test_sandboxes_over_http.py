"""What the edge says of sandboxes that are deleted or have ended, over the real lifecycle with agents of the test."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from controlplane.errors import EngineUnavailable, RuntimeFailure
from controlplane.sandbox import Sandbox, SnapshotState, State
from controlplane.server.composition import ControlPlane
from tests.support.fakes.agents import AgentEngine
from tests.support.server.api_routes import make_any_app, routes_of
from tests.support.server.application import application
from tests.support.server.control_plane import Home, a_request, until

# Of these, the answer is the same for every sandbox: what this server does not do.
REFUSALS = {"policy.change", "egress.change", "vault.refuse", "vault.create", "isolation.diff", "isolation.commit"}
# A run is found before its sandbox; and a query that is wrong in itself is refused as such.
NEEDS_MORE = {"run.resume"}
VALUES = {"port": "8080", "rest": "x", "kind": "events", "run_id": "r", "uid": "0", "gid": "0"}
QUERY = {"path": "/x", "id": "x", "pattern": "*", "language": "python"}


@pytest.fixture
async def client(plane: ControlPlane) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the API key."""
    app = application(plane)
    key = {"OPEN-SANDBOX-API-KEY": plane.made_key}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here", headers=key) as client:
        yield client


def questions() -> list[tuple[str, str, str]]:
    """Return operation, method and path of everything that can be asked of a sandbox."""
    return [
        (route.name, method, path)
        for path, route in routes_of(make_any_app())
        if "{sandbox_id}" in path and "/signed/" not in path and route.name not in REFUSALS | NEEDS_MORE
        for method in sorted((route.methods or set()) - {"HEAD", "OPTIONS"})
    ]


BODIES: dict[str, Any] = {
    "sandbox.renew": {"expiresAt": "2100-01-01T00:00:00Z"},
    "command.run": {"command": "true"},
    "code.run": {"code": "1", "context": {"language": "python"}},
    "code.input": {"text": "x"},
    "session.run": {"command": "true"},
    "isolation.create": {"workspace": {"path": "/tmp"}},
    "isolation.run": {"command": "true", "code": "true"},
    "context.create": {"language": "python"},
    "sandbox.context": {"language": "python"},
    "context.complete": {"code": "x"},
    "context.inspect": {"code": "x"},
    "context.fork": {},
    "file.move": [{"src": "/a", "dest": "/b"}],
    "file.change": {"/a": {"mode": 644}},
    "file.replace": {"/a": {"old": "x", "new": "y"}},
    "directory.make": {"/a": {"mode": 755}},
    "sandbox.metadata": {"a": "b"},
}


@pytest.mark.parametrize(("operation", "method", "path"), questions())
async def test_nobody_finds_a_sandbox_whose_delete_was_answered(
    operation: str, method: str, path: str, home: Home, plane: ControlPlane, client: httpx.AsyncClient
) -> None:
    """404 by every operation, although its container is still being removed; and no list has it."""
    sandbox = await plane.sandboxes.create(a_request())
    home.driver.hold_destroy = asyncio.Event()
    assert (await client.delete(f"/v1/sandboxes/{sandbox.id}")).status_code == 204
    assert plane.sandboxes.statistics().by_state[State.STOPPING] == 1

    url = path.replace("{sandbox_id}", sandbox.id)
    url = re.sub(r"\{(\w+)\}", lambda match: VALUES.get(match[1], "x"), url)
    files = {"metadata": ("m", b'{"path": "/a"}'), "file": ("f", b"x")} if operation == "file.upload" else None
    answer = await client.request(method, url, params=QUERY, json=BODIES.get(operation), files=files)

    assert (answer.status_code, answer.json()["code"]) == (404, "DOCKER::SANDBOX_NOT_FOUND"), answer.text
    assert (await client.get("/v1/sandboxes")).json()["items"] == []
    home.driver.hold_destroy.set()


async def end(plane: ControlPlane, engine: AgentEngine, code: int) -> Sandbox:
    """Return a sandbox whose entrypoint has ended."""
    sandbox = await plane.sandboxes.create(a_request())
    engine.agents[sandbox.id].exit(code)
    await until(lambda: plane.sandboxes.get(sandbox.id).state in (State.TERMINATED, State.FAILED))
    return plane.sandboxes.get(sandbox.id)


@pytest.mark.parametrize(("code", "state"), [(0, "Terminated"), (3, "Failed")])
async def test_a_client_that_waits_for_a_sandbox_that_has_ended_hears_the_reason_at_once(
    code: int, state: str, plane: ControlPlane, engine: AgentEngine, client: httpx.AsyncClient
) -> None:
    """By the statuses that end its waiting: 403 to a ping, and no address at all."""
    sandbox = await end(plane, engine, code)
    status = (await client.get(f"/v1/sandboxes/{sandbox.id}")).json()["status"]
    assert (status["state"], status["message"]) == (state, f"the entrypoint ended: exit, exit code {code}")
    reason = f"is {state}, not Running ({status['reason']}: {status['message']})"
    ping = await client.get(f"/v1/sandboxes/{sandbox.id}/proxy/44772/ping")
    assert (ping.status_code, ping.json()["code"]) == (403, "DOCKER::SANDBOX_NOT_RUNNING")
    assert reason in ping.json()["message"]
    for port in (44772, 18080, 8080):
        answer = await client.get(f"/v1/sandboxes/{sandbox.id}/endpoints/{port}")
        assert (answer.status_code, answer.json()["code"]) == (404, "DOCKER::SANDBOX_NOT_RUNNING")
        assert reason.replace(", not Running", "") in answer.json()["message"]
    run = await client.post(f"/v1/sandboxes/{sandbox.id}/proxy/44772/command", json={"command": "true"})
    assert (run.status_code, run.json()["code"]) == (409, "DOCKER::SANDBOX_NOT_RUNNING")
    assert reason in run.json()["message"]


async def test_a_paused_sandbox_keeps_its_addresses(plane: ControlPlane, client: httpx.AsyncClient) -> None:
    """It will go on; a ping says that it does not answer now, and a client goes on asking."""
    sandbox = await plane.sandboxes.create(a_request())
    await plane.pauses.pause(sandbox.id)
    assert (await client.get(f"/v1/sandboxes/{sandbox.id}/endpoints/44772")).status_code == 200
    ping = await client.get(f"/v1/sandboxes/{sandbox.id}/proxy/44772/ping")
    assert (ping.status_code, ping.json()["code"]) == (409, "DOCKER::SANDBOX_NOT_RUNNING")


@pytest.mark.parametrize("secure", [True, False, None])
async def test_with_secure_access_every_port_names_its_token_by_the_same_header(
    secure: bool | None, client: httpx.AsyncClient
) -> None:
    """Beside the one that a port has anyway. It is one token, and opens what the other header opens."""
    body = {"image": {"uri": "fake/image"}, "entrypoint": ["true"], "secureAccess": secure}
    sandbox_id = (await client.post("/v1/sandboxes", json=body)).json()["id"]
    own = {44772: "X-EXECD-ACCESS-TOKEN", 18080: "OPENSANDBOX-EGRESS-AUTH", 8080: "OpenSandbox-Secure-Access"}
    tokens = set()
    for port, name in own.items():
        headers = (await client.get(f"/v1/sandboxes/{sandbox_id}/endpoints/{port}")).json()["headers"]
        assert set(headers) == ({name, "OpenSandbox-Secure-Access"} if secure else {name})
        tokens |= set(headers.values())
    (token,) = tokens
    del client.headers["OPEN-SANDBOX-API-KEY"]
    ping = f"/v1/sandboxes/{sandbox_id}/proxy/44772/ping"
    assert (await client.get(ping)).status_code == 401
    for name in own.values():
        assert (await client.get(ping, headers={name: token})).status_code == 200


async def test_no_words_of_the_engine_reach_a_client(
    home: Home, plane: ControlPlane, client: httpx.AsyncClient
) -> None:
    """They name paths and programs of its host. The log has them, by the request's id."""
    sandbox = await plane.sandboxes.create(a_request())
    home.driver.fail_pause = EngineUnavailable("runc: /var/lib/docker", public="cannot pause the container: too busy")
    home.driver.fail_commit = RuntimeFailure("write /var/lib/docker: no space left", public="no space is left")
    with capture_logs() as logs:
        answer = await client.post(f"/v1/sandboxes/{sandbox.id}/pause")
        snapshot = (await client.post(f"/v1/sandboxes/{sandbox.id}/snapshots")).json()
        await until(lambda: plane.snapshots.get(snapshot["id"]).state is SnapshotState.FAILED)
        status = (await client.get(f"/v1/snapshots/{snapshot['id']}")).json()["status"]
    assert (answer.status_code, answer.json()) == (
        500,
        {"code": "DOCKER::SANDBOX_PAUSE_FAILED", "message": "cannot pause the container: too busy"},
    )
    assert (status["reason"], status["message"]) == ("snapshot_runtime_failed", "no space is left")
    assert "runc: /var/lib/docker" in [entry["error"] for entry in logs if entry["event"] == "request.failed"]


async def test_a_snapshot_says_why_it_is_in_its_state(plane: ControlPlane, client: httpx.AsyncClient) -> None:
    """By upstream's words, with the moment in which it came into it; and in lists as well."""
    sandbox = await plane.sandboxes.create(a_request())
    made = (await client.post(f"/v1/sandboxes/{sandbox.id}/snapshots")).json()
    assert (made["status"]["state"], made["status"]["reason"]) == ("Creating", "snapshot_accepted")
    assert made["status"]["message"] == "Snapshot creation accepted."
    await until(lambda: plane.snapshots.get(made["id"]).state is SnapshotState.READY)
    ready = (await client.get(f"/v1/snapshots/{made['id']}")).json()
    assert (ready["status"]["state"], ready["status"]["reason"]) == ("Ready", "snapshot_runtime_ready")
    assert ready["status"]["message"]
    assert ready["status"]["lastTransitionAt"] >= made["status"]["lastTransitionAt"]
    assert (await client.get("/v1/snapshots")).json()["items"] == [ready]

    restored = (await client.post("/v1/sandboxes", json={"snapshotId": made["id"]})).json()
    answer = await client.delete(f"/v1/snapshots/{made['id']}")
    assert (answer.status_code, answer.json()["code"]) == (409, "SNAPSHOT::DELETE_CONFLICT")
    assert restored["id"] in answer.json()["message"]
    assert (await client.delete(f"/v1/sandboxes/{restored['id']}")).status_code == 204
    assert (await client.delete(f"/v1/snapshots/{made['id']}")).status_code == 204
    assert (await client.get(f"/v1/snapshots/{made['id']}")).status_code == 404


@pytest.mark.parametrize("state", State)
async def test_every_state_has_a_reason_and_a_message(
    state: State, plane: ControlPlane, client: httpx.AsyncClient
) -> None:
    """Also in records of earlier releases, which kept none for a sandbox that runs."""
    sandbox = await plane.sandboxes.create(a_request())
    plane.registry.put(replace(sandbox, state=state, reason="", message=""))
    status = (await client.get(f"/v1/sandboxes/{sandbox.id}")).json()["status"]
    assert status.keys() == {"state", "reason", "message", "lastTransitionAt"}
    assert re.fullmatch("CONTAINER_[A-Z_]+", status["reason"])
    assert status["message"]
