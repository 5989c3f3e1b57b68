"""Terminals over WebSocket, on a real PTY."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.agent.live_agent import LiveAgent
from tests.support.server.api_server import Edge


@pytest.fixture
async def agent() -> AsyncIterator[LiveAgent]:
    """An execd whose shells have a short prompt and read no settings."""
    async with LiveAgent(env={"PS1": "$ ", "HOME": "/nonexistent"}) as agent:
        yield agent


class Attached:
    """A client of a terminal, and what it has seen."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[bytes] = []
        self.said: list[dict[str, Any]] = []

    @property
    def seen(self) -> str:
        """All whole characters of the output so far, replayed or live."""
        output = b"".join(frame[9:] if frame[:1] == b"\x03" else frame[1:] for frame in self.frames)
        return output.decode(errors="ignore")

    async def type(self, text: str) -> None:
        """Type."""
        await self.socket.send(b"\x00" + text.encode())

    async def say(self, **fields: Any) -> None:
        """Send a text frame."""
        await self.socket.send(json.dumps(fields))

    async def until(self, text: str) -> str:
        """Read on until the output contains *text*; return the output."""
        async with asyncio.timeout(10):
            while text not in self.seen:
                self.take(await self.socket.recv())
        return self.seen

    async def hear(self, kind: str) -> dict[str, Any]:
        """Read on until a text frame of that type has come; return it."""
        async with asyncio.timeout(10):
            while not (found := [message for message in self.said if message["type"] == kind]):
                self.take(await self.socket.recv())
        return found[-1]

    async def closed(self) -> int:
        """Read on until the server has closed; return the code."""
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(10):
                while True:
                    self.take(await self.socket.recv())
        return self.socket.close_code or 0

    def take(self, frame: bytes | str) -> None:
        """Sort a frame in."""
        if isinstance(frame, str):
            self.said.append(json.loads(frame))
        else:
            self.frames.append(frame)


async def create(client: httpx.AsyncClient, **body: Any) -> str:
    """Make a terminal."""
    response = await (client.post("/pty", json=body) if body else client.post("/pty"))
    assert response.status_code == 201, response.text
    return str(response.json()["session_id"])


async def attach(edge: Edge, pty: str, query: str = "") -> Attached:
    """Attach to a terminal; the caller closes."""
    url = f"{edge.proxy}/44772/pty/{pty}/ws{query}".replace("http", "ws")
    headers = {"X-EXECD-ACCESS-TOKEN": edge.token}
    return Attached(await connect(url, additional_headers=headers, proxy=None, max_size=None))


async def reached(client: httpx.AsyncClient, pty: str, offset: int) -> None:
    """Return when a terminal's program has said so much."""
    while (await client.get(f"/pty/{pty}")).json()["output_offset"] < offset:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)


async def test_a_shell_on_a_terminal(edge: Edge, client: httpx.AsyncClient, tmp_path: Path) -> None:
    """It is the controlling one, has a size that can be changed, and says how its shell ended."""
    pty = await create(
        client, cwd=str(tmp_path), command="bash --norc --noprofile", envs={"A": "b", "TERM": "xterm-256color"}
    )
    assert (await client.get(f"/pty/{pty}")).json() == {"session_id": pty, "running": True, "output_offset": 0}
    terminal = await attach(edge, pty)
    assert await terminal.hear("connected") == {"type": "connected", "session_id": pty, "mode": "pty"}
    await terminal.type("stty size; tty < /dev/tty; echo ${TERM#*-} $A; pwd; echo en''d\r")
    seen = await terminal.until("end\r\n")
    assert "24 80\r\n/dev/" in seen
    assert f"256color b\r\n{tmp_path}\r\n" in seen
    await terminal.say(type="resize", cols=100, rows=40)
    await terminal.say(type="ping")
    await terminal.hear("pong")
    await terminal.say(type="stdin", data="stty size; exit 7\r")
    assert await terminal.hear("exit") == {"type": "exit", "exit_code": 7}
    assert "40 100\r\n" in terminal.seen
    assert await terminal.closed() == 1000
    state = (await client.get(f"/pty/{pty}")).json()
    assert (state["running"], state["output_offset"]) == (False, len(terminal.seen.encode()))


async def test_ctrl_c_and_signals_reach_the_foreground(edge: Edge, client: httpx.AsyncClient) -> None:
    """And not the shell."""
    terminal = await attach(edge, await create(client, command="bash --norc --noprofile"))
    await terminal.type("echo begu''n; sleep 60; echo statu''s $?\r")
    await terminal.until("begun")
    await terminal.type("\x03")
    await terminal.until("^C")
    await terminal.type(
        "echo begu''n2; sh -c 'trap \"echo got term; exit 9\" TERM; echo read''y; while :; do sleep 0.01; done'\r"
    )
    await terminal.until("ready")
    await terminal.say(type="signal", signal="SIGTERM")
    await terminal.until("got term")
    await terminal.type("echo shell''-lives\r")
    await terminal.until("shell-lives")
    await terminal.socket.close()


async def test_what_was_missed_is_replayed_from_an_offset(edge: Edge, client: httpx.AsyncClient) -> None:
    """The program goes on while nobody is there; nothing is lost or repeated."""
    pty = await create(client, command="echo first; read line; echo second $line; read line; echo third; sleep 60")
    terminal = await attach(edge, pty)
    await terminal.until("first")
    await terminal.type("x\r")
    await terminal.socket.close()
    await reached(client, pty, len("first\r\nx\r\nsecond x\r\n"))
    again = await attach(edge, pty)
    assert await again.until("second x") == "first\r\nx\r\nsecond x\r\n"
    assert {frame[:1] for frame in again.frames} == {b"\x03"}
    await again.socket.close()
    offset = len("first\r\nx\r\n")
    some = await attach(edge, pty, f"?since={offset}")
    await some.until("second x")
    assert (some.frames[0][:1], int.from_bytes(some.frames[0][1:9], "big"), some.seen[:6]) == (
        b"\x03",
        offset,
        "second",
    )
    await some.type("y\r")
    await some.until("third")
    assert some.frames[-1][:1] == b"\x01"
    await some.socket.close()


