"""Commands over HTTP, run by a real execd."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server.api_server import SANDBOX_ID, Edge


async def run(client: httpx.AsyncClient, **body: Any) -> list[dict[str, Any]]:
    """Run a command to its end, return its events."""
    response = await client.post("/command", json=body)
    assert response.status_code == 200, response.text
    return [json.loads(frame) for frame in response.text.split("\n\n")[:-1]]


def texts(events: list[dict[str, Any]], kind: str = "stdout") -> list[str]:
    """The texts of one kind of events."""
    return [event["text"] for event in events if event["type"] == kind]


async def test_output_and_exit_code(client: httpx.AsyncClient) -> None:
    """Both streams line by line, then one end."""
    good = await run(client, command="echo 'Hello OpenSandbox E2E'; echo warn >&2")
    bad = await run(client, argv=["sh", "-c", "printf 'no newline'; exit 7"])

    assert (texts(good), texts(good, "stderr")) == (["Hello OpenSandbox E2E"], ["warn"])
    assert good[-1]["type"] == "execution_complete"
    assert (texts(bad), bad[-1]["error"]["evalue"]) == (["no newline"], "7")


def as_kotlin_reads(body: str) -> list[dict[str, Any]]:
    """Read a stream as the code interpreter of Kotlin and Java does: each line is JSON, or is ignored."""
    found = []
    for line in body.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


async def test_each_line_of_a_stream_is_an_event_as_json(client: httpx.AsyncClient) -> None:
    """The interpreter of Kotlin and Java finds all events of commands, code and sessions, and all that they say."""
    session = (await client.post("/session")).json()["session_id"]
    for path, body in (
        ("/command", {"command": "echo said"}),
        ("/code", {"code": "echo said", "context": {"language": "bash"}}),
        (f"/session/{session}/run", {"command": "echo said"}),
    ):
        answer = await client.post(path, json=body)
        found = as_kotlin_reads(answer.text)

        kinds = [event["type"] for event in found if event["type"] != "execution_count"]
        assert kinds == ["init", "stdout", "execution_complete"], path
        assert found[1]["text"] == "said"
        assert answer.text.count("\n\n") == len(found)  # the frames of the other clients


async def test_a_flood_arrives_whole_in_few_events(client: httpx.AsyncClient) -> None:
    """Twenty thousand lines share events, and not one of them is lost or moved."""
    events = await run(client, command="seq 1 20000")

    assert "\n".join(texts(events)).split("\n") == [str(number) for number in range(1, 20001)]
    assert len(events) < 1000


async def test_environment_directory_and_time_limit(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """What the body says holds for the command, and a limit that is reached is the stated cause."""
    told = await run(client, command='echo "$A"; pwd', cwd=str(tmp_path), envs={"A": "b c", "B": None})
    late = await run(client, command="echo begun; sleep 60", timeout=200)

    assert texts(told) == ["b c", str(tmp_path)]
    assert (texts(late), late[-1]["error"]["traceback"]) == (["begun"], ["timed out after 0.2 s"])


async def test_what_cannot_be_started_says_why(client: httpx.AsyncClient) -> None:
    """A missing program and a missing directory, as errors with the shells' code."""
    for body in (
        {"argv": ["/no/such/program"]},
        {"command": "true", "cwd": "/no/such/directory"},
        {"argv": ["echo", "/no/such" + "x" * 200_000]},
        {"command": "true", "cwd": "/no/such/directory", "background": True},
    ):
        init, said, end = await run(client, **body)
        error = end["error"]

        assert (error["ename"], error["evalue"]) == ("CommandExecError", "127")
        assert (said["type"], [said["text"]]) == ("stderr", error["traceback"])
        assert "/no/such" in said["text"] or "128 KiB" in said["text"]
        status = (await client.get(f"/command/status/{init['text']}")).json()
        assert (status["running"], status["exit_code"]) == (False, 127)
        logs = await client.get(f"/command/{init['text']}/logs")
        assert logs.text == said["text"] + "\n"
        assert (await client.delete(f"/command?id={init['text']}")).status_code == 200


