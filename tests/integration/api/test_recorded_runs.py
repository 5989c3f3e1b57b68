"""Recorded runs at the edge: nothing is lost and nothing comes twice, whoever is cut off or killed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from msgspec.structs import replace

from controlplane.sandbox import State
from execd.dispatch import Replies
from execd.wire.aio import Stream
from execd.wire.frames import Channel
from execd.wire.messages import (
    MAX_NUMBER,
    ContextInterrupt,
    Done,
    ProcessExited,
    ProcessStart,
    Request,
    RunFind,
    RunItem,
    RunOutput,
    RunRecord,
    RunResume,
    RunState,
)
from tests.support.agent.live_agent import LiveAgent
from tests.support.server.api_server import API_KEY, SANDBOX_ID, Edge, serving, serving_agent
from tests.support.server.stream_client import JSON, MSGPACK, output, streaming

KEEP = {"Sandlot-Keep": "60"}
KEY = {"OPEN-SANDBOX-API-KEY": API_KEY}
PATIENCE_S = 20.0


class Event(NamedTuple):
    """An event that has an id, or has none: then `id` is ""."""

    id: str
    data: dict[str, Any]


def events_of(text: str) -> list[Event]:
    """Return the whole events of a stream, without the times at which they were told, and without pings."""
    events = []
    for block in text.split("\n\n")[:-1]:
        found = re.fullmatch(r"(?:id: ([\d.]+)\n)?data: (\{.*\})", block)
        assert found, block
        data = json.loads(found[2])
        del data["timestamp"]
        if data["type"] != "ping":
            events.append(Event(found[1] or "", data))
    return events


def stdout_of(events: list[Event]) -> list[str]:
    return [event.data["text"] for event in events if event.data["type"] == "stdout"]


class Servers:
    """One sandbox, and one server after the other."""

    def __init__(self, agent: LiveAgent) -> None:
        self.agent = agent
        self.edge: Edge
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Start a server that knows nothing of the ones before."""
        self.edge = await self._stack.enter_async_context(serving(self.agent.link))

    async def kill(self) -> None:
        """Take the link away from the server, as its death would, and start another."""
        await self.agent.link.aclose()
        self.agent.link = await self.agent.end.next_link()
        await self.start()

    async def aclose(self) -> None:
        await self._stack.aclose()

    async def begin(self, method: str, path: str, body: object, until: str) -> tuple[list[Event], str]:
        """Begin a run, read until something is said, and hang up; return the events and the run's id."""
        text = ""
        async with (
            asyncio.timeout(PATIENCE_S),
            self.edge.execd() as client,
            client.stream(method, path, json=body, headers=KEEP) as answer,
        ):
            assert answer.status_code == 200, await answer.aread()
            async for piece in answer.aiter_text():
                text += piece
                if until in text:
                    break
        events = events_of(text)
        return events, events[0].data.get("run_id") or events[0].data["text"]

    async def resume(self, run_id: str, after: str) -> list[Event]:
        """Read a run to its end."""
        async with self.edge.execd() as client:
            answer = await client.get(f"/runs/{run_id}/events", headers={"Last-Event-ID": after})
        assert answer.status_code == 200, answer.text
        return events_of(answer.text)


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    async with LiveAgent() as agent, contextlib.AsyncExitStack() as stack:
        servers = Servers(agent)
        stack.push_async_callback(servers.aclose)
        await servers.start()
        yield servers


async def session(servers: Servers) -> str:
    async with servers.edge.execd() as client:
        return str((await client.post("/session", json={})).json()["session_id"])


async def test_a_client_that_leaves_at_once_has_its_run(servers: Servers) -> None:
    """Also if the agent reads in one go that the run begins and that its reader has gone."""
    link = servers.agent.link
    for number in range(10):
        request = ProcessStart(id=f"run-{number}", argv=("true",))
        stream = await link.open(RunRecord(request.id, 60, request, lines=True))
        stream.close()
        found = await (await link.open(RunFind(request.id))).expect(RunState)
        assert found.kind == "process"


