"""The native stream, on a real execd."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.server.api_server import API_KEY, SANDBOX_ID, Edge
from tests.support.server.stream_client import JSON, MSGPACK, StreamClient, output, streaming

KEY = {"OPEN-SANDBOX-API-KEY": API_KEY}


def url(edge: Edge, more: str = "") -> str:
    return f"ws://{edge.address}/v1/sandboxes/{SANDBOX_ID}/stream{more}"


@pytest.fixture(params=[JSON, MSGPACK])
async def client(edge: Edge, request: pytest.FixtureRequest) -> AsyncIterator[StreamClient]:
    """A client in either subprotocol."""
    async with streaming(url(edge), subprotocol=request.param, headers=KEY) as client:
        hello = await client.hello()
        assert (hello["type"], hello["sandbox"]) == ("hello", SANDBOX_ID)
        yield client


def said(client: StreamClient, text: str) -> str | bytes:
    """Output as the client's subprotocol has it."""
    return text if client.is_text else text.encode()


def content(client: StreamClient, data: bytes) -> str | bytes:
    """Bytes as the client's subprotocol has them."""
    return base64.b64encode(data).decode() if client.is_text else data


async def test_commands(client: StreamClient) -> None:
    """Started, output by channel, done with a receipt; several at once."""
    first = await client.open("command", command="echo out; echo err >&2; exit 3")
    second = await client.open("command", argv=["printf", "%s", "$HOME"], cwd="/", env={"A": "1"})
    messages = await client.rest(first)
    assert messages[0]["type"] == "started"
    assert (output(messages), output(messages, "stderr")) == (said(client, "out\n"), said(client, "err\n"))
    assert messages[-1]["receipt"]["exit_code"] == 3
    assert output(await client.rest(second)) == said(client, "$HOME")


async def test_what_a_client_types_is_a_programs_input(client: StreamClient) -> None:
    """And the server says how much of it was taken."""
    number = await client.open("command", argv=["cat"], stdin=True)
    await client.send(type="data", stream=number, text="häl")
    await client.send(type="data", stream=number, data=content(client, b"lo\n"))
    await client.send(type="end", stream=number)
    messages = await client.rest(number)
    assert output(messages) == said(client, "hällo\n")
    assert sum(message["bytes"] for message in messages if message["type"] == "credit") == len("hällo\n".encode())


async def test_a_signal_by_the_id(client: StreamClient) -> None:
    number = await client.open("command", command="echo there; exec sleep 300")
    started = await client.next(number)
    await client.next(number)
    assert (await client.ask("signal", id=started["id"], signal="KILL"))[-1]["type"] == "done"
    ended = (await client.rest(number))[-1]["receipt"]
    assert (ended["cause"], ended["signal"]) == ("killed", 9)
    for name, signal, code in (
        ("nobody", "TERM", "SESSION_NOT_FOUND"),
        ("x", "SIGNOTHING", "SANDBOX::INVALID_PARAMETER"),
    ):
        failed = (await client.ask("signal", id=name, signal=signal))[-1]
        assert (failed["type"], failed["code"]) == ("failed", code)


async def test_a_cancelled_command_is_killed(client: StreamClient, tmp_path: Path) -> None:
    """And its number is free at once."""
    number = await client.open("command", command=f"echo $$ > {tmp_path}/pid; exec sleep 300")
    pid = int((await client.next(number))["pid"])
    await client.send(type="cancel", stream=number)
    await client.send(type="open", stream=number, operation={"op": "command", "command": "echo again"})
    assert output(await client.rest(number)) == said(client, "again\n")
    async with asyncio.timeout(10):
        while os.path.exists(f"/proc/{pid}"):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)


