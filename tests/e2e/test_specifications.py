"""Schemathesis, from the specifications, against a live server: no 5xx, nothing that they do not say."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live_server import ROOT, LiveServer, python_with

PACKAGES = ("schemathesis==4.32.5",)
CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = "10"  # of each operation, beside those at the borders of every parameter
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "unsupported_method",
    "allow_header_conformance",
)


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A server of its own, which asks no registry for images of random names."""
    with LiveServer(["--pool-size", "1", "--pull", "never", "--allow-user-namespaces", "true"]) as live:
        yield live


@pytest.fixture(scope="module")
def base(server: LiveServer) -> str:
    """The address of a sandbox's ports, but for the port."""
    body = {
        "image": {"uri": "sandlot/python"},
        "timeout": 3600,
        "resourceLimits": {"cpu": "1", "memory": "512Mi"},
        "entrypoint": ["sleep", "infinity"],
        "extensions": {"bootstrap.execd.isolation": "enable"},
    }
    sandbox = server.request("POST", "/v1/sandboxes", body)
    return f"{server.address}/v1/sandboxes/{sandbox['id']}/proxy"


@pytest.mark.parametrize(("name", "port"), [("lifecycle", 0), ("execd", 44772), ("egress", 18080)])
def test_the_server_is_as_specified(name: str, port: int, server: LiveServer, base: str) -> None:
    """Hundreds of requests for each, good ones and bad ones. The seed is fixed: what fails today fails tomorrow."""
    done = subprocess.run(
        [
            *(python_with("schemathesis", PACKAGES).with_name("st"), "--config-file", CONFIG),
            *("run", ROOT / "specs" / f"{name}.openapi.yaml"),
            *("--url", f"{base}/{port}" if port else f"{server.address}/v1"),
            *("--header", f"OPEN-SANDBOX-API-KEY: {server.key}"),
            *("--checks", ",".join(CHECKS)),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES, "--seed", "1"),
            *("--request-timeout", "20", "--continue-on-failure", "--warnings", "off"),
            *("--suppress-health-check", "all"),
        ],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        cwd=server.directory,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:] + server.log[-2000:]