SCRIPT = r"""
echo first; printf 'one\n\n\ntwo\n\n'; printf '10%%\r20%%\r\n\nhalf' ; echo err >&2; sleep 0.1; echo ' line'
for i in $(seq 150); do echo "$i"; done; printf '\n\n'; printf 'no end'; while [ ! -e GATE ]; do sleep 0.02; done
"""


@pytest.mark.parametrize("kind", ["command", "code", "session"])
async def test_a_killed_server_loses_no_event_and_tells_none_twice(servers: Servers, tmp_path: Path, kind: str) -> None:
    """Wherever the client was cut off, and however often the server dies: ids and events are the same."""
    script = SCRIPT.replace("GATE", str(tmp_path / "gate"))
    path, body = {
        "command": ("/command", {"command": script + "exit 7"}),
        "code": ("/code", {"code": script + "(exit 7)", "context": {"language": "bash"}}),
        "session": (f"/session/{await session(servers)}/run", {"command": script + "(exit 7)"}),
    }[kind]
    heard, run_id = await servers.begin("POST", path, body, '150"')
    await servers.kill()
    (tmp_path / "gate").touch()
    whole = heard + await servers.resume(run_id, heard[-1].id)
    ids = [event.id for event in whole]
    assert len(set(ids)) == len(ids)
    assert "" not in ids
    lines = stdout_of(whole)
    assert lines[:4] == ["first", "one", "\n\n", "\n"]
    assert [line for line in "\n".join(lines).split("\n") if line.isdigit()] == [
        str(number) for number in range(1, 151)
    ]
    assert lines[-1] == "no end"
    assert whole[0].data["type"] == "init"
    assert [event.data["error"]["evalue"] for event in whole if event.data["type"] == "error"] == ["7"]
    await servers.kill()
    assert await servers.resume(run_id, "0") == whole
    for at in range(0, len(whole), 3 if kind == "command" else 10):
        assert await servers.resume(run_id, ids[at]) == whole[at + 1 :]


async def test_a_server_that_dies_at_every_point_of_a_resumption_loses_nothing(servers: Servers) -> None:
    """While the run is asked for, and in the middle of any event, again and again."""
    script = "for i in $(seq 60); do echo line $i; echo error $i >&2; done"
    heard, run_id = await servers.begin("POST", "/command", {"command": script}, "line")
    whole = await servers.resume(run_id, "0")
    assert heard == whole[: len(heard)]
    chosen = random.Random(12)
    for _ in range(12):
        text, wanted = "", chosen.choice([0, 1, 200, 1000, 3000])
        headers = {"Last-Event-ID": heard[-1].id}
        async with servers.edge.execd() as client:
            asking = asyncio.ensure_future(servers.kill()) if not wanted else None
            with contextlib.suppress(httpx.HTTPError):
                async with client.stream("GET", f"/runs/{run_id}/events", headers=headers) as answer:
                    async for piece in answer.aiter_text(200):
                        text += piece
                        if len(text) > wanted:
                            break
            await (asking or servers.kill())
        heard += [event for event in events_of(text[: text.rfind("\n\n") + 2]) if event.id]
    heard += await servers.resume(run_id, heard[-1].id)
    assert heard == whole


