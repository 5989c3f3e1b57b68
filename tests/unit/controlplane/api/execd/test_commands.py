"""POST /command and its relatives, before an agent that says what the test wants."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from controlplane.api.app import ApiSettings
from execd.errors import ExecdError
from execd.wire.aio import Stream
from execd.wire.frames import Channel
from execd.wire.messages import (
    Done,
    ProcessExited,
    ProcessList,
    ProcessOutput,
    ProcessSignal,
    ProcessStart,
    ProcessStarted,
    ProcessState,
)
from tests.support.server.api_server import SANDBOX_ID, serving_agent


def events(body: str) -> list[dict[str, Any]]:
    """Return the events of a whole stream, each of which must be one line of ASCII JSON in a frame of its own."""
    assert body.isascii()
    frames = body.split("\n\n")
    assert frames.pop() == ""
    assert all(frame.startswith("{") and "\n" not in frame for frame in frames)
    return [json.loads(frame) for frame in frames]


def without_times(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check that every event has a time in whole milliseconds, and return them without."""
    assert all(type(event.pop("timestamp")) is int for event in found)
    return found


class Agent:
    """Serves commands: output as told, then the end as told."""

    def __init__(self, *output: tuple[Channel, bytes], exited: ProcessExited | None = None) -> None:
        self.started: list[ProcessStart] = []
        self.output = output
        self.exited = exited or ProcessExited("exit", 0, wall_s=0.0123)
        self.gone = asyncio.Event()

    async def start(self, stream: Stream, request: ProcessStart) -> None:
        """Serve process.start."""
        self.started.append(request)
        await stream.send(ProcessStarted(7))
        if request.background:
            return
        for channel, data in self.output:
            await stream.write(data, channel)
        await stream.send(self.exited)

    async def hang(self, stream: Stream, request: ProcessStart) -> None:
        """Serve process.start: start, print a line, and go on until the stream is reset."""
        await stream.send(ProcessStarted(7))
        await stream.write(b"begun\n", Channel.STDOUT)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.gone.set()