async def test_code_in_a_context(client: StreamClient) -> None:
    """Bash is there without any image: state, result of a run that fails, interrupt, and what asks for input."""
    context = (await client.ask("context.open", language="bash"))[0]
    assert context["language"] == "bash"
    assert (await client.ask("run", code="x=20; f() { echo $((x + 22)); }", context=context["id"]))[-1][
        "type"
    ] == "done"
    messages = await client.ask("run", code="f", context=context["id"])
    assert messages[0]["context"] == context["id"]
    assert output(messages) == said(client, "42\n")
    assert (await client.ask("run", code="false", context=context["id"]))[-1]["receipt"]["exit_code"] == 1
    running = await client.open("run", code="echo begun; sleep 300", context=context["id"])
    await client.next(running)
    await client.next(running)
    await client.ask("context.interrupt", id=context["id"])
    assert (await client.rest(running))[-1]["receipt"]["cause"] == "interrupted"
    assert [one["id"] for one in (await client.ask("context.list"))[:-1]] == [context["id"]]
    languages = (await client.ask("context.languages"))[:-1]
    assert "bash" in [one["name"] for one in languages if one["type"] == "language"]
    default = await client.ask("run", code="echo default", language="bash")
    assert default[0]["context"] == "default-bash"
    assert (await client.ask("context.close", id=context["id"]))[-1]["type"] == "done"
    assert (await client.ask("run", code="f", context=context["id"]))[-1]["code"] == "CONTEXT_NOT_FOUND"


async def test_a_terminal(client: StreamClient) -> None:
    """Made, used, resized, left, entered again with what it has said, and hung up."""
    terminal = (await client.ask("pty.open", command="PS1= exec sh", cols=90))[0]
    number = await client.open("pty.attach", id=terminal["id"])
    assert (await client.next(number))["running"]
    await client.ask("pty.resize", id=terminal["id"], cols=100, rows=30)
    await client.send(type="data", stream=number, text="stty size; echo done'1'\n")
    seen = said(client, "")
    while said(client, "done1") not in seen:  # type: ignore[operator]
        message = await client.next(number)
        seen += message.get("text", "") if client.is_text else message.get("data", b"")  # type: ignore[operator]
    assert said(client, "30 100") in seen  # type: ignore[operator]
    await client.send(type="cancel", stream=number)
    again = await client.open("pty.attach", id=terminal["id"], takeover=True)
    state = await client.next(again)
    assert state["output_end"] > 0
    replay = await client.next(again)
    assert said(client, "done1") in (replay.get("text") or replay["data"])
    assert [one["id"] for one in (await client.ask("pty.list"))[:-1]] == [terminal["id"]]
    await client.ask("pty.close", id=terminal["id"])
    assert (await client.rest(again))[-1]["type"] == "done"


async def test_files(client: StreamClient, tmp_path: Path) -> None:
    """Written whole, read whole and in part; larger than any window."""
    big = os.urandom(3_000_000)
    number = await client.open("file.write", path=f"{tmp_path}/big", mode="600")
    ahead, at = 256 << 10, 0
    while at < len(big):
        piece = big[at : at + min(ahead, 100_000)]
        await client.send(type="data", stream=number, data=content(client, piece))
        at += len(piece)
        ahead -= len(piece)
        while ahead < 100_000 and at < len(big):
            ahead += (await client.next(number))["bytes"]
    await client.send(type="end", stream=number)
    messages = await client.rest(number)
    file = next(message for message in messages if message["type"] == "file")
    assert (file["size"], file["mode"]) == (len(big), "600")
    assert (tmp_path / "big").read_bytes() == big
    messages = await client.ask("file.read", path=f"{tmp_path}/big", offset=10, length=20)
    data = next(message for message in messages if message["type"] == "data")["data"]
    assert (base64.b64decode(data) if client.is_text else data) == big[10:30]
    missing = (await client.ask("file.read", path=f"{tmp_path}/none"))[-1]
    assert (missing["type"], missing["code"]) == ("failed", "FILE_NOT_FOUND")


