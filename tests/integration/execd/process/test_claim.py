"""The claim over a real link: whose sandbox it is, and its entrypoint."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from controlplane.link.stream import Stream
from execd.wire.messages import (
    Done,
    ProcessExited,
    ProcessSignal,
    SandboxClaim,
    SandboxClaimed,
)
from tests.support.agent.execd_processes import Sandbox, is_alive

pytestmark = pytest.mark.timeout(60)


async def claim(sandbox: Sandbox, sandbox_id: str = "s1", **more: Any) -> tuple[Stream, SandboxClaimed]:
    stream = await sandbox.link.open(SandboxClaim(id=sandbox_id, **more))
    return stream, await stream.expect(SandboxClaimed)


async def test_a_claim_sets_what_everything_later_is_started_with(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    stream, claimed = await claim(sandbox, env={"WHO": "me"}, cwd="work")
    result = await sandbox.run('echo "$WHO"; pwd')
    stream.close()

    assert claimed.pid == 0
    assert result.stdout.decode() == f"me\n{tmp_path}/work\n"


async def test_the_entrypoint_runs_its_output_is_kept_and_its_end_is_told(sandbox: Sandbox, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    stream, claimed = await claim(
        sandbox, env={"WHO": "me", "GATE": str(gate)}, entrypoint=("sh", "-c", 'echo "$WHO"; cat "$GATE"; exit 3')
    )
    (state,) = await sandbox.list()
    assert (state.id, state.pid, state.exited) == ("entrypoint", claimed.pid, None)

    await asyncio.get_running_loop().run_in_executor(None, gate.write_text, "through\n")
    async with asyncio.timeout(10):
        exited = await stream.expect(ProcessExited)
        assert await stream.receive() is None
    assert (exited.cause, exited.exit_code) == ("exit", 3)
    assert (await sandbox.output("entrypoint"))[1] == b"me\nthrough\n"


async def test_without_an_entrypoint_nothing_ends(sandbox: Sandbox) -> None:
    stream, _ = await claim(sandbox)
    await sandbox.run("true")

    assert stream.receive_nowait() is None
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stream.receive(), 0.05)
    stream.close()


async def test_the_same_sandbox_claims_again_after_a_restart_and_follows_the_same_entrypoint(sandbox: Sandbox) -> None:
    """With other values too: the identity is bound once."""
    _, first = await claim(sandbox, env={"A": "1"}, entrypoint=("sh", "-c", "sleep 1000; exit 1"))
    await sandbox.link.aclose()
    sandbox.link = await sandbox.end.next_link()
    stream, again = await claim(sandbox, env={"A": "2"}, entrypoint=("false",))
    assert again == first
    assert (await sandbox.run("echo $A")).stdout == b"1\n"

    await sandbox.link.call(ProcessSignal("entrypoint", signal.SIGTERM), Done)
    async with asyncio.timeout(10):
        assert (await stream.expect(ProcessExited)).cause == "killed"


async def test_a_claim_after_the_entrypoints_end_hears_of_it_at_once(sandbox: Sandbox) -> None:
    stream, first = await claim(sandbox, entrypoint=("sh", "-c", "exit 9"))
    async with asyncio.timeout(10):
        exited = await stream.expect(ProcessExited)
        again, claimed = await claim(sandbox, entrypoint=("sh", "-c", "exit 9"))
        assert claimed == first
        assert await again.expect(ProcessExited) == exited
        assert await again.receive() is None


async def test_the_entrypoint_is_followed_also_when_its_output_was_forgotten(sandbox: Sandbox) -> None:
    stream, _ = await claim(sandbox, entrypoint=("sh", "-c", "exit 9"))
    async with asyncio.timeout(10):
        exited = await stream.expect(ProcessExited)
    sandbox.processes.table.forget(sandbox.processes.table.get("entrypoint"))

    again, _ = await claim(sandbox)
    async with asyncio.timeout(10):
        assert await again.expect(ProcessExited) == exited


async def test_another_sandbox_is_refused_and_changes_nothing(sandbox: Sandbox) -> None:
    stream, _ = await claim(sandbox, env={"A": "1"})
    code, message = await sandbox.refusal(SandboxClaim(id="s2", env={"A": "2"}, entrypoint=("true",)))

    assert code == "request.invalid"
    assert "s1" in message
    assert (await sandbox.run("echo $A")).stdout == b"1\n"
    assert "entrypoint" not in [state.id for state in await sandbox.list()]
    stream.close()


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ({"entrypoint": ("/no/such/program",)}, "process.spawn_failed"),
        ({"entrypoint": ("true",), "cwd": "/no/such/directory"}, "process.spawn_failed"),
        ({"entrypoint": ("",)}, "request.invalid"),
        ({"cwd": "$NO_SUCH_VARIABLE"}, "request.invalid"),
        ({"env": {"": "x"}}, "request.invalid"),
    ],
)
async def test_a_claim_that_fails_is_undone(sandbox: Sandbox, bad: dict[str, Any], code: str) -> None:
    """Nothing stays bound: neither variables nor directory, and any sandbox may claim after it."""
    request = SandboxClaim(**{"id": "s1", "env": {"A": "1"}, **bad})
    assert (await sandbox.refusal(request))[0] == code
    assert await sandbox.list() == []
    assert (await sandbox.run('echo "[$A]"')).stdout == b"[]\n"

    stream, claimed = await claim(sandbox, "s2", env={"A": "2"}, entrypoint=("sleep", "1000"))
    assert claimed.pid > 0
    assert (await sandbox.run("echo $A")).stdout == b"2\n"
    stream.close()


async def test_a_claim_needs_an_id(sandbox: Sandbox) -> None:
    assert (await sandbox.refusal(SandboxClaim(id="")))[0] == "request.invalid"


async def test_the_entrypoint_outlives_the_stream_of_its_claim(sandbox: Sandbox) -> None:
    stream, claimed = await claim(sandbox, entrypoint=("sleep", "1000"))
    stream.close()
    await sandbox.run("true")

    assert is_alive(claimed.pid)
