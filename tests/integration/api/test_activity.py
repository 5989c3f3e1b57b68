"""The activity of a sandbox over every surface: what clients do is told, in order, and nothing that is secret."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.activity import feed
from controlplane.lifecycle.uses import LastUses
from execd.wire.messages import SandboxClaim, SandboxClaimed
from tests.support.agent.live_agent import ROOT, LiveAgent
from tests.support.server.api_server import API_KEY, SANDBOX_ID, Edge, serving
from tests.support.server.console import browser, signed_in
from tests.support.server.stream_client import JSON, MSGPACK, StreamClient, streaming

KEY = {"OPEN-SANDBOX-API-KEY": API_KEY}
PATIENCE_S = 60.0
PATH = f"/sandboxes/{SANDBOX_ID}/activity"


TOY = ROOT / "tests" / "support" / "agent" / "toy_kernel.py"
LANGUAGE = f'language = "toy"\ncommand = ["{sys.executable}", "{TOY}"]\n'


@contextlib.asynccontextmanager
async def claimed(keep: str = "full", **fields: Any) -> AsyncIterator[Edge]:
    """Serve a sandbox that keeps so much."""
    async with LiveAgent(declared={"kernels/toy.toml": LANGUAGE}) as agent:
        claiming = await agent.link.open(SandboxClaim(id=SANDBOX_ID, activity=keep, **fields))
        async with claiming as stream:
            await stream.expect(SandboxClaimed)
            async with serving(agent.link) as edge:
                yield edge


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with claimed() as edge:
        yield edge


async def entries(edge: Edge, after: int = 0, **query: Any) -> list[dict[str, Any]]:
    """Return a range as JSON."""
    async with edge.client() as client:
        answer = await client.get(PATH, params={"after": after, **query})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["entries"]
    return found


def shown(found: list[dict[str, Any]]) -> list[str]:
    """Return entries as words: type, and what is typical of it."""
    names = {
        "begun": "what",
        "output": "text",
        "raised": "name",
        "failed": "code",
        "state": "state",
        "prompt": "prompt",
    }
    return [
        " ".join([each["type"], str(each[names[each["type"]]]).strip()] if each["type"] in names else [each["type"]])
        for each in found
    ]


@contextlib.asynccontextmanager
async def native(edge: Edge, subprotocol: str = JSON) -> AsyncIterator[StreamClient]:
    """Connect to the native stream."""
    url = f"ws://{edge.address}/v1/sandboxes/{SANDBOX_ID}/stream"
    async with streaming(url, subprotocol=subprotocol, headers=KEY) as client:
        await client.hello()
        yield client


async def events(edge: Edge, until: str, **options: Any) -> list[dict[str, Any]]:
    """Watch as server-sent events until an entry has a word in it."""
    found: list[dict[str, Any]] = []
    async with (
        asyncio.timeout(PATIENCE_S),
        edge.client(accept="text/event-stream") as client,
        client.stream("GET", PATH, **options) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        number = ""
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                number = value
            elif name == "data":
                found.append(json.loads(value))
                assert str(found[-1]["seq"]) == number
                if until and until in value:
                    break
    return found


async def test_a_command_is_told(edge: Edge) -> None:
    """With who did it, where, its output and its receipt; never with its variables."""
    body = {"command": "echo out; echo err >&2", "envs": {"A": "very-secret"}, "cwd": "/tmp"}
    async with edge.execd() as client:
        assert (await client.post("/command", json=body)).status_code == 200
    found = await entries(edge)
    told = shown(found)
    # Two pipes: which of them is read first is not said.
    assert [*told[:2], *sorted(told[2:4]), *told[4:]] == [
        *("state claimed", "begun command", "output err", "output out", "ended"),
    ]
    begun, ended = found[1], found[-1]
    assert (begun["actor"], begun["text"], begun["cwd"]) == ("token", body["command"], "/tmp")
    assert begun["pid"] > 1
    assert {each["channel"]: each["text"] for each in found[2:4]} == {"stdout": "out\n", "stderr": "err\n"}
    assert ended["receipt"]["cause"] == "exit"
    assert {each["op"] for each in found[1:]} == {begun["op"]}
    assert [each["seq"] for each in found] == [1, 2, 3, 4, 5]
    assert "very-secret" not in json.dumps(found)


async def test_code_is_told_over_http(edge: Edge) -> None:
    """Results, errors, prompts: as the client hears them."""
    code = "say({'type': 'result', 'data': {'text/plain': '42'}}); print('hello'); 1 / 0"
    async with edge.execd() as client:
        context = (await client.post("/code/context", json={"language": "toy"})).json()["id"]
        await client.post("/code", json={"code": code, "context": {"id": context}})
    found = await entries(edge, 3)
    assert [each for each in shown(found) if "output" not in each] == [
        *("begun code", "result", "raised ZeroDivisionError", "ended"),
    ]
    assert "output hello" in shown(found)
    assert (found[0]["language"], found[0]["context"], found[0]["text"]) == ("toy", context, code)
    assert next(each for each in found if each["type"] == "result")["data"] == {"text/plain": "42"}
    assert found[-1]["receipt"]["cause"] == "error"
    assert shown(await entries(edge))[1:3] == ["begun context.open", "ended"]


ASKING = """
import json
say({"type": "input_request", "prompt": "name? ", "password": PASSWORD})
line = hear()
say({"type": "result", "data": {"text/plain": "heard"}})
"""


@pytest.mark.parametrize("is_password", [False, True])
async def test_what_answers_a_password_is_not_told(edge: Edge, is_password: bool) -> None:
    """What answers another prompt is."""
    async with native(edge) as client:
        context = (await client.ask("context.open", language="toy"))[0]["id"]
        code = ASKING.replace("PASSWORD", str(is_password))
        running = await client.open("run", code=code, context=context, allow_input=True)
        while (await client.next(running))["type"] != "prompt":
            pass
        await client.ask("input", context=context, text="my-answer-77")
        assert (await client.rest(running))[-1]["type"] == "done"
        await client.ask("input", context=context, text="my-answer-77")  # nobody asks any more
    found = await entries(edge)
    answers = [each for each in found if each["type"] == "begun" and each["what"] == "input"]
    assert [each.get("text", "") for each in answers] == ["" if is_password else "my-answer-77", ""]
    assert json.dumps(found).count("my-answer-77") == (0 if is_password else 1)
    assert [each.get("password", False) for each in found if each["type"] == "prompt"] == [is_password]


async def test_sessions_are_told(edge: Edge) -> None:
    """Their code without the variables of the run."""
    async with edge.execd() as client:
        session = (await client.post("/session", json={"cwd": "/tmp"})).json()["session_id"]
        body = {"command": "echo in $PWD", "cwd": "/usr"}
        await client.post(f"/session/{session}/run", json=body)
        await client.delete(f"/session/{session}")
    found = await entries(edge, 1)
    assert shown(found) == [
        *("begun session.open", "ended", "begun session", "output in /usr", "ended"),
        *("begun session.close", "ended"),
    ]
    assert found[2]["context"] == found[0]["context"] == session
    assert (found[2]["text"], found[2]["cwd"]) == ("echo in $PWD", "/usr")


async def test_files_are_told_without_their_content(edge: Edge, tmp_path: Path) -> None:
    """By path and size."""
    path, other = str(tmp_path / "a"), str(tmp_path / "b")
    async with edge.execd() as client:
        files = {"metadata": (None, json.dumps({"path": path}), "application/json"), "file": ("a", b"secret-content")}
        assert (await client.post("/files/upload", files=files)).status_code == 200
        assert (await client.get("/files/download", params={"path": path})).content == b"secret-content"
        await client.post("/files/mv", json=[{"src": path, "dest": other}])
        await client.post("/files/permissions", json={other: {"mode": 600}})
        await client.delete("/files", params={"path": [other]})
        await client.post("/directories", json={str(tmp_path / "d"): {"mode": 755}})
        await client.delete("/directories", params={"path": str(tmp_path / "d")})
        assert (await client.get("/files/download", params={"path": path})).status_code == 404
    found = await entries(edge, 1)
    begun = [each for each in found if each["type"] == "begun"]
    assert [(each["what"], each["path"]) for each in begun] == [
        *(("file.write", path), ("file.read", path), ("file.move", path), ("file.change", other)),
        *(("file.remove", other), ("directory.make", str(tmp_path / "d")), ("directory.remove", str(tmp_path / "d"))),
        ("file.read", path),
    ]
    assert [each["size"] for each in found if "size" in each] == [14, 14]
    assert (found[-1]["type"], found[-1]["code"]) == ("failed", "file.not_found")
    assert "secret-content" not in json.dumps(found)


async def test_large_files_pass_as_they_are(edge: Edge, tmp_path: Path) -> None:
    """At the pace of the client, and counted."""
    path = tmp_path / "large"
    path.write_bytes(content := os.urandom(3 << 20))
    async with edge.execd() as client:
        answer = await client.get("/files/download", params={"path": str(path)})
        assert answer.content == content
        lines = await client.get("/files/download", params={"path": str(path), "offset": 2, "limit": 5})
        assert lines.status_code == 200
    found = await entries(edge, 1)
    assert (found[0]["what"], found[1]["output_bytes"]) == ("file.read", len(content))


async def test_a_terminal_is_told_by_what_it_shows(edge: Edge) -> None:
    """Not by what is typed, and not twice to a client that comes back."""
    async with native(edge) as client:
        terminal = (await client.ask("pty.open", command="stty -echo; echo ready; read x; echo done; sleep 60"))[0][
            "id"
        ]
        attached = await client.open("pty.attach", id=terminal)
        shown_so_far = ""
        while "ready" not in shown_so_far:
            shown_so_far += (await client.next(attached)).get("text", "")
        await client.send(type="data", stream=attached, text="typed-secret\n")
        while "done" not in shown_so_far:
            shown_so_far += (await client.next(attached)).get("text", "")
        await client.send(type="cancel", stream=attached)
        again = await client.open("pty.attach", id=terminal, takeover=True)
        while "done" not in (await client.next(again)).get("text", ""):
            pass
        await client.ask("pty.close", id=terminal)
    found = await entries(edge, 1)
    of_it = [each for each in found if each["op"] == terminal]
    assert (of_it[0]["what"], of_it[0]["context"], of_it[-1]["type"]) == ("terminal", terminal, "ended")
    assert of_it[-1]["receipt"]["cause"] in ("signal", "killed")
    output = "".join(each["text"] for each in of_it if each["type"] == "output")
    assert (output.count("ready"), output.count("done")) == (1, 1)
    assert {each["channel"] for each in of_it if each["type"] == "output"} == {"terminal"}
    assert "typed-secret" not in json.dumps(found)
    attaches = [each["op"] for each in found if each.get("what") == "terminal.attach"]
    assert len(attaches) == 2
    assert [each["type"] for each in found if each["op"] == attaches[0]] == ["begun", "ended"]


async def test_a_background_command_is_told_to_its_end(edge: Edge) -> None:
    """Its output too, although no client reads that."""
    async with edge.execd() as client:
        body = {"command": "sleep 0.2; echo later; exit 3", "background": True}
        await client.post("/command", json=body)
    found = await events(edge, '"ended"', params={"after": 1})
    assert shown(found) == ["begun command", "output later", "ended"]
    assert (found[0]["background"], found[-1]["receipt"]["exit_code"]) == (True, 3)


async def test_connections_to_ports_and_signals_are_told(edge: Edge) -> None:
    """A port that nobody listens on as well."""
    async with native(edge) as client:
        running = await client.open("command", command="echo begun; sleep 300")
        started = await client.next(running)
        await client.next(running)
        await client.ask("signal", id=started["id"], signal="TERM")
        assert (await client.rest(running))[-1]["receipt"]["cause"] == "killed"
    async with edge.client() as http:
        assert (await http.get(f"/sandboxes/{SANDBOX_ID}/proxy/1/")).status_code == 502
    found = await entries(edge, 1)
    assert "failed port.refused" in shown(found)
    assert next(each for each in found if each.get("what") == "port")["port"] == 1
    signal = next(each for each in found if each.get("what") == "signal")
    assert (signal["text"], signal["context"]) == ("SIGTERM", started["id"])
    assert signal["actor"] == "key-1"


async def test_a_recorded_run_is_told_once(edge: Edge) -> None:
    """Whoever reads it, and however often."""
    async with edge.execd() as client:
        answer = await client.post("/command", json={"command": "echo once"}, headers={"Sandlot-Keep": "60"})
        run = json.loads(answer.text.partition("data: ")[2].partition("\n")[0])["text"]
        for _ in range(2):
            assert (await client.get(f"/runs/{run}/events", headers={"Last-Event-ID": "0"})).status_code == 200
    found = await entries(edge, 1)
    assert shown(found) == ["begun command", "output once", "ended"]
    assert found[0]["op"] == run


async def test_a_client_that_leaves_is_told(edge: Edge) -> None:
    """Its command ends with it."""
    body = {"command": "echo begun; sleep 300"}
    async with edge.execd() as client, client.stream("POST", "/command", json=body) as answer:
        async for piece in answer.aiter_text():
            if "begun" in piece:
                break
    found = await events(edge, '"failed"', params={"after": 1})
    assert found[-1]["code"] == "client.gone"


@pytest.mark.parametrize(
    ("keep", "told"),
    [("off", []), ("outline", ["begun command", "ended"]), ("full", ["begun command", "output x", "ended"])],
)
async def test_the_level_decides_what_is_kept(keep: str, told: list[str]) -> None:
    """Nothing, what begins and ends, or all of it."""
    async with claimed(keep) as edge:
        async with edge.execd() as client:
            await client.post("/command", json={"command": "echo x"})
        assert shown(await entries(edge, 0 if keep == "off" else 1)) == told
        async with edge.client() as client:
            assert (await client.get(PATH)).json()["keep"] == keep


async def test_the_three_surfaces_tell_the_same(edge: Edge) -> None:
    """JSON, events and both codecs of the native stream."""
    async with edge.execd() as client:
        await client.post("/command", json={"command": "echo \N{SNOWMAN}; printf '\\377'"})
    told = await entries(edge)
    last = f'"seq":{told[-1]["seq"]},'
    assert await events(edge, last) == told
    assert await events(edge, last, headers={"Last-Event-ID": "2"}) == told[2:]
    assert await events(edge, "", params={"follow": "false"}) == told
    for codec in (JSON, MSGPACK):
        async with native(edge, codec) as native_client:
            watching = await native_client.open("activity", after=1)
            assert [(await native_client.next(watching))["entry"] for _ in told[1:]] == told[1:]
            await native_client.send(type="cancel", stream=watching)
    assert [each["seq"] for each in await entries(edge, 2, limit=1)] == [3]


async def test_a_watcher_follows(edge: Edge) -> None:
    """Over the native stream, with credit: an entry that was told late is not lost."""
    async with native(edge) as client:
        watching = await client.open("activity", window=1)
        assert (await client.next(watching))["entry"]["state"] == "claimed"
        await client.ask("command", command="echo seen")
        await client.send(type="credit", stream=watching, bytes=100_000)
        told = [(await client.next(watching))["entry"] for _ in range(3)]
        assert shown(told) == ["begun command", "output seen", "ended"]
        assert told[0]["actor"] == "key-1"


@pytest.mark.attack(
    "edge",
    "A client asks for the whole activity of a sandbox hundreds of times at once, and reads no answer",
    "The server holds a stream's window for 64 of them, and refuses the others",
)
async def test_readers_of_ranges_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is made as its reader takes it; who left gives a place back."""
    monkeypatch.setattr("controlplane.activity.activities.MAX_WATCHERS", 2)
    monkeypatch.setattr("controlplane.api.activity.activity.MAX_PAGE_BYTES", 64 << 20)
    async with (
        claimed(max_activity_bytes=64 << 20) as edge,  # far more than sockets hold
        edge.execd() as commands,
        edge.client() as client,
        contextlib.AsyncExitStack() as silent,
    ):
        await commands.post("/command", json={"command": "head -c 24000000 /dev/zero | tr '\\0' x"})
        for _ in range(2):
            answer = await silent.enter_async_context(client.stream("GET", PATH))
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        refused = await client.get(PATH)
        assert (refused.status_code, "watch" in refused.text) == (429, True)
        await silent.aclose()
        async with asyncio.timeout(20):
            while (answer := await client.get(PATH)).status_code == 429:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
    told = answer.json()
    assert sum(each["bytes"] for each in told["entries"] if each["type"] == "output") == 24_000_000
    assert [each["seq"] for each in told["entries"]][-1] == told["last"]