async def test_a_window_stops_the_program(client: StreamClient, tmp_path: Path) -> None:
    """No more than the window comes before credit does; another stream goes on meanwhile."""
    command = f"head -c 5000000 /dev/zero; echo > {tmp_path}/over"
    number = await client.open("command", command=command, window=1)
    await client.next(number)
    first = await client.next(number)
    size = len(first.get("text") or first["data"])
    assert 0 < size <= 1 + (128 << 10)  # what spends the window is sent whole
    assert output(await client.ask("command", command="echo beside")) == said(client, "beside\n")
    assert not (tmp_path / "over").exists()
    await client.send(type="credit", stream=number, bytes=100_000_000)
    messages = await client.rest(number)
    assert size + len(output(messages)) == 5_000_000


@pytest.mark.parametrize("keep_s", [0, 60])
async def test_a_lost_sandbox_ends_what_runs_with_a_receipt(client: StreamClient, edge: Edge, keep_s: int) -> None:
    """Commands and runs, kept and not: the cause, and what was seen until then."""
    code = "echo begun; sleep 60"
    numbers = [
        await client.open("command", command=code, keep_s=keep_s),
        await client.open("run", code=code, language="bash", keep_s=keep_s),
    ]
    for number in numbers:
        while (await client.next(number))["type"] != "data":
            pass
    link = edge.directory.get(SANDBOX_ID)
    assert link is not None
    await link.aclose()
    for number in numbers:
        end = (await client.rest(number))[-1]
        assert (end["type"], end["code"]) == ("failed", "BACKEND_CONNECTION_FAILED")
        receipt = end["receipt"]
        assert (receipt["cause"], receipt["output_bytes"]) == ("link_lost", len("begun\n"))
        assert receipt["wall_s"] > 0


RULES = [
    ({"type": "open", "stream": -1, "operation": {"op": "pty.list"}}, ">= 0"),
    ({"type": "nothing", "stream": 1}, "nothing"),
    ({"type": "é" * 200, "stream": 1}, "é"),  # whose reason is longer than a close can carry
]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "operation"),
    ({"operation": 7}, "object"),
    ({"operation": {}}, "pty.list, pty.close"),
    ({"operation": {"op": "nothing"}}, "'nothing'"),
    ({"operation": {"op": "nothing"}}, "the operations are command, run, resume, input, context.open"),
    ({"operation": {"op": ["command"]}}, "the operations are command"),
    ({"operation": {"op": "command", "comand": "echo"}}, "comand"),
    ({"operation": {"op": "command", "command": "echo", "timeout_s": "soon"}}, "timeout_s"),
    ({"operation": {"op": "pty.list", "more": 1}}, "more"),
    ({"operation": {"op": "pty.list"}, "window": 0}, "window"),
]


@pytest.mark.parametrize(("message", "why"), RULES)
async def test_what_breaks_a_rule_closes_the_socket(client: StreamClient, message: dict[str, object], why: str) -> None:
    """1008, and the reason."""
    await client.send(**message)
    with pytest.raises(ConnectionClosed) as closed:
        await client.next(1)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008
    assert why in closed.value.rcvd.reason


@pytest.mark.parametrize("subprotocol", [JSON, MSGPACK])
async def test_a_wrong_message_fails_its_stream_alone(edge: Edge, subprotocol: str) -> None:
    """The other streams go on, and the number is free again."""
    async with streaming(url(edge), subprotocol=subprotocol, headers=KEY) as client:
        await client.hello()
        other = await client.open("command", command="read line; echo $line", stdin=True)
        await client.next(other)
        for fields, why in REFUSED:
            await client.send(type="open", stream=77, **fields)
            failed = await client.next(77)
            assert (failed["type"], failed["code"]) == ("failed", "INVALID_REQUEST_BODY")
            assert why in failed["message"]
        for fields in ({"type": "credit", "bytes": -1}, {"type": "data", "text": 1}, {"type": "end", "more": 1}):
            await client.send(type="open", stream=77, operation={"op": "command", "argv": ["sleep", "300"]})
            assert (await client.next(77))["type"] == "started"
            await client.send(stream=77, **fields)
            assert (await client.next(77))["type"] == "failed"
            await client.send(stream=77, **fields)  # of a stream that has ended: ignored
        await client.send(type="data", stream=other, text="still here\n")
        assert output(await client.rest(other)) in ("still here\n", b"still here\n")


