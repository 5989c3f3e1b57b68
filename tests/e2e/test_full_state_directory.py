"""A real server whose state directory has no room left."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server.live_server import LiveServer

CREATE = {"image": {"uri": "sandlot/base"}, "entrypoint": ["sleep", "inf"], "timeout": 600}


@pytest.fixture
def server() -> Iterator[LiveServer]:
    """A server, not started yet, with a small disk for its state."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    server = LiveServer(["--pool-size", "0"])
    state = server.directory / "state"
    state.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", state], check=True)
    try:
        yield server
    finally:
        try:
            server.end()
        finally:
            subprocess.run(["umount", "--lazy", state], check=True)
            server.remove()


def fill(state: Path) -> None:
    with (state / "ballast").open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(b"x" * 4096):
            pass
    assert os.statvfs(state).f_bfree == 0


def ask(server: LiveServer, method: str, path: str, body: object = None) -> Any:
    """Return the answer, or the text of a refusal."""
    try:
        return server.request(method, f"/v1/sandboxes{path}", body)
    except urllib.error.HTTPError as error:
        return error.read().decode()


def ids_of(server: LiveServer) -> set[str]:
    return {item["id"] for item in ask(server, "GET", "")["items"]}


@pytest.mark.attack(
    "resources",
    "the disk of the state directory is full while a server runs, when it is killed, and when it starts again",
    "it starts, lists and ends sandboxes, refuses what is new with a clear error, and accepts it when there is room",
)
def test_a_full_disk_keeps_nobody_from_ending_sandboxes(server: LiveServer) -> None:
    """With the room that is kept for ends, and without: then the disk is as weak as the test can make it."""
    state = server.directory / "state"
    server.start()
    first, second, third = (ask(server, "POST", "", CREATE)["id"] for _ in range(3))
    fill(state)
    assert "the server's disk is full" in ask(server, "POST", "", CREATE)
    ask(server, "DELETE", f"/{first}")
    assert ids_of(server) == {second, third}

    fill(state)
    server.kill()
    fill(state)
    server.start()
    assert ids_of(server) == {second, third}
    assert "the server's disk is full" in ask(server, "POST", "", CREATE)
    ask(server, "DELETE", f"/{second}")
    assert ids_of(server) == {third}

    server.stop()
    (state / "reserve").unlink(missing_ok=True)
    fill(state)
    server.start()
    ask(server, "DELETE", f"/{third}")
    assert third not in ids_of(server)

    (state / "ballast").unlink()
    deadline = time.monotonic() + 60
    while "full" in str(answer := ask(server, "POST", "", CREATE)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert answer["id"] in ids_of(server)