async def test_a_person_at_the_console_is_named_as_one(edge: Edge) -> None:
    """By the cookie of a browser: over the native stream and over HTTP."""
    async with browser(edge) as person:
        headers = {"Cookie": await signed_in(person), "Origin": edge.url}
        url = f"ws://{edge.address}/v1/sandboxes/{SANDBOX_ID}/stream"
        async with streaming(url, headers=headers) as client:
            await client.hello()
            await client.ask("command", command="echo by-stream")
        path = f"/v1/sandboxes/{SANDBOX_ID}/proxy/44772/command"
        assert (await person.post(path, json={"command": "echo by-http"})).status_code == 200
    told = [(each["text"], each["actor"]) for each in await entries(edge, 1) if each["type"] == "begun"]
    assert told == [("echo by-stream", "console key-1"), ("echo by-http", "console key-1")]


async def test_bad_queries_are_refused(edge: Edge) -> None:
    """With what is expected."""
    async with edge.client() as client:
        for query in ({"after": "x"}, {"limit": "0"}, {"after": "-1"}):
            answer = await client.get(PATH, params=query)
            assert (answer.status_code, "whole number" in answer.text) == (400, True)
        answer = await client.get(PATH, headers={"accept": "text/event-stream", "last-event-id": "x"})
        assert answer.status_code == 400
        assert (await client.get("/sandboxes/other/activity")).status_code == 404