async def test_more_rules(edge: Edge) -> None:
    """A number twice, too much input, a binary frame among text; what is over is no mistake."""
    async with streaming(url(edge), headers=KEY) as client:
        await client.hello()
        done = await client.open("pty.list")
        await client.rest(done)
        for kind in ("cancel", "end"):
            await client.send(type=kind, stream=done)
        number = await client.open("command", argv=["sleep", "300"], stdin=True)
        await client.next(number)
        await client.send(type="data", stream=number, text="x" * (300 << 10))
        with pytest.raises(ConnectionClosed) as closed:
            await client.rest(number)
        assert closed.value.rcvd is not None
        assert "without credit" in closed.value.rcvd.reason
    async with streaming(url(edge), headers=KEY) as client:
        await client.hello()
        await client.socket.send(b"{}")
        with pytest.raises(ConnectionClosed):
            await client.next(1)
    async with streaming(url(edge), headers=KEY) as client:
        await client.hello()
        numbers = [await client.open("command", argv=["sleep", "300"]) for _ in range(65)]
        failed = await client.next(numbers[-1])
        assert failed["code"] == "KUBERNETES::POOL_CAPACITY_EXHAUSTED"


async def test_a_run_is_resumed_where_its_client_was_cut_off(edge: Edge, tmp_path: Path) -> None:
    """Nothing is lost and nothing comes twice; the program goes on meanwhile."""
    script = f"for i in 1 2 3 4 5 6; do echo line $i; while [ ! -e {tmp_path}/$i ]; do sleep 0.01; done; done; exit 7"
    heard: list[dict[str, object]] = []
    async with streaming(url(edge), headers=KEY) as client:
        await client.hello()
        number = await client.open("command", command=script, keep_s=20)
        heard.append(await client.next(number))
        run = heard[0]["id"]
        (tmp_path / "1").touch()
        while "line 2" not in output(heard):
            heard += [await client.next(number)]
    for line in "2345":
        (tmp_path / line).touch()
    async with streaming(url(edge), headers=KEY) as client:
        await client.hello()
        number = await client.open("resume", id=run, after=heard[-1]["seq"])
        heard.append(await client.next(number))
        (tmp_path / "6").touch()
        heard += await client.rest(number)
    assert [message["seq"] for message in heard] == list(range(1, len(heard) + 1))
    assert output(heard) == "".join(f"line {number}\n" for number in range(1, 7))
    assert heard[-1]["receipt"]["exit_code"] == 7  # type: ignore[index]
    async with streaming(url(edge), headers=KEY) as client:
        await client.hello()
        assert len(await client.ask("resume", id=run, after=0)) == len(heard)  # also when it is over
        assert (await client.ask("resume", id=run, after=999))[-1]["code"] == "RUN_EVENTS_LOST"
        assert (await client.ask("resume", id="nobody", after=0))[-1]["code"] == "RUN_NOT_FOUND"


async def test_a_run_that_nobody_comes_back_to_ends(edge: Edge) -> None:
    """When its time is up."""
    async with streaming(url(edge), headers=KEY) as client:
        await client.hello()
        number = await client.open("command", argv=["sleep", "300"], keep_s=1)
        pid = (await client.next(number))["pid"]
    async with asyncio.timeout(10):
        while os.path.exists(f"/proc/{pid}"):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.02)