async def test_results_and_errors_are_told_once(servers: Servers) -> None:
    """An event that is one of several of its item has an id of its own."""
    heard, run_id = await servers.begin(
        "POST", "/code", {"code": "echo a; false", "context": {"language": "bash"}}, "a"
    )
    whole = await servers.resume(run_id, "0")
    assert [event.data["type"] for event in whole] == [
        "init",
        "stdout",
        "execution_count",
        "error",
        "execution_complete",
    ]
    assert [event.id for event in whole] == ["1", "2", "2.1", "2.2", "3"]
    assert heard == whole[: len(heard)]
    for at in range(len(whole)):
        await servers.kill()
        assert await servers.resume(run_id, whole[at].id) == whole[at + 1 :]


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
async def test_the_native_stream_goes_on_at_a_new_server(servers: Servers, tmp_path: Path, subprotocol: str) -> None:
    """With the same numbers; a command and code."""
    script = f"echo Füße; printf half; while [ ! -e {tmp_path}/gate ]; do sleep 0.02; done; echo end; exit 7"
    operations = (
        {"op": "command", "command": script},
        {"op": "run", "code": script.replace("exit 7", "(exit 7)"), "language": "bash"},
    )
    begun: list[list[dict[str, Any]]] = []
    async with native(servers.edge, subprotocol) as client:
        for operation in operations:
            number = await client.open(keep_s=60, **operation)
            messages = [await client.next(number)]
            while output(messages)[-4:] not in ("half", b"half"):
                messages.append(await client.next(number))
            begun.append(messages)
    await servers.kill()
    (tmp_path / "gate").touch()
    async with native(servers.edge, subprotocol) as client:
        for messages in begun:
            heard = messages + await client.ask("resume", id=messages[0]["id"], after=messages[-1]["seq"])
            assert [message["seq"] for message in heard] == list(range(1, len(heard) + 1))
            said = output(heard)
            assert (said if client.is_text else said.decode()) == "Füße\nhalfend\n"
            assert heard[-1]["receipt"]["exit_code"] == 7
            again = await client.ask("resume", id=messages[0]["id"], after=0)
            assert strip(again) == strip(heard)
            assert strip(await client.ask("resume", id=messages[0]["id"], after=len(heard))) == [{"type": "done"}]


def strip(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in message.items() if key != "stream"} for message in messages]


@contextlib.asynccontextmanager
async def native(edge: Edge, subprotocol: str = JSON) -> AsyncIterator[Any]:
    """A client of the native stream."""
    url = f"ws://{edge.address}/v1/sandboxes/{SANDBOX_ID}/stream"
    async with streaming(url, subprotocol=subprotocol, headers=KEY) as client:
        await client.hello()
        yield client


async def test_a_new_server_finds_a_run_by_its_id(servers: Servers) -> None:
    """To interrupt it, also when nobody reads it: a run of code, a run of a session, a command."""
    runs = []
    for path, body in (
        ("/code", {"code": "echo begun; sleep 300", "context": {"language": "bash"}}),
        (f"/session/{await session(servers)}/run", {"command": "echo begun; sleep 300"}),
        ("/command", {"command": "echo begun; sleep 300"}),
    ):
        _, run_id = await servers.begin("POST", path, body, "begun")
        runs.append((path, run_id))
    await servers.kill()
    async with servers.edge.execd() as client:
        for path, run_id in runs:
            endpoint = "/code" if path == "/code" else "/command"
            assert (await client.delete(endpoint, params={"id": run_id})).status_code == 200
            (*_, end) = await servers.resume(run_id, "0")
            assert end.data["receipt"]["cause"] in ("interrupted", "killed")


async def test_a_client_cancels_a_run_at_a_new_server(servers: Servers) -> None:
    """`cancel` ends a recorded run; leaving does not."""
    async with native(servers.edge) as client:
        number = await client.open("command", command="sleep 300", keep_s=60)
        run_id = (await client.next(number))["id"]
    await servers.kill()
    async with native(servers.edge) as client:
        number = await client.open("resume", id=run_id)
        await client.next(number)
        await client.send(type="cancel", stream=number)
        async with asyncio.timeout(PATIENCE_S):
            while (await client.ask("resume", id=run_id))[-1].get("code") != "RUN_NOT_FOUND":
                pass


async def test_another_reader_takes_over(servers: Servers) -> None:
    """The older one is told so and ends, and the run goes on."""
    async with servers.edge.execd() as client:
        body = {"command": "echo begun; sleep 300"}
        async with client.stream("POST", "/command", json=body, headers=KEEP) as answer:
            pieces = answer.aiter_text()
            text = ""
            while "begun" not in text:
                text += await anext(pieces)
            run_id = events_of(text)[0].data["text"]
            async with client.stream("GET", f"/runs/{run_id}/events", headers={"Last-Event-ID": "1"}) as other:
                assert '"begun"' in await anext(other.aiter_text())
                text += "".join([piece async for piece in pieces])
    (*_, end) = events_of(text)
    assert end.id == ""
    assert "run.taken" in end.data["error"]["traceback"][0]
    async with servers.edge.execd() as client:
        assert (await client.delete("/command", params={"id": run_id})).status_code == 200


