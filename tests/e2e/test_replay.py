"""`sandlot replay` with real sandboxes: the same image gives the same, another one differs where it must."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.client.server import Server
from controlplane.client.stream import Connection, connected
from tests.support.server.live_server import LiveServer

SANDLOT = (sys.executable, "-m", "controlplane.cli.main")
BODY = {"image": {"uri": "sandlot/code-interpreter"}, "entrypoint": ["tail", "-f", "/dev/null"], "timeout": 600}


async def work(server: Server, sandbox_id: str) -> None:
    """Do something of everything that can be repeated, and what changes from run to run."""
    async with connected(server, sandbox_id) as box:
        await box.ask("run", language="python", code="import time; x = 20; print(time.time(), object()); x")
        opened = (await box.ask("context.open", language="python", cwd="/tmp"))[0]["id"]
        await box.ask("run", context=opened, code="import os; y = 22; print(os.getcwd())")
        copy = (await box.ask("context.fork", id=opened, count=2))[0]["id"]
        await box.ask("run", context=copy, code="y += 20; y")
        await box.ask("run", context=opened, code="y / 0")
        await answer(box, opened)
        await interrupt(box, opened)
        await box.ask("context.close", id=copy)
        await box.ask("command", command="echo to $0 >&2; date; exit 3", cwd="/tmp")
        with pytest.raises(Exception, match="not found in PATH"):
            await box.ask("command", argv=["no-such-program"])
        writing = await box.open("file.write", path="/tmp/kept-apart")
        await writing.send(b"content")
        await writing.end()
        await writing.all()
    proxy = f"/v1/sandboxes/{sandbox_id}/proxy/44772"
    await asyncio.to_thread(server.ask, "POST", f"{proxy}/directories", {"/tmp/made": {"mode": 755}})
    session = (await asyncio.to_thread(server.ask, "POST", f"{proxy}/session", {}))["session_id"]
    for command in ("cd /tmp/made; z=kept", "echo $z; pwd"):
        await asyncio.to_thread(server.drain, f"{proxy}/session/{session}/run", {"command": command}, timeout_s=60)


async def answer(box: Connection, context: str) -> None:
    """Answer two prompts of one run."""
    asking = await box.open("run", context=context, code="print(input('a? ') + input('b? '))", allow_input=True)
    answers = iter(("one", "two"))
    while (message := await asking.next())["type"] != "done":
        if message["type"] == "prompt":
            await box.ask("input", context=context, text=next(answers))


async def interrupt(box: Connection, context: str) -> None:
    """Interrupt a run that would not end."""
    running = await box.open("run", context=context, code="print('begun', flush=True)\nwhile True: pass")
    while (await running.next())["type"] != "data":
        pass
    await box.ask("context.interrupt", id=context)
    while (await running.next())["type"] != "done":
        pass


@pytest.fixture(scope="module")
def recorded(server: LiveServer) -> Iterator[str]:
    """The id of a sandbox in which something was done."""
    sandbox_id = server.request("POST", "/v1/sandboxes", BODY)["id"]
    asyncio.run(work(Server(server.address, server.key), sandbox_id))
    yield sandbox_id
    server.request("DELETE", f"/v1/sandboxes/{sandbox_id}")


def replay(server: LiveServer, *arguments: str, status: int) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*SANDLOT, "replay", *arguments],
        env=server.sdk_environment(),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == status, (done.stdout[-3000:], done.stderr[-3000:])
    return done


def sandboxes(server: LiveServer) -> set[str]:
    """Return the ids of all there are."""
    return {one["id"] for one in server.request("GET", "/v1/sandboxes?pageSize=200")["items"]}


def test_the_same_image_gives_the_same(server: LiveServer, recorded: str) -> None:
    """With answers, an interruption, copies and sessions; what is not in the record is named, and is no difference."""
    before = sandboxes(server)
    lines = replay(server, recorded[:12], status=0).stdout.splitlines()
    assert len(lines) == 2, lines
    assert "file.write: /tmp/kept-apart: the content of files is not in a record" in lines[0]
    assert (
        lines[1]
        == "18 operation(s) repeated in sandlot/code-interpreter, 0 with another result, 1 could not be repeated"
    )
    assert sandboxes(server) <= before


def test_another_version_differs_where_it_must(server: LiveServer, tmp_path: Path) -> None:
    """A library that the other version does not have, a program that the other image does not have; no more."""
    sandbox_id = server.request("POST", "/v1/sandboxes", BODY)["id"]

    async def use() -> None:
        async with connected(Server(server.address, server.key), sandbox_id) as box:
            await box.ask("run", language="python", code="import telnetlib; print(telnetlib.TELNET_PORT)")
            await box.ask("run", language="python", code="print('the same')")
            await box.ask("command", command="node --version || echo no node")

    asyncio.run(use())
    entries = server.request("GET", f"/v1/sandboxes/{sandbox_id}/activity")["entries"]
    server.request("DELETE", f"/v1/sandboxes/{sandbox_id}")
    head = {"type": "record", "sandbox": sandbox_id, "image": "sandlot/code-interpreter", "keep": "full"}
    record = tmp_path / "record.jsonl"
    record.write_text("".join(json.dumps(each) + "\n" for each in [head, *entries]))

    said = json.loads(replay(server, str(record), "--env", "PYTHON_VERSION=3.11", "--json", status=1).stdout)
    assert (said["image"], said["same"], said["warnings"]) == ("sandlot/code-interpreter", False, [])
    library, same, program = said["operations"]
    parts = {each["part"]: each["diff"] for each in library["differences"]}
    assert list(parts) == ["stdout", "stderr", "error", "end"]  # 3.11 warns that the module will go
    assert parts["stdout"][-1] == "+23"
    assert "-ModuleNotFoundError: No module named 'telnetlib'" in parts["error"]
    assert parts["end"][-2:] == ["-error", "+ok"]
    assert (same["repeated"], same["differences"], program["differences"]) == (True, [], [])

    shown = replay(server, str(record), "--image", "sandlot/python", status=1).stdout.splitlines()
    assert shown[0].startswith("≠ ")
    assert shown[0].endswith("command: node --version || echo no node")
    assert "      +no node" in shown
    assert shown[-1] == "3 operation(s) repeated in sandlot/python, 1 with another result"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-sandbox"], "there is no sandbox and no record no-such-sandbox"),
        (["/no/such/file"], "/no/such/file: cannot be read"),
        (["/dev/null"], "has no entries of an activity"),
    ],
)
def test_records_that_are_none(server: LiveServer, arguments: list[str], message: str) -> None:
    assert message in replay(server, *arguments, status=2).stderr