async def test_an_event_stream_is_resumed_by_its_last_event(edge: Edge, tmp_path: Path) -> None:
    """With `Sandlot-Keep`, events have ids; without, nothing of the sort."""
    script = f"for i in 1 2 3 4; do echo line $i; while [ ! -e {tmp_path}/$i ]; do sleep 0.01; done; done"
    async with edge.execd() as client:
        plain = await client.post("/command", json={"command": "echo plain"})
        assert not re.search("^(id|data):", plain.text, re.MULTILINE)
        seen = ""
        async with client.stream(
            "POST", "/command", json={"command": script}, headers={"Sandlot-Keep": "20"}
        ) as answer:
            async for text in answer.aiter_text():
                seen += text
                if "line 1" in seen:
                    break
        events = seen.split("\n\n")[:-1]
        assert all(re.fullmatch(r"id: \d+\ndata: \{.*\}", event) for event in events)
        last = events[-1].split("\n")[0].removeprefix("id: ")
        run = events[0].split('"text":"')[1].split('"')[0]
        for line in "1234":
            (tmp_path / line).touch()
        rest = await client.get(f"/runs/{run}/events", headers={"Last-Event-ID": last})
        events += rest.text.split("\n\n")[:-1]
        ids = [int(event.split("\n")[0].removeprefix("id: ")) for event in events]
        assert ids == list(range(1, len(ids) + 1))
        lines = [event.split('"text":"')[1].split('"')[0] for event in events if '"stdout"' in event]
        assert lines == ["line 1", "line 2", "line 3", "line 4"]
        assert "execution_complete" in events[-1]
        for path, headers, status in (
            ("/runs/nobody/events", {}, 404),
            (f"/runs/{run}/events", {"Last-Event-ID": "x"}, 400),
            (f"/runs/{run}/events", {"Last-Event-ID": "999"}, 404),
        ):
            assert (await client.get(path, headers=headers)).status_code == status
        bad = await client.post("/command", json={"command": "true"}, headers={"Sandlot-Keep": "forever"})
        assert bad.status_code == 400


async def test_who_may_open_a_stream(edge: Edge) -> None:
    """A key, the sandbox's token, or a ticket, once; nobody else."""
    for headers in (KEY, {"X-EXECD-ACCESS-TOKEN": edge.token}):
        async with streaming(url(edge), headers=headers) as client:
            await client.hello()
    async with edge.client() as http:
        issued = await http.post(f"/sandboxes/{SANDBOX_ID}/stream/tickets")
        other = await http.post("/sandboxes/other/stream/tickets")
    assert (issued.status_code, other.status_code) == (201, 404)
    ticket = f"?ticket={issued.json()['ticket']}"
    async with streaming(url(edge, ticket)) as client:
        await client.hello()
    for more, headers in ((ticket, {}), ("", {}), ("?ticket=x", {}), ("", {"X-EXECD-ACCESS-TOKEN": "x"})):
        with pytest.raises(InvalidStatus) as refused:
            async with streaming(url(edge, more), headers=headers):
                pass
        assert refused.value.response.status_code == 401


async def test_what_cannot_be_opened(edge: Edge) -> None:
    """No such sandbox; a subprotocol that nobody knows. Without one, it is JSON."""
    for address, subprotocol, status in (
        (url(edge).replace(SANDBOX_ID, "f" * 16), JSON, 404),
        (url(edge), "chat", 400),
    ):
        with pytest.raises(InvalidStatus) as refused:
            async with streaming(address, subprotocol=subprotocol, headers=KEY):
                pass
        assert refused.value.response.status_code == status
        assert set(json.loads(refused.value.response.body or b"")) == {"code", "message"}
    async with streaming(url(edge), subprotocol=None, headers=KEY) as client:
        assert (await client.hello())["type"] == "hello"


async def test_the_end_of_the_socket_ends_all_its_streams(edge: Edge) -> None:
    """Their processes are killed."""
    async with streaming(url(edge), headers=KEY) as client:
        await client.hello()
        numbers = [await client.open("command", argv=[sys.executable, "-c", "input()"], stdin=True) for _ in range(3)]
        pids = [(await client.next(number))["pid"] for number in numbers]
    async with asyncio.timeout(10):
        for pid in pids:
            while os.path.exists(f"/proc/{pid}"):  # noqa: ASYNC110, ASYNC240
                await asyncio.sleep(0.01)
    with contextlib.suppress(ConnectionClosed):
        await client.socket.recv()
