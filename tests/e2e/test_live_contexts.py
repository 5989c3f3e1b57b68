"""Our own additions to contexts, over HTTP: copies, questions, input, new begins, receipts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server.live_server import LiveServer, run_script

CREATE = {"image": {"uri": "sandlot/code-interpreter"}, "entrypoint": ["tail", "-f", "/dev/null"], "timeout": 600}


@pytest.fixture(scope="module")
def box(server: LiveServer) -> Iterator[httpx.Client]:
    """A client at the execd endpoint of a sandbox."""
    headers = {"OPEN-SANDBOX-API-KEY": server.key}
    with httpx.Client(base_url=server.address, headers=headers, timeout=60, trust_env=False) as http:
        sandbox_id = http.post("/v1/sandboxes", json=CREATE).json()["id"]
        http.base_url = httpx.URL(f"{server.address}/v1/sandboxes/{sandbox_id}/proxy/44772")
        yield http
        http.delete(f"{server.address}/v1/sandboxes/{sandbox_id}")


@pytest.fixture
def context(box: httpx.Client) -> str:
    """The id of a new context."""
    return str(box.post("/code/context", json={"language": "python"}).json()["id"])


def run(box: httpx.Client, context: str, code: str) -> list[dict[str, Any]]:
    """Run code to its end."""
    answer = box.post("/code", json={"code": code, "context": {"id": context}})
    return [json.loads(line) for line in answer.text.splitlines() if line]


def value(events: list[dict[str, Any]]) -> str:
    """The value of a run."""
    return next(str(event["results"]["text"]) for event in events if event["type"] == "result")


def test_copies(box: httpx.Client, context: str) -> None:
    """Each copy has the state, and its own from there on; what cannot be copied is refused with the reason."""
    run(box, context, "x = [1]")
    one, two = (copy["id"] for copy in box.post(f"/code/contexts/{context}/fork?count=2").json())
    run(box, one, "x.append(2)")
    assert [value(run(box, each, "x")) for each in (context, one, two)] == ["[1]", "[1, 2]", "[1]"]
    assert {one, two} <= {each["id"] for each in box.get("/code/contexts").json()}

    run(box, two, "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()")
    refused = box.post(f"/code/contexts/{two}/fork")
    assert (refused.status_code, refused.json()["code"]) == (409, "CONTEXT_NOT_FORKABLE")
    assert "threads" in refused.json()["message"]
    assert box.post(f"/code/contexts/{one}/fork?count=0").status_code == 400
    assert box.post(f"/code/contexts/{one}/fork?count=65").status_code == 400
    assert box.post("/code/contexts/nobody/fork").status_code == 404


def test_questions(box: httpx.Client, context: str) -> None:
    """Completion and inspection."""
    run(box, context, "longname = 1")
    found = box.post(f"/code/contexts/{context}/complete", json={"code": "print(longn)", "cursor": 11}).json()
    assert found == {"matches": ["longname"], "start": 6, "end": 11}
    known = box.post(f"/code/contexts/{context}/inspect", json={"code": "print"}).json()
    assert known["found"]
    assert "sep" in known["data"]["text/plain"]
    assert box.post(f"/code/contexts/{context}/inspect", json={"code": "zzz"}).json() == {"found": False, "data": {}}
    assert box.post(f"/code/contexts/{context}/complete", json={"code": "x", "cursor": -1}).status_code == 400


def test_input(box: httpx.Client, context: str) -> None:
    """Code asks; the client answers by another request."""
    body = {"code": "input('name? ') + '!'", "context": {"id": context}, "allow_input": True}
    events: list[dict[str, Any]] = []
    with box.stream("POST", "/code", json=body) as answer:
        for line in filter(None, answer.iter_lines()):
            events.append(json.loads(line))
            if events[-1]["type"] == "input_request":
                assert (events[-1]["prompt"], events[-1]["password"]) == ("name? ", False)
                assert box.post("/code/input", params={"id": events[0]["text"]}, json={"text": "Ada"}).is_success
    assert value(events) == "'Ada!'"
    late = box.post("/code/input", params={"id": context}, json={"text": "late"})
    assert (late.status_code, late.json()["code"]) == (409, "CONTEXT_WAITS_FOR_NO_INPUT")


def test_a_dead_context_says_what_it_died_of_and_begins_anew(box: httpx.Client, context: str) -> None:
    """The receipt has the cause, the exit code and what was used."""
    receipt = run(box, context, "import os; os._exit(3)")[-1]["receipt"]
    assert (receipt["cause"], receipt["died_of"], receipt["exit_code"]) == ("died", "exit", 3)
    assert box.get(f"/code/contexts/{context}").status_code == 404
    assert box.post(f"/code/contexts/{context}/restart").json() == {"id": context, "language": "python"}
    assert value(run(box, context, "1 + 1")) == "2"


LOSS = """
import asyncio, json
from code_interpreter import CodeInterpreter
from code_interpreter.models.code import SupportedLanguage
from opensandbox import Sandbox

async def main():
    async with await Sandbox.create("sandlot/code-interpreter") as sandbox:
        interpreter = await CodeInterpreter.create(sandbox)
        first = await interpreter.codes.run("import os; x = 1; print(os.getpid())", language=SupportedLanguage.PYTHON)
        pid = int(first.logs.stdout[0].text)
        await sandbox.commands.run(f"kill -9 {pid}; while [ -e /proc/{pid} ]; do sleep 0.05; done")
        second = await interpreter.codes.run("x", language=SupportedLanguage.PYTHON)
        print(json.dumps({"stderr": [one.text for one in second.logs.stderr], "error": second.error.name,
                          "count": second.execution_count}))
        await sandbox.kill()

asyncio.run(main())
"""


def test_clients_of_the_official_sdk_see_that_a_context_was_lost(sdk: Path, server: LiveServer) -> None:
    """A default context that died between two runs: the NameError of the next run is explained before it comes."""
    heard = run_script(sdk, server, LOSS)
    assert "context default-python has begun anew, without what it held: its process" in heard["stderr"][0]
    assert (heard["error"], heard["count"]) == ("NameError", 1)


def test_a_command_ends_with_a_receipt(box: httpx.Client) -> None:
    """What it used, and which limit it met: here that of processes."""
    spin = "python3 -c 'import time\nwhile time.process_time() < 0.2: pass\nprint(1)'"
    answer = box.post("/command", json={"command": spin})
    init, *_, last = [json.loads(line) for line in answer.text.splitlines() if line]
    assert last["receipt"]["cause"] == "exit"
    assert last["receipt"]["cpu_s"] >= 0.2
    assert last["receipt"]["output_bytes"] == 2
    assert box.get(f"/command/status/{init['text']}").json()["receipt"] == last["receipt"]

    bomb = "import threading\nwhile True: threading.Thread(target=threading.Event().wait, daemon=True).start()"
    answer = box.post("/command", json={"argv": ["python3", "-c", bomb], "timeout": 30000})
    last = json.loads(answer.text.strip().splitlines()[-1])
    assert last["receipt"]["limits_hit"] == ["pids"]