async def test_what_cannot_be_resumed(servers: Servers) -> None:
    """Another sandbox's run, one that was made up, one that is paused, one of the native stream; each says so."""
    _, run_id = await servers.begin("POST", "/command", {"command": "echo begun"}, "begun")
    registry = servers.edge.registry
    sandbox = registry.get(SANDBOX_ID)
    other = "f" * 16
    registry.put(replace(sandbox, id=other))
    async with LiveAgent() as neighbour, servers.edge.client() as client, native(servers.edge) as stream:
        neighbour.link.sandbox_id = other
        servers.edge.directory.put(neighbour.link)
        natively = (await stream.ask("command", command="echo", keep_s=60))[0]["id"]
        for sandbox_id, run, after, status, code in (
            (other, run_id, "0", 404, "RUN_NOT_FOUND"),
            (SANDBOX_ID, "f" * 32, "0", 404, "RUN_NOT_FOUND"),
            (SANDBOX_ID, natively, "0", 404, "RUN_NOT_FOUND"),
            (SANDBOX_ID, run_id, "999", 404, "RUN_EVENTS_LOST"),
            (SANDBOX_ID, run_id, "9" * 100, 404, "RUN_EVENTS_LOST"),
            (SANDBOX_ID, run_id, "1.x", 400, "MISSING_QUERY"),
        ):
            path = f"/sandboxes/{sandbox_id}/proxy/44772/runs/{run}/events"
            answer = await client.get(path, params={"after": after})
            assert (answer.status_code, answer.json()["code"]) == (status, code)
        registry.put(replace(sandbox, state=State.PAUSED))
        answer = await client.get(f"/sandboxes/{SANDBOX_ID}/proxy/44772/runs/{run_id}/events")
        assert answer.status_code == 409


async def test_a_run_is_resumed_after_its_context_was_restarted(servers: Servers) -> None:
    """What it said is still there, and how it ended."""
    body = {"code": "echo begun; sleep 300", "context": {"language": "bash"}}
    heard, run_id = await servers.begin("POST", "/code", body, "begun")
    async with servers.edge.execd() as client:
        assert (await client.post(f"/code/contexts/{heard[0].data['text']}/restart")).status_code == 200
    (*_, died, complete) = await servers.resume(run_id, heard[-1].id)
    assert died.data["error"]["ename"] == "ContextDied"
    assert complete.data["receipt"]["died_of"] == "killed"


async def test_a_run_in_a_context_that_died_unseen_is_begun_again_and_recorded(servers: Servers) -> None:
    """The first try is not recorded; the numbers count from one, and the loss is told."""
    body = {"code": "echo $$", "context": {"language": "bash"}}
    async with servers.edge.execd() as client:
        first = events_of((await client.post("/code", json=body, headers=KEEP)).text)
        pid = int(stdout_of(first)[0])
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            while os.path.exists(f"/proc/{pid}"):  # noqa: ASYNC110, ASYNC240
                await asyncio.sleep(0.01)
        second = events_of((await client.post("/code", json=body, headers=KEEP)).text)
    assert [event.data["type"] for event in second[:3]] == ["init", "stderr", "stdout"]
    assert [event.id for event in second[:3]] == ["1", "2", "3"]
    assert "has begun anew" in second[1].data["text"]
    assert await servers.resume(second[0].data["run_id"], "0") == second


