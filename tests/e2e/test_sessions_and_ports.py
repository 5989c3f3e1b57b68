"""Sessions, ports and terminals in real containers: the official SDK, async and sync, and plain clients."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.support.server.live_server import LiveServer, run_script

SESSIONS = """
import asyncio, json
from datetime import timedelta
from opensandbox import Sandbox, SandboxSync
from opensandbox.config import ConnectionConfig
from opensandbox.exceptions import SandboxApiException

def told(execution):
    error = execution.error and execution.error.value
    return [execution.exit_code, [line.text for line in execution.logs.stdout + execution.logs.stderr], error]

async def main():
    said = {}
    for proxied in (False, True):
        config = ConnectionConfig(use_server_proxy=proxied)
        sandbox = await Sandbox.create("sandlot/code-interpreter", connection_config=config)
        session = await sandbox.commands.create_session(working_directory="/tmp")
        run = sandbox.commands.run_in_session
        await run(session, "x=1; f() { echo f $x $1; }; cd /usr")
        said["state"] = told(await run(session, "f a; pwd; echo err >&2"))
        said["exit code"] = told(await run(session, "(exit 7)"))
        said["directory"] = told(await run(session, "pwd", working_directory="/var"))
        said["time limit"] = told(await run(session, "sleep 60", timeout=timedelta(seconds=1)))
        said["after it"] = told(await run(session, "f b"))
        await sandbox.commands.delete_session(session)
        try:
            await run(session, "true")
        except SandboxApiException as error:
            said["deleted"] = error.status_code
        await sandbox.kill()

    def in_sync():
        sandbox = SandboxSync.create("sandlot/code-interpreter")
        session = sandbox.commands.create_session()
        sandbox.commands.run_in_session(session, "y='a b'")
        seen = told(sandbox.commands.run_in_session(session, 'echo "$y"'))
        sandbox.commands.delete_session(session)
        sandbox.kill()
        return seen
    said["sync"] = await asyncio.to_thread(in_sync)
    print(json.dumps(said))

asyncio.run(main())
"""


def test_sessions(sdk: Path, server: LiveServer) -> None:
    """State lasts, also after a time limit; a session that was deleted is told to be none."""
    assert run_script(sdk, server, SESSIONS) == {
        "state": [0, ["f 1 a", "/usr", "err"], None],
        "exit code": [7, [], "7"],
        "directory": [0, ["/var"], None],
        "time limit": [124, ["\n"], "124"],  # as a terminal shows it, the shell begins a new line
        "after it": [0, ["f 1 b"], None],
        "deleted": 404,
        "sync": [0, ["a b"], None],
    }


PORTS = """
import asyncio, json, time
import httpx
from opensandbox import Sandbox, SandboxSync
from opensandbox.models.execd import RunCommandOpts

SERVICE = "cd /tmp && echo hello > page && exec python3 -m http.server 8000 --bind 127.0.0.1"

async def main():
    sandbox = await Sandbox.create("sandlot/code-interpreter")
    await sandbox.commands.run(SERVICE, opts=RunCommandOpts(background=True))
    await sandbox.commands.run("until (exec 3<>/dev/tcp/127.0.0.1/8000) 2>/dev/null; do sleep 0.01; done")
    said = {}
    async with httpx.AsyncClient() as client:
        endpoint = await sandbox.get_endpoint(8000)
        said["page"] = (await client.get(f"http://{endpoint.endpoint}/page", headers=endpoint.headers)).text
        said["no token"] = (await client.get(f"http://{endpoint.endpoint}/page")).status_code
        signed = await sandbox.get_signed_endpoint(8000, int(time.time()) + 60)
        said["signed"] = (await client.get(f"http://{signed.endpoint}/page")).text
        nothing = await sandbox.get_endpoint(8001)
        answer = await client.get(f"http://{nothing.endpoint}/", headers=nothing.headers)
        said["nothing there"] = [answer.status_code, answer.json()["code"]]
    in_sync = await asyncio.to_thread(lambda: SandboxSync.connect(sandbox.id).get_endpoint(8000))
    said["the same"] = in_sync.endpoint == endpoint.endpoint
    await sandbox.kill()
    print(json.dumps(said))

asyncio.run(main())
"""


def test_ports(sdk: Path, server: LiveServer) -> None:
    """A service in a sandbox without a network is reached, and by nobody without the token."""
    assert run_script(sdk, server, PORTS) == {
        "page": "hello\n",
        "no token": 401,
        "signed": "hello\n",
        "nothing there": [502, "BACKEND_CONNECTION_FAILED"],
        "the same": True,
    }


def _until(terminal: ClientConnection, text: str) -> str:
    seen = ""
    while text not in seen:
        frame = terminal.recv(timeout=20)
        seen += frame[1:].decode() if isinstance(frame, bytes) else ""
    return seen


def test_a_terminal(server: LiveServer) -> None:
    """In the shell of the image, with job control: what a console does."""
    body = {
        "image": {"uri": "sandlot/code-interpreter"},
        "entrypoint": ["sleep", "inf"],
        "resourceLimits": {"cpu": "1", "memory": "512Mi"},
    }
    sandbox: dict[str, Any] = server.request("POST", "/v1/sandboxes", body)
    endpoint = server.request("GET", f"/v1/sandboxes/{sandbox['id']}/endpoints/44772")
    request = urllib.request.Request(f"http://{endpoint['endpoint']}/pty", method="POST", headers=endpoint["headers"])
    with urllib.request.urlopen(request, timeout=20) as response:
        pty = json.loads(response.read())["session_id"]
    url = f"ws://{endpoint['endpoint']}/pty/{pty}/ws"
    with connect(url, additional_headers=endpoint["headers"], proxy=None) as terminal:
        assert json.loads(terminal.recv(timeout=20)) == {"type": "connected", "session_id": pty, "mode": "pty"}
        terminal.send(json.dumps({"type": "resize", "cols": 120, "rows": 50}))
        terminal.send(b"\x00tput cols; whoami; [ -t 0 ] && echo is''-tty\r")
        seen = _until(terminal, "is-tty")
        assert "120\r\nroot\r\n" in seen
        assert "no job control" not in seen
    server.request("DELETE", f"/v1/sandboxes/{sandbox['id']}")