async def test_a_script_of_a_mebibyte_runs(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """In the foreground and in the background: writing a file by a here-document is the usual reason."""
    text = "0123456789abcde\n" * 65_536
    path = tmp_path / "file"
    script = f"cat > {path} <<'EOF'\n{text}EOF"

    assert [event["type"] for event in await run(client, command=script)] == ["init", "execution_complete"]
    assert path.read_text() == text
    path.unlink()
    os.mkfifo(path)
    await run(client, command=script, background=True)
    assert await asyncio.to_thread(path.read_text) == text


async def test_a_client_that_goes_away_ends_the_whole_process_group(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Also the children of the shell: the FIFO that they hold open reaches its end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with client.stream("POST", "/command", json={"command": f"sleep 1000 > {fifo}"}) as response:
        lines = response.aiter_lines()  # kept: a client that drops it closes the connection
        await anext(lines)
        reader = await asyncio.to_thread(open, fifo, "rb")  # blocks until sleep has opened its end
    with reader:
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(reader.read) == b""


async def test_a_background_command_outlives_its_request(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Its id leads to its state, to its output from any byte on, and to its end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    events = await run(client, command=f"echo one; cat {fifo}; echo two >&2; exit 3", background=True)
    assert [event["type"] for event in events] == ["init", "execution_complete"]
    command_id = events[0]["text"]

    status = (await client.get(f"/command/status/{command_id}")).json()
    assert (status["running"], status["exit_code"], status["finished_at"]) == (True, None, None)

    await asyncio.to_thread(fifo.write_bytes, b"between\n")
    async with asyncio.timeout(10):
        while (status := (await client.get(f"/command/status/{command_id}")).json())["running"]:
            pass
    assert (status["exit_code"], status["error"]) == (3, "exit status 3")

    whole = await client.get(f"/command/{command_id}/logs")
    rest = await client.get(f"/command/{command_id}/logs", params={"cursor": 4})
    nothing = await client.get(f"/command/{command_id}/logs", params={"cursor": 16})
    assert (whole.text, rest.text, nothing.text) == ("one\nbetween\ntwo\n", "between\ntwo\n", "")
    assert {reply.headers["EXECD-COMMANDS-TAIL-CURSOR"] for reply in (whole, rest, nothing)} == {"16"}


async def test_logs_hold_whole_characters_as_long_as_it_runs(client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Half a character waits for its other half, and what never becomes one comes at the end."""
    first, second = tmp_path / "first", tmp_path / "second"
    os.mkfifo(first)
    os.mkfifo(second)
    script = rf"printf 'a\346\227'; read line <{first}; printf '\245b\346'; read line <{second}"
    command_id = (await run(client, command=script, background=True))[0]["text"]

    async def until(text: str, cursor: str, expected: str) -> None:
        async with asyncio.timeout(10):
            while True:
                logs = await client.get(f"/command/{command_id}/logs", params={"cursor": cursor})
                assert text.startswith(logs.text)
                if logs.text == text:
                    assert logs.headers["EXECD-COMMANDS-TAIL-CURSOR"] == expected
                    return

    await until("a", "0", "1")
    await asyncio.to_thread(first.write_text, "go on\n")
    await until("日b", "1", "5")
    await asyncio.to_thread(second.write_text, "go on\n")
    await until("\ufffd", "5", "6")


async def test_logs_say_what_was_dropped(client: httpx.AsyncClient) -> None:
    """Of more than is kept, whole lines come from both ends."""
    command_id = (await run(client, command="yes 日本語 | head -n 400000", background=True))[0]["text"]
    async with asyncio.timeout(20):
        while (await client.get(f"/command/status/{command_id}")).json()["running"]:
            pass
    logs = await client.get(f"/command/{command_id}/logs")

    lines = logs.text.splitlines()
    (missing,) = [line for line in lines if line != "日本語"]
    count = int(missing.removeprefix("[sandlot: ").partition(" ")[0])
    assert missing == f"[sandlot: {count} bytes of output are missing here]"
    assert count + 10 * (len(lines) - 1) == 4_000_000 == int(logs.headers["EXECD-COMMANDS-TAIL-CURSOR"])


async def test_an_interrupted_command_says_so(client: httpx.AsyncClient) -> None:
    """By the id of its init event, while its client still listens; what has ended can be asked about."""
    async with client.stream("POST", "/command", json={"command": "echo begun; sleep 1000"}) as response:
        lines = response.aiter_lines()
        events = []
        async for line in lines:
            if line:
                events.append(json.loads(line))
            if events[-1].get("text") == "begun":
                break
        answer = await client.delete("/command", params={"id": events[0]["text"]})
        events += [json.loads(line) async for line in lines if line]

    assert answer.status_code == 200
    assert (events[-1]["error"]["evalue"], events[-1]["error"]["traceback"]) == ("143", ["ended on request"])
    status = await client.get(f"/command/status/{events[0]['text']}")
    assert (status.json()["running"], status.json()["exit_code"]) == (False, 143)


@pytest.mark.parametrize("path", ["/command", "/code"])
async def test_of_what_is_lost_on_the_way_the_receipt_says_so(client: httpx.AsyncClient, edge: Edge, path: str) -> None:
    """The last event is an error with the cause, and with what was seen until then."""
    body = {"command": "echo begun; sleep 60", "code": "echo begun; sleep 60", "context": {"language": "bash"}}
    events = []
    async with client.stream("POST", path, json=body) as response:
        async for line in response.aiter_lines():
            if not line:
                continue
            events.append(json.loads(line))
            if events[-1].get("text") == "begun":
                link = edge.directory.get(SANDBOX_ID)
                assert link is not None
                await link.aclose()
    assert (events[-1]["type"], events[-1]["error"]["ename"]) == ("error", "LinkLost")
    receipt = events[-1]["receipt"]
    assert (receipt["cause"], receipt["output_bytes"]) == ("link_lost", 6)


async def test_metrics_are_the_sandbox_s_own(client: httpx.AsyncClient) -> None:
    """Numbers under the contract's names, once and again and again."""
    metrics = (await client.get("/metrics")).json()

    assert set(metrics) == {"cpu_count", "cpu_used_pct", "mem_total_mib", "mem_used_mib", "timestamp"}
    assert metrics["cpu_count"] > 0
    assert 0 < metrics["mem_used_mib"] < metrics["mem_total_mib"]
    assert type(metrics["timestamp"]) is int
    async with client.stream("GET", "/metrics/watch") as response:
        lines = response.aiter_lines()
        watched = [json.loads(await anext(lines)) for _ in range(2)]
    assert [set(line) for line in watched] == [set(metrics)] * 2


async def test_usage_in_detail(client: httpx.AsyncClient) -> None:
    """With its processes, connections and listening ports, which a client has to ask for."""
    told = (await client.get("/metrics", params={"detail": "true"})).json()
    assert set(told) == {
        *("cpu_count", "cpu_used_pct", "mem_total_mib", "mem_used_mib", "timestamp"),
        *("processes", "connections", "ports"),
    }
    assert told["processes"] > 0
    async with client.stream("GET", "/metrics/watch", params={"detail": "true"}) as response:
        assert set(json.loads(await anext(response.aiter_lines()))) == set(told)
    assert (await client.get("/metrics", params={"detail": "maybe"})).status_code == 400