async def test_a_recorded_run_that_waits_for_its_turn_is_interrupted_alone(servers: Servers, tmp_path: Path) -> None:
    """It leaves the queue; the run before it goes on."""
    gate = tmp_path / "gate"
    first = {"code": f"echo begun; until [ -e {gate} ]; do sleep 0.02; done", "context": {"language": "bash"}}
    _, first_id = await servers.begin("POST", "/code", first, "begun")
    second = {"code": "echo second", "context": {"language": "bash"}}
    async with (
        servers.edge.execd() as client,
        servers.edge.execd() as other,
        other.stream("GET", f"/runs/{first_id}/events") as reading,
        client.stream("POST", "/code", json=second, headers=KEEP) as answer,
    ):
        pieces = answer.aiter_text()
        text = await anext(pieces)
        waiting = events_of(text)[0].data["run_id"]
        assert (await interrupt_run(servers.edge, waiting)) == 200
        text += "".join([piece async for piece in pieces])
        gate.touch()
        rest = events_of("".join([piece async for piece in reading.aiter_text()]))
    (*_, end) = events_of(text)
    assert end.data["error"]["ename"] == "KeyboardInterrupt"
    assert stdout_of(events_of(text)) == []
    assert rest[-1].data["receipt"]["cause"] == "ok"
    async with servers.edge.execd() as client:
        assert (await client.get(f"/runs/{waiting}/events")).status_code == 404


async def interrupt_run(edge: Edge, run_id: str) -> int:
    """Interrupt a run; return the status."""
    async with edge.execd() as client:
        return (await client.delete("/code", params={"id": run_id})).status_code


async def test_a_killed_agent_ends_what_is_read_with_an_error(servers: Servers) -> None:
    """Its recordings are gone with it."""
    async with servers.edge.execd() as client:
        body = {"command": "echo begun; sleep 20"}
        async with client.stream("POST", "/command", json=body, headers=KEEP) as answer:
            text, is_killed = "", False
            async for piece in answer.aiter_text():
                text += piece
                if "begun" in text and not is_killed:
                    servers.agent.process.kill()
                    is_killed = True
    (*_, end) = events_of(text)
    assert (end.id, end.data["error"]["ename"]) == ("", "LinkLost")
    assert end.data["receipt"]["cause"] == "link_lost"


async def test_background_commands_are_not_recorded(servers: Servers) -> None:
    """They outlive their clients by themselves; their two events have ids all the same."""
    async with servers.edge.execd() as client:
        body = {"command": "sleep 0", "background": True}
        events = events_of((await client.post("/command", json=body, headers=KEEP)).text)
        assert [event.id for event in events] == ["1", "2"]
        gone = await client.get(f"/runs/{events[0].data['text']}/events")
    assert (gone.status_code, gone.json()["code"]) == (404, "RUN_NOT_FOUND")


