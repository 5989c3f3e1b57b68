"""execd as a process of its own: it dials, outlives its control plane, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, unix_serve

from controlplane.errors import AgentError
from controlplane.link.link import Link
from execd.config import VERSION
from execd.dispatch import Handler
from execd.main import merge
from execd.wire.aio import MAX_CHUNK_BYTES, Data, Stream
from execd.wire.frames import Channel
from execd.wire.messages import (
    ContextClose,
    ContextDone,
    ContextOpen,
    ContextRun,
    ContextState,
    Done,
    FileInfo,
    FileStat,
    Metrics,
    MetricsRead,
    ProcessList,
    ProcessStart,
    ProcessStarted,
    ProcessState,
    SandboxClaim,
    SandboxClaimed,
)
from tests.support.agent.execd_link import ControlPlaneEnd
from tests.support.agent.execd_processes import is_alive
from tests.support.agent.live_agent import ROOT, LiveAgent, free_port

pytestmark = pytest.mark.timeout(60)


async def answers(link: Link) -> bool:
    info = await link.call(FileStat(("/",)), FileInfo)
    return info.kind == "directory"


async def start_sleep(link: Link) -> int:
    """Start `sleep` in the background, return its pid."""
    request = ProcessStart(id="sleep", argv=("sleep", "1000"), background=True)
    return (await link.call(request, ProcessStarted)).pid


def proc_field(pid: int, file: str, name: str) -> str:
    """Return a field of one of the kernel's tables about a process."""
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(name))


def children_of(pid: int) -> list[int]:
    """Return the pids of its children, those that ended and were not waited for included."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def only_child_of(pid: int) -> int:
    (child,) = children_of(pid)
    return child


async def exit_of(agent: LiveAgent) -> tuple[int, str]:
    """Wait for execd's end, return its status and what it logged."""
    async with asyncio.timeout(20):
        _, logged = await agent.process.communicate()
    assert agent.process.returncode is not None
    return agent.process.returncode, logged.decode()


# -- the link ----------------------------------------


async def test_it_says_hello_and_serves(agent: LiveAgent) -> None:
    assert (await agent.link.wait_hello()).version == VERSION
    metrics = await agent.link.call(MetricsRead(), Metrics)
    assert 0 < metrics.memory_used_bytes <= metrics.memory_total_bytes
    assert metrics.cpu_count > 0


async def test_it_dials_again_after_the_link_was_closed(agent: LiveAgent) -> None:
    for _ in range(3):
        await agent.link.aclose()
        agent.link = await agent.end.next_link()
        assert await answers(agent.link)


@contextlib.asynccontextmanager
async def execd_at(path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run execd, whether anybody listens at *path* or not."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "execd", str(path), str(path.parent / "kernels")),
        env={**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_PORT": str(free_port())},
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def socket_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sandlot-") as folder:
        yield Path(folder) / "link.sock"


async def test_its_processes_outlive_a_restart_of_the_control_plane(socket_path: Path) -> None:
    async with execd_at(socket_path):
        async with ControlPlaneEnd(socket_path) as end:
            pid = await start_sleep(await end.next_link())
        assert is_alive(pid)
        async with ControlPlaneEnd(socket_path) as end:
            link = await end.next_link()
            state = await link.call(ProcessList("sleep"), ProcessState)
            assert (state.pid, state.finished_at) == (pid, None)
            os.kill(pid, signal.SIGKILL)


async def test_it_waits_for_a_control_plane_that_comes_late(socket_path: Path) -> None:
    async with execd_at(socket_path), ControlPlaneEnd(socket_path) as end:
        assert await answers(await end.next_link())


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 100,
        b"\0\0\0\1\1\0\0\0\0\0",
        b"\0\0\0\0\1\0\xff\xff\xff\xff",
        b"\0\0\0\0\1\0\0\0\0\1\xc1",
        "text",
        b"",
        bytes(MAX_CHUNK_BYTES + 1),
    ],
    ids=["noise", "hello on a stream", "oversized frame", "bad msgpack", "text", "nothing", "oversized message"],
)
async def test_garbage_over_the_link_closes_it_and_it_dials_again(socket_path: Path, garbage: bytes | str) -> None:
    dials: asyncio.Queue[None] = asyncio.Queue()

    async def misbehave(websocket: ServerConnection) -> None:
        dials.put_nowait(None)
        await websocket.send(garbage)
        if not garbage:
            await websocket.close()
        await websocket.wait_closed()

    async with execd_at(socket_path) as process:
        async with await unix_serve(misbehave, str(socket_path), compression=None):
            async with asyncio.timeout(30):
                for _ in range(3):
                    await dials.get()
        assert process.returncode is None
        async with ControlPlaneEnd(socket_path) as end:
            assert await answers(await end.next_link())


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 500 No\r\n\r\n", b"\xff" * 5000, b"HTTP/1.1 101 X\r\n" * 3000])
async def test_a_server_that_is_no_control_plane_is_dialled_again(socket_path: Path, answer: bytes) -> None:
    dials: asyncio.Queue[None] = asyncio.Queue()

    async def misbehave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dials.put_nowait(None)
        writer.write(answer)
        writer.close()

    async with execd_at(socket_path) as process:
        async with await asyncio.start_unix_server(misbehave, str(socket_path)), asyncio.timeout(30):
            for _ in range(3):
                await dials.get()
        assert process.returncode is None
        async with ControlPlaneEnd(socket_path) as end:
            assert await answers(await end.next_link())


