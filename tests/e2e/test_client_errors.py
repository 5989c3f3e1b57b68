"""Errors as the official SDKs tell them: the rows of the contract's tables, each provoked for real."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.server.serve import control_plane
from controlplane.settings.sections import PathSettings, SandboxSettings, ServerSettings, Settings
from tests.e2e.clients import IMAGES, TOURS
from tests.support.fakes.driver import FakeDriver
from tests.support.fakes.engine import FakeEngine
from tests.support.server.live_server import LiveServer

API_KEY = "sandlot_test_key"
RATE_LIMIT = """
import asyncio, json, sys
from opensandbox import Sandbox, SandboxSync
from opensandbox.exceptions import SandboxRateLimitException
async def main():
    try:
        if sys.argv[1] == "sync":
            SandboxSync.create("an/image")
        else:
            await Sandbox.create("an/image")
    except SandboxRateLimitException as error:
        return {"status": error.status_code, "code": error.error.code, "wait": error.retry_after.total_seconds(),
                "retryable": error.is_retryable, "has_id": bool(error.request_id), "message": str(error)}
print(json.dumps(asyncio.run(main())))
"""


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LiveServer, Path]]:
    """A server that allows as little as can be set, and the directory that volumes may be in."""
    allowed = tmp_path_factory.mktemp("allowed")
    limits = ("--max-snapshots", "1", "--max-contexts", "1", "--max-lifetime", "600", "--pull", "never")
    with LiveServer(["--pool-size", "1", *limits, "--allowed-host-paths", str(allowed)]) as live:
        yield live, allowed


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_every_row_of_the_tables_is_the_exception_it_names(
    kind: str, sdk: Path, narrow: tuple[LiveServer, Path]
) -> None:
    """Class, status, code and request id; and whether another try makes sense."""
    server, allowed = narrow
    done = subprocess.run(
        [sdk, TOURS / "error_tour.py", kind, IMAGES["warm"], str(server.pid), allowed],
        env=server.sdk_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-5000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {row: came for row, came in found.items() if came != "ok"} == {}, done.stderr[-5000:]


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_server_without_room_is_a_rate_limit(kind: str, sdk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """429 with Retry-After. The server is whole; only its engine is one in memory, whose containers never start."""
    monkeypatch.setattr("controlplane.lifecycle.creation.CREATE_TIMEOUT_S", 0.3)

    def make_driver(instance: str) -> FakeDriver:
        driver = FakeDriver(FakeEngine("an/image"), instance=instance)
        driver.slow_start = asyncio.Event()
        return driver

    with tempfile.TemporaryDirectory(prefix="sandlot-") as home:
        settings = Settings(
            server=ServerSettings(port=0, api_keys=(API_KEY,)),
            sandbox=SandboxSettings(image="an/image", pool_size=0),
            paths=PathSettings(state_dir=f"{home}/state", run_dir=f"{home}/run"),
        )
        async with control_plane(settings, make_driver, verify=lambda pid, container_id: True) as server:
            process = await asyncio.create_subprocess_exec(
                *(sdk, "-c", RATE_LIMIT, kind),
                env={"OPEN_SANDBOX_API_KEY": API_KEY, "OPEN_SANDBOX_DOMAIN": server.address},
                stdout=PIPE,
                stderr=PIPE,
            )
            out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    found = json.loads(out)
    assert "no container of an/image became ready" in found.pop("message")
    assert found == {
        "status": 429,
        "code": "KUBERNETES::POOL_CAPACITY_EXHAUSTED",
        "wait": 1.0,
        "retryable": True,
        "has_id": True,
    }
