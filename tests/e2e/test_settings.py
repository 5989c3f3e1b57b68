"""The real server, started with settings as an operator writes them."""

from __future__ import annotations

import contextlib
import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server.live_server import LiveServer, engine_request

BRIEF = """
[server]
host = "0.0.0.0"
port = 8194

[sandbox]
pool_size = 5
cpu_quota = 2
memory_limit = 524288
timeout_seconds = 300
max_lifetime = 21600
allow_network = true

[[pools]]
name = "small"
image = "sandlot/python"
size = 1
cpu_quota = 0.5
memory_limit = 262144
allow_network = false
when_exhausted = "refuse"
"""
CREATE = {"image": {"uri": "sandlot/python"}, "entrypoint": ["sleep", "inf"]}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """With the file of the product brief, and its variables, on a free port; and a pool by name."""
    file: Path = tmp_path_factory.mktemp("settings") / ".sandbox.toml"
    file.write_text(BRIEF)
    environment = {"SANDBOX_CPU_QUOTA": "2", "SANDBOX_MEMORY_LIMIT": "524288", "SANDBOX_ALLOW_NETWORK": "true"}
    with LiveServer(["--config", str(file), "--pool-size", "2"], environment) as server:
        yield server


def answer(server: LiveServer, method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Send a request; return status and JSON, also of a refusal."""
    try:
        return 200, server.request(method, path, body)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def limits_of(server: LiveServer, sandbox_id: str) -> tuple[float, int, str]:
    """CPUs, memory in bytes and network mode of a sandbox's container, as the engine has them."""
    (container,) = engine_request("GET", f'/containers/json?filters={{"label":["sandlot.sandbox={sandbox_id}"]}}')
    config = engine_request("GET", f"/containers/{container['Id']}/json")["HostConfig"]
    return config["CpuQuota"] / config["CpuPeriod"], config["Memory"], config["NetworkMode"]


def test_the_settings_of_the_brief_hold(server: LiveServer) -> None:
    """Two CPUs, half a GiB, a network, five minutes a command, six hours a sandbox; and a key was made."""
    assert server.key.startswith("sandlot_")
    assert server.address.startswith("http://0.0.0.0:")
    created = server.request("POST", "/v1/sandboxes", CREATE)
    cpus, memory, network = limits_of(server, created["id"])
    assert (cpus, memory) == (2, 512 << 20)
    assert network == "sandlot"
    status, refused = answer(server, "POST", "/v1/sandboxes", CREATE | {"timeout": 21601})
    assert (status, refused["code"]) == (400, "DOCKER::INVALID_EXPIRATION")
    assert "at most 21600 s from its creation" in refused["message"]
    server.request("DELETE", f"/v1/sandboxes/{created['id']}")


def test_more_than_the_machine_is_refused(server: LiveServer) -> None:
    """10Ti and 900 CPUs exist nowhere."""
    for resource, amount in (("cpu", "900"), ("memory", "10Ti")):
        status, refused = answer(server, "POST", "/v1/sandboxes", CREATE | {"resourceLimits": {resource: amount}})
        assert (status, refused["code"]) == (400, "SANDBOX::INVALID_PARAMETER")
        assert f"resourceLimits.{resource}: a sandbox may have at most" in refused["message"]


def test_a_pool_by_name(server: LiveServer) -> None:
    """Its container with its limits; then it is exhausted, which is said; a name that nobody configured is refused."""
    body = {"extensions": {"poolRef": "small"}, "resourceLimits": {"cpu": "1", "memory": "2Gi"}}
    created = server.request("POST", "/v1/sandboxes", body)
    assert limits_of(server, created["id"]) == (0.5, 256 << 20, "none")
    shown = server.request("GET", f"/v1/sandboxes/{created['id']}")
    assert shown["allocation"] == {"mode": "pool", "poolRef": "small", "state": "allocated"}
    assert shown["image"] == {"uri": "sandlot/python"}
    status, exhausted = answer(server, "POST", "/v1/sandboxes", body)
    assert (status, exhausted["code"]) == (429, "KUBERNETES::POOL_CAPACITY_EXHAUSTED")
    status, unknown = answer(server, "POST", "/v1/sandboxes", {"extensions": {"poolRef": "large"}})
    assert (status, unknown["code"]) == (400, "KUBERNETES::POOL_NOT_FOUND")
    assert "there are: default, small" in unknown["message"]
    server.request("DELETE", f"/v1/sandboxes/{created['id']}")


def test_what_a_machine_reads_of_the_start(server: LiveServer) -> None:
    """The key that was made stands in no pipe and no log; events are JSON where logs are."""
    assert server.key not in "\n".join(server.lines) + server.log
    events = {event["event"]: event for event in map(json.loads, server.log.splitlines())}
    assert events["server.listening"]["address"] == server.address
    assert events["server.ready"]["warm"] == 3


def test_a_pool_whose_image_is_missing_is_told_once() -> None:
    """On the terminal, in the log with one line a round, and by the readiness answer; the server is healthy."""
    server = LiveServer(["--image", "sandlot/no-such-image", "--pool-size", "4"])
    with contextlib.ExitStack() as stack:
        stack.push(server.__exit__)
        server.start(until="not ready: ")
        assert "no warm container of sandlot/no-such-image: the engine has no image" in server.lines[-1]
        status, reason = answer(server, "GET", "/ready")
        assert (status, reason["code"]) == (503, "SERVER_NOT_READY")
        assert "the engine has no image sandlot/no-such-image" in reason["message"]
        assert answer(server, "GET", "/health") == (200, {"status": "healthy"})
