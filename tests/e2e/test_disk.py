"""Sandboxes that fill the disk of a real server's engine."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support.server.live_server import LiveServer

WRITES = "head -c 200000000 /dev/zero > /tmp/large"
MAKES = "mkdir /tmp/many && cd /tmp/many && seq 15000 | xargs touch"
LIMITS = ["--disk-limit", str(100 << 10), "--file-limit", "5000"]


def sandbox_that(server: LiveServer, does: str) -> str:
    """Create one; return its id when it has done that, or was ended for it."""
    script = f"echo began; {does}; echo over; exec sleep inf"
    body = {"image": {"uri": "sandlot/base"}, "entrypoint": ["sh", "-c", script], "timeout": 300}
    sandbox_id: str = server.request("POST", "/v1/sandboxes", body)["id"]
    return sandbox_id


def status_of(server: LiveServer, sandbox_id: str) -> dict[str, Any]:
    found: dict[str, Any] = server.request("GET", f"/v1/sandboxes/{sandbox_id}")["status"]
    return found


def wait_for_end(server: LiveServer, sandbox_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 150
    while (status := status_of(server, sandbox_id))["state"] == "Running":
        assert time.monotonic() < deadline, status
        time.sleep(0.1)
    return status


@pytest.mark.attack(
    "resources",
    "a sandbox writes more than it may have, or makes more files, on the real engine",
    "it is Failed with the reason DISK_LIMIT, its container is gone, and its neighbour goes on",
)
def test_who_takes_too_much_is_ended() -> None:
    """Without the limits, the same goes on."""
    with LiveServer(["--pool-size", "0", *LIMITS]) as server:
        neighbour = sandbox_that(server, "true")
        large, many = sandbox_that(server, WRITES), sandbox_that(server, MAKES)
        for sandbox_id, cause in ((large, "disk_limit"), (many, "file_limit")):
            status = wait_for_end(server, sandbox_id)
            assert (status["state"], status["reason"]) == ("Failed", "DISK_LIMIT")
            assert cause in status["message"]
        deadline = time.monotonic() + 150
        while len(server.containers()) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert status_of(server, neighbour)["state"] == "Running"

    with LiveServer(["--pool-size", "0", "--disk-limit", "0", "--file-limit", "0"]) as server:
        sandbox_id = sandbox_that(server, f"{WRITES}; {MAKES}")
        read = f"/v1/sandboxes/{sandbox_id}/proxy/44772/files/search?path=/tmp/many&pattern=14999"
        deadline = time.monotonic() + 150
        while True:
            try:
                if server.request("GET", read):
                    break
            except OSError:  # the directory is not there yet
                pass
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert status_of(server, sandbox_id)["state"] == "Running"