# -- the end ----------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_ends_with_all_its_processes_and_says_nothing(agent: LiveAgent, number: signal.Signals) -> None:
    pid = await start_sleep(agent.link)
    agent.process.send_signal(number)
    assert await exit_of(agent) == (0, "")
    assert not is_alive(pid)


async def test_it_ends_without_a_link(socket_path: Path) -> None:
    async with execd_at(socket_path) as process:
        await listening(process)
        process.terminate()
        async with asyncio.timeout(20):
            assert await process.wait() == 0


async def listening(process: asyncio.subprocess.Process) -> None:
    """Wait until its signal handlers are there: bit 15 of SigCgt is SIGTERM's."""
    async with asyncio.timeout(20):
        while True:
            caught = int(proc_field(process.pid, "status", "SigCgt:"), 16)
            if caught & 1 << signal.SIGTERM - 1:
                return
            await asyncio.sleep(0)


async def test_as_process_1_it_hears_the_engine_s_signal_and_reaps_orphans(socket_path: Path) -> None:
    """The kernel gives PID 1 no signal that it did not ask for, and every orphan of its namespace."""
    async with ControlPlaneEnd(socket_path) as end:
        unshare = await asyncio.create_subprocess_exec(
            *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
            *(sys.executable, "-m", "execd", str(socket_path)),
            env={**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_PORT": str(free_port())},
        )
        try:
            link = await end.next_link()
            execd = only_child_of(unshare.pid)
            async with await link.open(ProcessStart(id="o", shell="sleep 0.05 >/dev/null 2>&1 &")) as stream:
                while await stream.receive() is not None:
                    pass
            assert len(children_of(execd)) == 1
            async with asyncio.timeout(20):
                while children_of(execd):  # noqa: ASYNC110 (the kernel's table changes: there is no event)
                    await asyncio.sleep(0)
            os.kill(execd, signal.SIGTERM)
            async with asyncio.timeout(20):
                assert await unshare.wait() == 0
        finally:
            if unshare.returncode is None:
                unshare.kill()
                await unshare.wait()


def test_a_wrong_command_line_is_told_how_it_should_be() -> None:
    for arguments in ([], ["--help"], ["a", "b", "c", "d"]):
        ended = subprocess.run(
            [sys.executable, "-m", "execd", *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=30,
            check=False,
        )
        assert ended.returncode == 1
        assert ended.stderr.startswith("usage: execd SOCKET")


# -- what it costs ----------------------------------------


async def test_its_memory_is_told(agent: LiveAgent, capsys: pytest.CaptureFixture[str]) -> None:
    """With the host's whole Python it is about twice what the trimmed tree needs, whose own test holds the budget."""
    await agent.link.call(MetricsRead(), Metrics)
    pss_kb = int(proc_field(agent.process.pid, "smaps_rollup", "Pss:"))
    with capsys.disabled():
        print(  # noqa: T201 (for whoever reads the run)
            f"\nexecd: {pss_kb / 1024:.1f} MiB proportional, idle, host's Python"
        )
    assert pss_kb < 40 * 1024


def test_two_parts_cannot_serve_the_same_request() -> None:
    async def serve(_stream: Stream, _request: object) -> None: ...

    one: dict[type, Handler] = {MetricsRead: serve}
    assert merge(one, {FileStat: serve}) == {MetricsRead: serve, FileStat: serve}
    with pytest.raises(ValueError, match="MetricsRead"):
        merge(one, {FileStat: serve}, one)


# -- the probed port ----------------------------------------


async def probe(port: int) -> bool:
    """Connect and close as the official SDK's `exec 3<>/dev/tcp/…` does; return whether the port accepted."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return True


async def ask(port: int, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send a request in pieces; return the status, the headers and the body of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


async def test_the_jupyter_port_accepts() -> None:
    port = free_port()
    async with LiveAgent(env={"JUPYTER_PORT": str(port)}):
        for _ in range(5):
            assert await probe(port)


async def test_the_jupyter_port_answers_as_a_jupyter_server_does() -> None:
    """Clients poll `GET /api` until it answers, and would wait out their time otherwise."""
    port = free_port()
    async with LiveAgent(env={"JUPYTER_PORT": str(port)}) as agent:
        status, headers, body = await ask(port, b"GET /api HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert json.loads(body)["version"]
        assert int(headers["Content-Length"]) == len(body)
        await agent.link.call(ContextOpen("c", "bash"), ContextState)
        status, _, body = await ask(port, b"GET /api/status?tok", b"en=t HTTP/1.1\r\nHost: x\r", b"\n\r\n")
        assert status == 200
        assert json.loads(body).keys() == {"started", "last_activity", "connections", "kernels"}
        assert json.loads(body)["kernels"] == 1


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /api/kernels HTTP/1.1\r\n\r\n", 404),
        (b"POST /api HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405),
        (b"\x16\x03\x01\r\n\r\n", 404),
    ],
    ids=["root", "kernels", "post", "tls"],
)
async def test_the_jupyter_port_refuses_everything_else(request_head: bytes, status: int) -> None:
    port = free_port()
    async with LiveAgent(env={"JUPYTER_PORT": str(port)}):
        found, _, body = await ask(port, request_head)
        assert found == status
        assert json.loads(body).keys() == {"message", "reason"}


async def test_the_jupyter_port_reads_no_endless_request() -> None:
    port = free_port()
    async with LiveAgent(env={"JUPYTER_PORT": str(port)}) as agent:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /api HTTP/1.1\r\nA: " + b"a" * 40_000)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        assert await answers(agent.link)


async def test_connections_that_ask_nothing_make_room_for_others() -> None:
    """They cost the agent no more than a few descriptors, however many they are."""
    port = free_port()
    async with LiveAgent(env={"JUPYTER_PORT": str(port)}) as agent:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        status, _, _ = await ask(port, b"GET /api HTTP/1.1\r\n\r\n")
        assert status == 200
        assert len(os.listdir(f"/proc/{agent.process.pid}/fd")) < 60
        for _, writer in silent:
            writer.close()


async def test_the_claim_may_name_another_port() -> None:
    port, claimed = free_port(), free_port()
    claim = SandboxClaim(id="s", env={"JUPYTER_PORT": str(claimed)})
    async with LiveAgent(env={"JUPYTER_PORT": str(port)}) as agent, await agent.link.open(claim) as stream:
        await stream.expect(SandboxClaimed)
        assert await probe(claimed)
        assert await probe(port)


@pytest.mark.parametrize("value", ["taken", "no port", "0", "65536", "-1", ""])
async def test_a_port_that_cannot_be_had_is_logged_and_nothing_else(value: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1]) if value == "taken" else value
        async with LiveAgent(env={"JUPYTER_PORT": port}) as agent:
            assert await answers(agent.link)
            agent.process.terminate()
            status, logged = await exit_of(agent)
    assert status == 0
    assert logged.count("\n") == 1
    assert "JUPYTER_PORT" in logged or "127.0.0.1" in logged


async def test_a_flood_of_connections_disturbs_nobody() -> None:
    port = free_port()
    async with LiveAgent(env={"JUPYTER_PORT": str(port)}) as agent:
        flood = [asyncio.ensure_future(probe(port)) for _ in range(500)]
        while not all(task.done() for task in flood):
            assert await answers(agent.link)
        assert all(await asyncio.gather(*flood))
        descriptors = os.listdir(f"/proc/{agent.process.pid}/fd")
        assert len(descriptors) < 60


async def test_the_claim_says_how_many_contexts_there_may_be() -> None:
    """One more is refused, and told why; when one is closed there is room again."""
    async with LiveAgent() as agent:
        claiming = await agent.link.open(SandboxClaim(id="s", max_contexts=2))
        await claiming.expect(SandboxClaimed)
        for number in range(2):
            await agent.link.call(ContextOpen(str(number), "bash"), ContextState)
        with pytest.raises(AgentError, match="2 contexts may exist at once") as refused:
            await agent.link.call(ContextOpen("more", "bash"), ContextState)
        assert refused.value.code == "context.too_many"
        await agent.link.call(ContextClose("0"), Done)
        await agent.link.call(ContextOpen("more", "bash"), ContextState)
        claiming.close()


async def test_the_claim_of_another_sandbox_changes_no_limit() -> None:
    async with LiveAgent() as agent, await agent.link.open(SandboxClaim(id="s", max_contexts=2)) as claiming:
        await claiming.expect(SandboxClaimed)
        with pytest.raises(AgentError, match="sandbox s has already claimed") as refused:
            await agent.link.call(SandboxClaim(id="other", max_contexts=1), SandboxClaimed)
        assert refused.value.code == "request.invalid"
        for number in range(2):
            await agent.link.call(ContextOpen(str(number), "bash"), ContextState)


async def test_the_claim_says_how_much_a_run_may_print() -> None:
    """So much comes, then a line that says so; the run goes on to its end, and its receipt has all of it."""
    async with LiveAgent() as agent:
        claiming = await agent.link.open(SandboxClaim(id="s", max_output_bytes=100_000))
        await claiming.expect(SandboxClaimed)
        await agent.link.call(ContextOpen("c", "bash"), ContextState)
        outputs = {Channel.STDOUT: b"", Channel.STDERR: b""}
        async with await agent.link.open(ContextRun("c", "head -c 300000 /dev/zero")) as stream:
            while isinstance(said := await stream.receive(), Data):
                outputs[Channel(said.channel)] += said.data
        assert isinstance(said, ContextDone)
        assert outputs[Channel.STDOUT] == bytes(100_000)
        assert outputs[Channel.STDERR].count(b"more than 100000 bytes") == 1
        assert (said.cause, said.output_bytes) == ("ok", 300_000)
        claiming.close()
