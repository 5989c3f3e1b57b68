"""`kill -9` of the server: same sandboxes, same state, same deadlines, nothing left over."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import httpx

from tests.support.server.live_server import LiveServer, run_script

BEFORE = """
import asyncio, json, sys
from datetime import timedelta
from code_interpreter import CodeInterpreter
from opensandbox import Sandbox

async def main():
    image = "sandlot/code-interpreter"
    kept = await Sandbox.create(image, timeout=timedelta(minutes=5), env={"COLOUR": "blue"}, metadata={"who": "test"})
    interpreter = await CodeInterpreter.create(kept)
    context = await interpreter.codes.create_context("python")
    await interpreter.codes.run("answer = 41", context=context)
    background = await kept.commands.run("for i in 1 2 3; do echo tick $i; sleep 0.2; done; sleep 300", opts=opts(True))
    short = await Sandbox.create(image, timeout=timedelta(seconds=60))
    info = await kept.get_info()
    print(json.dumps({"kept": kept.id, "short": short.id, "context": context.id, "command": background.id,
                      "expires": info.expires_at.isoformat()}))

def opts(background):
    from opensandbox.models.execd import RunCommandOpts
    return RunCommandOpts(background=background)

asyncio.run(main())
"""

AFTER = """
import asyncio, json, sys
from code_interpreter import CodeInterpreter
from code_interpreter.models.code import CodeContext
from opensandbox import Sandbox

async def main():
    was = json.loads(sys.argv[1])
    kept = await Sandbox.connect(was["kept"])
    info = await kept.get_info()
    interpreter = await CodeInterpreter.create(kept)
    run = await interpreter.codes.run("answer + 1", context=CodeContext(id=was["context"], language="python"))
    colour = await kept.commands.run("echo $COLOUR")
    logs = await kept.commands.get_background_command_logs(was["command"])
    status = await kept.commands.get_command_status(was["command"])
    print(json.dumps({"answer": run.result[0].text, "colour": colour.logs.stdout[0].text, "state": info.status.state,
                      "expires": info.expires_at.isoformat(), "metadata": info.metadata, "logs": logs.content,
                      "running": status.running}))

asyncio.run(main())
"""


def wait_until(condition: object, timeout_s: float = 20.0) -> None:
    """Ask again until it holds: the engine offers no event for what these tests wait for."""
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "did not become true in time"
        time.sleep(0.05)


def test_a_killed_server_loses_nothing_and_leaks_nothing(sdk: Path) -> None:
    """Sandboxes, contexts, background processes and deadlines survive; unclaimed containers do not leak."""
    with LiveServer(["--pool-size", "2"]) as server:
        was = run_script(sdk, server, BEFORE)
        server.kill()
        server.start()

        now = run_script(sdk, server, AFTER, json.dumps(was))
        assert now["answer"] == "42"
        assert now["colour"] == "blue"
        assert now["state"] == "Running"
        assert now["expires"] == was["expires"]
        assert now["metadata"] == {"who": "test"}
        assert "tick 1\ntick 2\ntick 3\n" in str(now["logs"])
        assert now["running"] is True

        ids = {sandbox["id"] for sandbox in server.request("GET", "/v1/sandboxes")["items"]}
        assert ids == {was["kept"], was["short"]}
        # Two sandboxes and a pool of two: the warm ones of before were taken over or removed.
        wait_until(lambda: len(server.containers()) == 4)

        # A deadline that was set before the kill, moved up, is still enforced by the new server.
        soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
        server.request("POST", f"/v1/sandboxes/{was['short']}/renew-expiration", {"expiresAt": soon})
        server.kill()
        server.start()
        wait_until(lambda: len(server.request("GET", "/v1/sandboxes")["items"]) == 1)
        wait_until(lambda: len(server.containers()) == 3)

        assert server.stop() == 0
        # The sandbox goes on; warm containers, which nobody would end, are gone.
        assert len(server.containers()) == 1


SLOW = "for i in $(seq 40); do echo line $i; sleep 0.05; done; exit 7"
CELL = "import time\nfor i in range(1, 41): print('line', i); time.sleep(0.05)\n6 * 7"


def read_some(server: LiveServer, box: str, path: str, body: object, heard: list[tuple[str, str]]) -> None:
    """Begin a recorded run, and kill the server in the middle of what it says."""
    with (
        httpx.Client(base_url=box, headers={"OPEN-SANDBOX-API-KEY": server.key}, timeout=60) as client,
        client.stream("POST", path, json=body, headers={"Sandlot-Keep": "60"}) as answer,
        contextlib.suppress(httpx.TransportError),
    ):
        take(answer.iter_lines(), heard, lambda: server.kill() if len(heard) == 10 else None)


def take(lines: Iterable[str], heard: list[tuple[str, str]], then: Callable[[], object] = lambda: None) -> None:
    """Add whole events, with their ids, and call *then* after each."""
    number = ""
    for line in lines:
        if line.startswith("id: "):
            number = line.removeprefix("id: ")
        elif line and '"ping"' not in line:
            heard.append((number, line.removeprefix("data: ")))
            then()


def test_recorded_runs_go_on_after_the_server_was_killed() -> None:
    """The server dies in the middle of an event stream; the next one goes on after the last event that was heard."""
    with LiveServer(["--pool-size", "1"]) as server:
        key = {"OPEN-SANDBOX-API-KEY": server.key}
        wish = {"image": {"uri": "sandlot/code-interpreter"}, "entrypoint": ["tail", "-f", "/dev/null"]}
        made = httpx.post(
            f"{server.address}/v1/sandboxes", json={**wish, "resourceLimits": {}}, headers=key, timeout=60
        )
        sandbox = made.json()["id"]
        for path, body in (("/command", {"command": SLOW}), ("/code", {"code": CELL})):
            heard: list[tuple[str, str]] = []
            read_some(server, f"{server.address}/v1/sandboxes/{sandbox}/proxy/44772", path, body, heard)
            assert 10 <= len(heard) < 40
            server.start()
            first = json.loads(heard[0][1])
            run = first.get("run_id") or first["text"]
            url = f"{server.address}/v1/sandboxes/{sandbox}/proxy/44772/runs/{run}/events"
            rest = httpx.get(url, headers={**key, "Last-Event-ID": heard[-1][0]}, timeout=60)
            assert rest.status_code == 200, rest.text
            take(rest.text.split("\n"), heard)
            assert [event for event, _ in heard] == sorted({event for event, _ in heard}, key=float)
            said = [json.loads(data) for _, data in heard]
            lines = "\n".join(event["text"] for event in said if event["type"] == "stdout").split("\n")
            assert [line for line in lines if line] == [f"line {number}" for number in range(1, 41)]
            assert said[-1]["type"] == ("error" if path == "/command" else "execution_complete")
            assert said[-1]["receipt"]["cause"] in ("exit", "ok")