async def test_an_agent_of_an_earlier_release_records_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm container may be older than the server: a clear error, and a link that lasts."""
    monkeypatch.setattr("execd.server.GENERATION", 1)

    async def interrupt(stream: Stream, request: ContextInterrupt) -> None:
        await stream.send(Done())

    async with serving_agent({ContextInterrupt: interrupt}) as edge, edge.execd() as client:
        refused = await client.post("/command", json={"command": "true"}, headers=KEEP)
        assert (refused.status_code, refused.json()["code"]) == (500, "NOT_SUPPORTED")
        assert "earlier release" in refused.json()["message"]
        assert (await client.get("/runs/x/events")).status_code == 500
        assert (await client.delete("/code", params={"id": "x"})).status_code == 200


# -- attacks ----------------------------------------


def rss_bytes(pid: str) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


@pytest.mark.attack(
    "edge",
    "A client begins recorded runs that print megabytes, and leaves each of them (150 took the server 850 MB)",
    "The server's memory stays flat; the sandbox pays for the recordings, up to its bound",
)
async def test_recorded_runs_take_no_memory_of_the_server(servers: Servers) -> None:
    """20 runs of 4.5 MB each."""
    before = rss_bytes("self")
    async with servers.edge.execd() as client:
        for _ in range(20):
            body = {"command": "yes 0123456789012345678901234567890123456789 | head -c 60000000"}
            async with client.stream("POST", "/command", json=body, headers=KEEP) as answer:
                seen = 0
                async for piece in answer.aiter_bytes():
                    seen += len(piece)
                    if seen > 4_500_000:
                        break
        assert (await client.get("/ping")).status_code == 200
    assert rss_bytes("self") - before < 64 << 20
    assert rss_bytes(str(servers.agent.process.pid)) < 100 << 20


@pytest.mark.attack(
    "edge",
    "One sandbox fills its recordings, in bytes and in number",
    "Another sandbox's recorded runs stay, whole",
)
async def test_a_full_sandbox_pushes_nothing_out_of_another(servers: Servers) -> None:
    """Each has its own bound."""
    _, run_id = await servers.begin("POST", "/command", {"command": "seq 1000"}, "1000")
    whole = await servers.resume(run_id, "0")
    async with LiveAgent() as attacker, serving(attacker.link) as edge, edge.execd() as client:
        for number in range(80):
            command = "head -c 3000000 /dev/zero | tr '\\0' x" if number < 6 else "true"
            assert (await client.post("/command", json={"command": command}, headers=KEEP)).status_code == 200
    assert await servers.resume(run_id, "0") == whole


ITEM = RunOutput(Channel.STDOUT, b"\n")


async def _order(stream: Stream) -> None:
    for number in (1, 2, 4):
        await stream.send(RunItem(number, ITEM))


async def _numbers(stream: Stream) -> None:
    await stream.send(RunItem(MAX_NUMBER, ITEM))


async def _kind(stream: Stream) -> None:
    await stream.send(Done())


async def _state(stream: Stream) -> None:
    await stream.send(RunState("nothing", "x" * 1000, lines=True, timeout_s=1e300, stdout=(b"\r",) * 3))


async def _data(stream: Stream) -> None:
    await stream.write(b"raw" * 1000, Channel.STDERR)


async def _large(stream: Stream) -> None:
    await stream.send(RunItem(1, RunOutput(99, b"x" * (15 << 20))))
    await stream.send(RunItem(2, ProcessExited("x" * 1000, 2**40)))


async def _nothing(stream: Stream) -> None:
    pass


@pytest.mark.attack(
    "agent",
    "A hijacked agent answers the resumption of a run with anything: wrong order, wrong types, raw data, nothing",
    "That stream ends with an error or with what was said; the server and the sandbox's other streams go on",
)
@pytest.mark.parametrize("answer", [_order, _numbers, _kind, _state, _data, _large, _nothing])
async def test_a_hijacked_agent_harms_only_itself(answer: Any) -> None:
    """Over HTTP and on the native stream, at the beginning of a run and when it is resumed."""

    async def begin(stream: Stream, request: RunRecord) -> None:
        await answer(stream)

    async def resume(stream: Stream, request: RunResume) -> None:
        await stream.send(RunState("context", "c", lines=True, timeout_s=None))
        await answer(stream)

    async with serving_agent({RunRecord: begin, RunResume: resume, RunFind: begin}) as edge, edge.execd() as client:
        with contextlib.suppress(httpx.HTTPError):  # the answer is broken off
            await client.post("/command", json={"command": "x"}, headers=KEEP)
        with contextlib.suppress(httpx.HTTPError):
            await client.get("/runs/x/events")
        assert (await client.delete("/code", params={"id": "x"})).status_code >= 400
        async with native(edge) as stream:
            for operation in ({"op": "command", "command": "x", "keep_s": 9}, {"op": "resume", "id": "x"}):
                assert (await stream.ask(**operation))[-1]["type"] in ("failed", "done")
        assert (await client.get("/ping")).status_code == 200


@pytest.mark.attack(
    "agent",
    "A hijacked agent sends the items of a recorded run without end, as small as they can be",
    "The server answers others meanwhile, and a reader that does not read stops the agent",
)
async def test_endless_items_stop_nobody_else() -> None:
    """A budget of items, and the reader's own pace."""
    sent = 0

    async def flood(stream: Replies, request: Request) -> None:
        nonlocal sent
        while True:
            sent += 1
            await stream.send(RunItem(sent, Done()))

    async with serving_agent({RunRecord: flood}) as edge, edge.execd() as client, edge.execd() as other:
        async with client.stream("POST", "/command", json={"command": "x"}, headers=KEEP):
            for _ in range(10):
                asked = asyncio.get_running_loop().time()
                assert (await other.get("/ping")).status_code == 200
                assert asyncio.get_running_loop().time() - asked < 5
        assert sent > 0
