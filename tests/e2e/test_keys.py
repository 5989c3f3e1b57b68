"""Keys with the real server, its command and the official client."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosedError

from tests.support.server.live_server import SANDLOT, LiveServer, sdk_python
from tests.support.server.stream_client import output, streaming

CREATE_TWO = """
import json
from opensandbox import SandboxSync
from opensandbox.exceptions import SandboxRateLimitException

first = SandboxSync.create("sandlot/python")
said = first.commands.run("echo mine").logs.stdout[0].text
try:
    SandboxSync.create("sandlot/python")
    refused = None
except SandboxRateLimitException as error:
    refused = [error.status_code, error.error.code, error.retry_after.total_seconds()]
print(json.dumps({"id": first.id, "said": said, "refused": refused}))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    flags = ["--pool-size", "1", "--image", "sandlot/python", "--max-failed-attempts", "5", "--audit-max-files", "2"]
    with LiveServer(flags) as live:
        yield live


def keys(server: LiveServer, *arguments: str) -> Any:
    """Run `sandlot keys` as on the server's machine; return what it prints as JSON."""
    environment = {
        **os.environ,
        "SANDBOX_CONFIG_PATH": os.devnull,
        "SANDLOT_SERVER_PORT": server.address.rpartition(":")[2],
        "SANDLOT_PATHS_STATE_DIR": str(server.directory / "state"),
    }
    done = subprocess.run(
        [SANDLOT, "keys", *arguments, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def with_sdk(server: LiveServer, key: str, script: str) -> Any:
    """Run a script with the official client and that key."""
    done = subprocess.run(
        [sdk_python(), "-W", "ignore", "-c", script],
        env={**server.sdk_environment(), "OPEN_SANDBOX_API_KEY": key},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr + server.log[-3000:]
    return json.loads(done.stdout)


async def read_to_the_end(socket: ClientConnection) -> None:
    """Read until the other side closes."""
    while True:
        await socket.recv()


async def test_the_life_of_a_key(server: LiveServer) -> None:
    """Made while the server runs, held to its quota, and ended with what it has open and its sandboxes."""
    made = keys(server, "create", "agents", "--scope", "create", "--quota", "sandboxes=1")
    found = with_sdk(server, made["key"], CREATE_TWO)
    assert found["said"] == "mine"
    status, code, retry_after = found["refused"]
    assert (status, code) == (429, "KUBERNETES::QUOTA_EXCEEDED")
    assert retry_after >= 1

    other = keys(server, "create", "other", "--scope", "create")
    listed = with_sdk(
        server,
        other["key"],
        "import json; from opensandbox import SandboxManagerSync as M; from opensandbox.models.sandboxes import "
        "SandboxFilter as F; print(json.dumps([s.id for s in M.create().list_sandbox_infos(F()).sandbox_infos]))",
    )
    assert listed == []

    url = f"{server.address.replace('http', 'ws')}/v1/sandboxes/{found['id']}/stream"
    async with streaming(url, headers={"OPEN-SANDBOX-API-KEY": made["key"]}) as stream:
        await stream.hello()
        assert output(await stream.ask("command", command="echo open")).strip() == "open"
        await stream.open("command", command="sleep 100")
        await asyncio.to_thread(keys, server, "withdraw", "agents", "--end-sandboxes")
        with pytest.raises(ConnectionClosedError, match="the API key has ended"):
            await asyncio.wait_for(read_to_the_end(stream.socket), 20)
    assert server.request("GET", "/v1/sandboxes")["items"] == []
    entries = server.request("GET", "/v1/audit?limit=1000")["entries"]
    done = [(each["operation"], each.get("keyName"), each["outcome"]) for each in entries if "operation" in each]
    for expected in (
        ("key.create", "api-key", "done"),
        ("sandbox.create", "agents", "done"),
        ("sandbox.create", "agents", "refused"),
        ("command.run", "agents", "done"),
        ("key.withdraw", "api-key", "done"),
    ):
        assert expected in done
    text = (server.directory / "state" / "audit" / "audit.jsonl").read_text()
    for secret in (made["key"], other["key"], server.key, "echo open"):
        assert secret not in text


def test_keys_survive_a_kill(server: LiveServer) -> None:
    """With what they are; the log goes on with its numbers."""
    made = keys(server, "create", "lasting", "--scope", "read", "--owner", "admin")
    before = server.request("GET", "/v1/audit")["next"]
    server.kill()
    server.start()
    assert keys(server, "show", "lasting")["scopes"] == ["read"]
    assert keys(server, "list", "--server", server.address, "--api-key", server.key)
    refused = subprocess.run(
        [SANDLOT, "keys", "list", "--server", server.address, "--api-key", made["key"]],
        env={**os.environ, "SANDBOX_CONFIG_PATH": os.devnull},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (refused.returncode, "403" in refused.stderr) == (1, True)
    assert server.request("GET", "/v1/audit")["next"] > before


def test_wrong_keys_are_answered_five_times_a_minute(server: LiveServer) -> None:
    """As the setting says; the right one still works."""
    statuses = []
    for _ in range(7):
        request = urllib.request.Request(f"{server.address}/v1/sandboxes", headers={"OPEN-SANDBOX-API-KEY": "wrong"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        statuses.append(refused.value.code)
        refused.value.close()
    assert statuses == [401] * 5 + [429] * 2
    assert server.request("GET", "/v1/sandboxes")["items"] == []