async def run(agent: Agent, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Run one command to its end."""
    async with serving_agent({ProcessStart: agent.start}) as edge, edge.execd() as client:
        response = await client.post("/command", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return without_times(events(response.text))


async def test_a_command_is_init_then_output_then_complete() -> None:
    """The shapes of the contract, in its order; the id of init is the one that the agent knows."""
    agent = Agent((Channel.STDOUT, b"Hello OpenSandbox E2E\n"), (Channel.STDERR, "oops \u2028\n".encode()))

    found = await run(
        agent, {"command": "echo", "cwd": "/tmp", "timeout": 1500, "uid": 1, "gid": 2, "envs": {"A": "b"}}
    )

    assert [
        {"type": "init", "text": agent.started[0].id},
        {"type": "stdout", "text": "Hello OpenSandbox E2E"},
        {"type": "stderr", "text": "oops \u2028"},
        {
            "type": "execution_complete",
            "execution_time": 12,
            "receipt": {"cause": "exit", "wall_s": 0.0123, "cpu_s": 0.0, "peak_memory_bytes": 0, "output_bytes": 0},
        },
    ] == found
    start = agent.started[0]
    assert (
        start.shell,
        start.argv,
        start.cwd,
        start.timeout_s,
        start.uid,
        start.gid,
        start.env,
        start.background,
    ) == ("echo", (), "/tmp", 1.5, 1, 2, {"A": "b"}, False)


@pytest.mark.parametrize(
    ("exited", "error"),
    [
        (ProcessExited("exit", 7), ("7", "exit status 7")),
        (ProcessExited("signal", 137, signal=9), ("137", "ended by signal 9 (SIGKILL)")),
        (ProcessExited("timeout", 143, signal=15), ("143", "timed out after 2 s")),
        (ProcessExited("oom", 137, signal=9), ("137", "killed by the kernel: out of memory")),
        (ProcessExited("killed", 143, signal=15), ("143", "ended on request")),
    ],
)
async def test_a_failed_command_states_its_cause(exited: ProcessExited, error: tuple[str, str]) -> None:
    """Exactly one error event ends it: the exit code as a number for the SDK, the cause in words for people."""
    found = await run(Agent((Channel.STDOUT, b"half a line"), exited=exited), {"command": "x", "timeout": 2000})

    assert [
        {"type": "stdout", "text": "half a line"},
        {
            "type": "error",
            "error": {"ename": "CommandExecError", "evalue": error[0], "traceback": [error[1]]},
            "receipt": {"cause": exited.cause, "wall_s": 0.0, "cpu_s": 0.0, "peak_memory_bytes": 0, "output_bytes": 0}
            | {"exit_code": exited.exit_code}
            | ({"signal": exited.signal} if exited.signal else {}),
        },
    ] == found[1:]


async def test_what_cannot_be_started_ends_with_127() -> None:
    """The SDK reads an exit code where shells have one, and the reason."""

    async def refuse(stream: Stream, request: ProcessStart) -> None:
        raise ExecdError("process.spawn_failed", "nope: no such program")

    async with serving_agent({ProcessStart: refuse}) as edge, edge.execd() as client:
        found = without_times(events((await client.post("/command", json={"argv": ["nope"]})).text))

    error = {"ename": "CommandExecError", "evalue": "127", "traceback": ["nope: no such program"]}
    assert [{"type": "stderr", "text": "nope: no such program"}, {"type": "error", "error": error}] == found[1:]


async def test_a_background_command_completes_at_once() -> None:
    """init and complete, without waiting for its end."""
    agent = Agent()

    found = await run(agent, {"argv": ["sleep", "100"], "background": True})

    assert [event["type"] for event in found] == ["init", "execution_complete"]
    assert agent.started[0].background


async def test_init_comes_before_the_agent_has_said_anything() -> None:
    """The id by which a command can be interrupted is there before the command is."""
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def slow(stream: Stream, request: ProcessStart) -> None:
        asked.set()
        await may_answer.wait()
        await stream.send(ProcessExited("exit", 0))

    async with (
        serving_agent({ProcessStart: slow}) as edge,
        edge.execd() as client,
        client.stream("POST", "/command", json={"command": "x"}) as response,
    ):
        chunks = response.aiter_text()
        first = await anext(chunks)
        await asked.wait()
        may_answer.set()
        rest = "".join([chunk async for chunk in chunks])

    assert [event["type"] for event in events(first)] == ["init"]
    assert [event["type"] for event in events(rest)] == ["execution_complete"]


async def test_a_client_that_goes_away_ends_its_command() -> None:
    """Closing the connection resets the stream, which ends the process."""
    agent = Agent()
    async with serving_agent({ProcessStart: agent.hang}) as edge:
        async with edge.execd() as client, client.stream("POST", "/command", json={"command": "x"}) as response:
            async for line in response.aiter_lines():
                if "begun" in line:
                    break
        async with asyncio.timeout(5):
            await agent.gone.wait()


async def test_a_client_that_does_not_read_stops_its_command_and_nothing_else() -> None:
    """Backpressure reaches the agent: only what windows and sockets hold is written, while others go on."""
    written = 0
    is_stuck = asyncio.Event()

    async def flood(stream: Stream, request: ProcessStart) -> None:
        nonlocal written
        if request.shell == "quick":
            await stream.send(ProcessExited("exit", 0))
            return
        while True:
            if not stream.write_nowait(b"y" * 1000 + b"\n", Channel.STDOUT):
                loop = asyncio.get_running_loop()
                stuck = loop.call_later(0.5, is_stuck.set)
                await stream.wait_writable()
                stuck.cancel()
            written += 1001

    async with (
        serving_agent({ProcessStart: flood}) as edge,
        edge.execd() as client,
        client.stream("POST", "/command", json={"command": "flood"}),
    ):
        async with asyncio.timeout(20):
            await is_stuck.wait()
        quick = await client.post("/command", json={"command": "quick"})

    assert "execution_complete" in quick.text
    assert written < 32 << 20


async def test_pings_keep_a_silent_stream_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing happens, pings do."""
    monkeypatch.setattr("controlplane.api.runs.sse.PING_INTERVAL_S", 0.01)
    agent = Agent()
    async with (
        serving_agent({ProcessStart: agent.hang}) as edge,
        edge.execd() as client,
        client.stream("POST", "/command", json={"command": "x"}) as response,
    ):
        seen = 0
        async for line in response.aiter_lines():
            seen += '"ping","text":"pong"' in line
            if seen == 3:
                break


async def test_an_agent_that_breaks_off_is_no_good_end() -> None:
    """A command whose end the agent does not tell leaves the response incomplete, never a made-up success."""

    async def vanish(stream: Stream, request: ProcessStart) -> None:
        await stream.write(b"last words\n", Channel.STDOUT)
        stream.end()

    async with serving_agent({ProcessStart: vanish}) as edge, edge.execd() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/command", json={"command": "x"})


BAD_COMMANDS: tuple[tuple[object, str], ...] = (
    ({}, "command"),
    ({"command": "a", "argv": ["b"]}, "command"),
    ({"command": "  "}, "command"),
    ({"argv": []}, "command"),
    ({"argv": [""]}, "command"),
    ({"argv": ["", "ls"]}, "command"),
    ({"argv": [" "]}, "command"),
    ({"command": "a\0b"}, "NUL"),
    ({"command": 5}, "command"),
    ({"command": "a", "timeout": -1}, "timeout"),
    ({"command": "a", "gid": 5}, "gid"),
    ({"command": "a", "uid": -5}, "uid"),
    ({"command": "a", "uid": 2**40}, "uid"),
    ({"command": "a", "cwd": "/a\0"}, "cwd"),
    ({"command": "a", "envs": {"A=B": "c"}}, "envs"),
    ({"command": "a", "envs": {"A": "c\0"}}, "envs"),
    ({"command": "a", "envs": {"A": 5}}, "envs"),
    (["command"], "object"),
)


async def test_bad_commands_never_reach_the_agent() -> None:
    """400, flat, the message names what is wrong; no agent is asked."""
    async with serving_agent({}) as edge, edge.execd() as client:
        for body, named in BAD_COMMANDS:
            response = await client.post("/command", json=body)

            assert (response.status_code, response.json()["code"]) == (400, "INVALID_REQUEST_BODY"), body
            assert named in response.json()["message"], body


async def test_ten_megabytes_of_garbage_are_refused_and_the_connection_goes_on() -> None:
    """A body that is too large is a 400, and the next request on the same connection is answered."""
    async with serving_agent({ProcessStart: Agent().start}) as edge, edge.execd() as client:
        response = await client.post("/command", content=b"\xff\x00" * (5 << 20))
        after = await client.post("/command", json={"command": "true"})

    assert (response.status_code, response.json()["code"]) == (400, "INVALID_REQUEST_BODY")
    assert "execution_complete" in after.text


async def test_status_of_a_command() -> None:
    """Running: exit_code and finished_at are null, as the contract wants; ended: how, and when."""
    states = {
        "a": ProcessState("a", "sleep 9", 5, 1_700_000_000.25),
        "b": ProcessState("b", "false", 6, 1_700_000_000.0, 1_700_000_001.5, ProcessExited("oom", 137, 9)),
    }

    async def show(stream: Stream, request: ProcessList) -> None:
        if request.id not in states:
            raise ExecdError("process.not_found", f"there is no process {request.id}")
        await stream.send(states[request.id])

    async with serving_agent({ProcessList: show}) as edge, edge.execd() as client:
        running, ended, missing = [(await client.get(f"/command/status/{name}")) for name in "abc"]

    assert running.json() == {
        "id": "a",
        "content": "sleep 9",
        "running": True,
        "exit_code": None,
        "started_at": "2023-11-14T22:13:20.250000Z",
        "finished_at": None,
    }
    assert tuple(ended.json()[key] for key in ("running", "exit_code", "error", "finished_at")) == (
        False,
        137,
        "killed by the kernel: out of memory",
        "2023-11-14T22:13:21.500000Z",
    )
    assert (missing.status_code, missing.json()["code"]) == (404, "COMMAND_NOT_FOUND")


async def test_logs_come_with_the_cursor_to_go_on_from() -> None:
    """The text since the cursor, and where it ends."""

    async def show(stream: Stream, request: ProcessOutput) -> None:
        kept = b"one\ntwo\n"
        await stream.send(ProcessState(request.id, "x", 5, 0.0, output_start=request.offset, output_end=len(kept)))
        await stream.write(kept[request.offset :], Channel.STDOUT)

    async with serving_agent({ProcessOutput: show}) as edge, edge.execd() as client:
        response = await client.get("/command/abc/logs", params={"cursor": 4})
        negative = await client.get("/command/abc/logs", params={"cursor": -4})

    assert (response.text, response.headers["EXECD-COMMANDS-TAIL-CURSOR"]) == ("two\n", "8")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert negative.status_code == 400


async def test_interrupt_signals_the_process_gently_first() -> None:
    """SIGTERM, and SIGKILL a little later; an unknown id is a status that the contract has."""
    asked: list[ProcessSignal] = []

    async def signal(stream: Stream, request: ProcessSignal) -> None:
        asked.append(request)
        if request.id != "abc":
            raise ExecdError("process.not_found", "there is no such process")
        await stream.send(Done())

    async with serving_agent({ProcessSignal: signal}) as edge, edge.execd() as client:
        good = await client.delete("/command", params={"id": "abc"})
        unknown = await client.delete("/command", params={"id": "abd"})
        without = await client.delete("/command")

    assert (good.status_code, unknown.status_code, without.status_code) == (200, 400, 400)
    assert (unknown.json()["code"], without.json()["code"]) == ("COMMAND_NOT_FOUND", "MISSING_QUERY")
    assert ProcessSignal("abc", 15, 2.0) == asked[0]


async def test_the_server_s_time_limit_holds_for_commands_that_name_none() -> None:
    """`run_timeout_s` is put in, except in the background: a server lives as long as its sandbox. A command's own limit
    wins."""
    agent = Agent()
    async with (
        serving_agent({ProcessStart: agent.start}, ApiSettings(run_timeout_s=30)) as edge,
        edge.execd() as client,
    ):
        await client.post("/command", json={"command": "a"})
        await client.post("/command", json={"command": "a", "timeout": 100})
        await client.post("/command", json={"command": "a", "background": True})
        await client.post("/command", json={"command": "a", "background": True, "timeout": 100})

    assert [start.timeout_s for start in agent.started] == [30, 0.1, None, 0.1]


async def test_without_its_token_a_sandbox_answers_nobody() -> None:
    """A token of another sandbox is no token; with an API key it works."""
    async with serving_agent({ProcessStart: Agent().start}) as edge, httpx.AsyncClient() as client:
        url = f"{edge.proxy}/44772/command"
        answers = [
            await client.post(url, json={"command": "true"}, headers=headers)
            for headers in (
                {},
                {"X-EXECD-ACCESS-TOKEN": "wrong"},
                {"X-EXECD-ACCESS-TOKEN": edge.token},
                {"OpenSandbox-Secure-Access": edge.token},
                {"X-EXECD-ACCESS-TOKEN": "sandlot_test_key"},
                {"Authorization": "Bearer sandlot_test_key"},
            )
        ]
        other = await client.get(
            f"{edge.url}/sandboxes/{SANDBOX_ID[::-1]}/proxy/44772/ping", headers={"X-EXECD-ACCESS-TOKEN": edge.token}
        )

    assert [answer.status_code for answer in answers] == [401, 401, 200, 200, 200, 200]
    assert [answer.json()["code"] for answer in answers[:2]] == ["MISSING_API_KEY", "INVALID_API_KEY"]
    assert other.status_code == 401