FLOOD = {"command": "head -c 20000000 /dev/zero | tr '\\0' x | fold -w 100"}


def covered(found: list[dict[str, Any]]) -> list[int]:
    """Return the numbers that a watcher was told of, as entries or as missing."""
    return [
        number
        for each in found
        for number in (range(each["from"], each["to"] + 1) if each["type"] == "skipped" else [each["seq"]])
    ]


async def test_ten_watchers_of_a_flood_lose_nothing_unsaid(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has every number once, and the end; what is missing is said."""
    monkeypatch.setattr(feed, "BYTES_PER_S", 16 << 20)
    watching = [asyncio.ensure_future(events(edge, '"type":"ended"')) for _ in range(10)]
    async with edge.execd() as client:
        assert (await client.post("/command", json=FLOOD)).status_code == 200
    told = await entries(edge)
    for found in await asyncio.gather(*watching):
        assert covered(found) == list(range(1, told[-1]["seq"] + 1))
        assert found[-1]["receipt"]["output_bytes"] > 20_000_000
        assert any(each["type"] == "output" for each in found)


async def test_a_watcher_that_does_not_read_delays_nobody(edge: Edge) -> None:
    """Neither the program nor another watcher; when it reads again, it hears what it has missed."""
    host, _, port = edge.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 12)
    lines = f"GET /v1{PATH} HTTP/1.1\r\nHost: {edge.address}\r\nAccept: text/event-stream\r\n"
    writer.write(f"{lines}OPEN-SANDBOX-API-KEY: {API_KEY}\r\n\r\n".encode())
    await reader.readuntil(b"claimed")
    other = asyncio.ensure_future(events(edge, '"type":"ended"'))
    async with edge.execd() as client:
        assert (await client.post("/command", json=FLOOD)).status_code == 200
    assert (await other)[-1]["type"] == "ended"
    text = b""
    async with asyncio.timeout(PATIENCE_S):
        while b'"type":"ended"' not in text:
            text += await reader.read(1 << 16)
    writer.close()
    assert b'"type":"skipped"' in text


async def test_a_killed_server_leaves_the_activity() -> None:
    """Another one goes on with the same numbers, and its watchers too."""
    async with LiveAgent() as agent:
        claim = SandboxClaim(id=SANDBOX_ID, activity="full")
        await (await agent.link.open(claim)).expect(SandboxClaimed)
        async with serving(agent.link) as edge:
            async with edge.execd() as client:
                await client.post("/command", json={"command": "echo before"})
            told = await entries(edge)
        await agent.link.aclose()
        agent.link = await agent.end.next_link()
        await (await agent.link.open(claim)).expect(SandboxClaimed)
        async with serving(agent.link) as edge:
            async with edge.execd() as client:
                await client.post("/command", json={"command": "echo after"})
            found = await entries(edge)
    assert found[: len(told)] == told
    assert shown(found[len(told) :]) == ["state linked", "begun command", "output after", "ended"]


async def test_a_watcher_outlives_a_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears what follows on the next one, each entry once."""
    async with LiveAgent() as agent:
        claim = SandboxClaim(id=SANDBOX_ID, activity="full")
        await (await agent.link.open(claim)).expect(SandboxClaimed)
        async with serving(agent.link) as edge:
            watching = asyncio.ensure_future(events(edge, '"type":"ended"'))
            async with asyncio.timeout(PATIENCE_S):
                while not agent.link.watches:  # noqa: ASYNC110 - there is no event
                    await asyncio.sleep(0.001)
            edge.directory.remove(agent.link)
            await agent.link.aclose()
            agent.link = await agent.end.next_link()
            edge.directory.put(agent.link)
            await (await agent.link.open(claim)).expect(SandboxClaimed)
            async with edge.execd() as client:
                await client.post("/command", json={"command": "echo after"})
            found = await watching
    assert shown(found) == ["state claimed", "state linked", "begun command", "output after", "ended"]


async def test_the_token_of_the_sandbox_reads_its_activity(edge: Edge) -> None:
    """That of another does not."""
    async with edge.execd() as client:
        path = f"{edge.url}/v1{PATH}"
        assert (await client.get(path)).status_code == 200
        other = f"{edge.url}/v1/sandboxes/another/activity"
        assert (await client.get(other)).status_code == 401


async def test_watching_is_no_use_of_the_sandbox(edge: Edge) -> None:
    """An idle timeout goes on, however many watch."""
    watching = asyncio.ensure_future(events(edge, "never"))
    link = edge.directory.get(SANDBOX_ID)
    assert link is not None
    async with asyncio.timeout(PATIENCE_S):
        while not link.watches:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.001)
    counts = link.statistics()
    assert counts.streams - counts.watches == 1  # the claim's
    assert not LastUses(edge.directory)._is_going_on(SANDBOX_ID)
    async with edge.execd() as client:
        running = asyncio.ensure_future(client.post("/command", json={"command": "sleep 300"}))
        async with asyncio.timeout(PATIENCE_S):
            while not LastUses(edge.directory)._is_going_on(SANDBOX_ID):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.001)
        running.cancel()
    watching.cancel()
    await asyncio.wait([running, watching])