async def test_the_replay_is_bounded_and_says_where_it_begins(edge: Edge, client: httpx.AsyncClient) -> None:
    pty = await create(client, command="stty -opost; seq 1 400000; echo do''ne; sleep 60")
    (await attach(edge, pty)).socket.transport.abort()
    whole = sum(len(f"{number}\n") for number in range(1, 400001)) + len("done\n")
    await reached(client, pty, whole)
    terminal = await attach(edge, pty)
    await terminal.until("done")
    start = int.from_bytes(terminal.frames[0][1:9], "big")
    assert 1_000_000 <= len(terminal.seen) <= 1 << 20
    assert start + len(terminal.seen) == whole
    await terminal.socket.close()


async def test_a_replay_that_was_cut_begins_with_a_whole_character(edge: Edge, client: httpx.AsyncClient) -> None:
    pty = await create(client, command="stty -opost; yes 日本語 | head -n 200000; echo xxdo''ne; sleep 60")
    (await attach(edge, pty)).socket.transport.abort()
    whole = 200_000 * len("日本語\n".encode()) + len("xxdone\n")
    await reached(client, pty, whole)
    terminal = await attach(edge, pty)
    seen = await terminal.until("done")
    start = int.from_bytes(terminal.frames[0][1:9], "big")
    assert start + len(seen.encode()) == whole
    await terminal.socket.close()


async def test_one_client_at_a_time(edge: Edge, client: httpx.AsyncClient) -> None:
    """A second one is refused, or takes over."""
    pty = await create(client, command="cat")
    first = await attach(edge, pty)
    await first.hear("connected")
    with pytest.raises(InvalidStatus) as refused:
        await attach(edge, pty)
    assert refused.value.response.status_code == 409
    assert b"ALREADY_CONNECTED" in (refused.value.response.body or b"")
    second = await attach(edge, pty, "?takeover=1")
    assert await first.closed() == 4001
    await second.type("hello\r")
    await second.until("hello\r\nhello\r\n")
    assert (await client.delete(f"/pty/{pty}")).status_code == 200
    assert (await second.hear("exit"))["exit_code"] == 129
    assert (await client.get(f"/pty/{pty}")).status_code == 404
    assert (await client.delete(f"/pty/{pty}")).json()["code"] == "SESSION_NOT_FOUND"


async def test_pipes_keep_the_streams_apart(edge: Edge, client: httpx.AsyncClient) -> None:
    pty = await create(client, command="echo out; read line; echo err $line >&2; exit 3")
    terminal = await attach(edge, pty, "?pty=0")
    assert (await terminal.hear("connected"))["mode"] == "pipe"
    await terminal.until("out")
    await terminal.type("x\n")
    assert (await terminal.hear("exit"))["exit_code"] == 3
    assert terminal.frames == [b"\x01out\n", b"\x02err x\n"]
    assert await terminal.closed() == 1000


async def test_a_slow_client_stops_its_own_program_alone(edge: Edge, client: httpx.AsyncClient) -> None:
    """What it does not read is not piled up here, and arrives whole when it reads."""
    pty = await create(client, command="stty -opost; seq 1 300000; echo do''ne")
    url = f"{edge.proxy}/44772/pty/{pty}/ws".replace("http", "ws")
    socket = await connect(
        url, additional_headers={"X-EXECD-ACCESS-TOKEN": edge.token}, proxy=None, max_size=None, max_queue=1
    )
    whole = sum(len(f"{number}\n") for number in range(1, 300001)) + len("done\n")
    before = -1
    while (offset := (await client.get(f"/pty/{pty}")).json()["output_offset"]) != before:
        before = offset
        await asyncio.sleep(0.1)
    slow = Attached(socket)
    await slow.hear("exit")
    assert len(slow.seen) == whole


async def test_what_is_wrong_is_said(edge: Edge, client: httpx.AsyncClient) -> None:
    for body in ({"cwd": "a\0"}, {"cols": 0}, {"rows": 100_000}, {"cwd": "$NOPE"}, {"command": 1}, {"gid": 1}):
        assert (await client.post("/pty", json=body)).status_code == 400, body
    with pytest.raises(InvalidStatus) as missing:
        await attach(edge, "nothing")
    assert missing.value.response.status_code == 404
    with pytest.raises(InvalidStatus) as nowhere:
        await attach(edge, await create(client, cwd="/nowhere"))
    assert nowhere.value.response.status_code == 400
    terminal = await attach(edge, await create(client, command="cat"))
    for frame in (
        "{}",
        "[]",
        '{"type":"dance"}',
        '{"type":"signal","signal":"SIGNOPE"}',
        '{"type":"resize"}',
        '{"type":"resize","cols":0,"rows":1}',
        b"\x07x",
    ):
        terminal.said.clear()
        await terminal.socket.send(frame)
        said = await terminal.hear("error")
        assert re.fullmatch("[A-Z:_]+", said["code"]), said  # a public code, as in the answers of HTTP
    await terminal.type("still\r")
    await terminal.until("still")
    assert [one["running"] for one in (await client.get("/pty")).json()] == [True, True]
    await terminal.socket.close()
