"""What the official SDK feels, as JSON: {row: [ms, …]}. Runs in the SDK's own virtual environment.

usage: sdk_client.py full|floor|at-once|at-once-floor COUNT — the floors do only what the canned server can answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

from code_interpreter import CodeInterpreter
from opensandbox import Sandbox
from opensandbox.config import ConnectionConfig
from opensandbox.manager import SandboxManager
from opensandbox.models.sandboxes import SandboxFilter

IMAGE = "sandlot/code-interpreter"
MIB = 1 << 20
# A hundred at once on a pool of five wait for a hundred container starts.
PATIENT = ConnectionConfig(request_timeout=timedelta(seconds=120))
samples: dict[str, list[float]] = defaultdict(list)


async def timed(row: str, work: Callable[[], Awaitable[object]]) -> object:
    """Do it, and note how many milliseconds it took."""
    began = time.perf_counter()
    result = await work()
    samples[row].append((time.perf_counter() - began) * 1000)
    return result


async def create(row: str = "create") -> Sandbox:
    """Create a sandbox, ready, as users do."""
    return await timed(row, lambda: Sandbox.create(IMAGE, timeout=timedelta(minutes=10)))  # type: ignore[return-value]


async def floor(rounds: int) -> None:
    """What the canned server can answer."""
    for _ in range(rounds):
        sandbox = await create()
        for _ in range(5):
            await timed("command true", partial(sandbox.commands.run, "true"))
        await timed("kill", sandbox.kill)
        await sandbox.close()


async def commands(sandbox: Sandbox, rounds: int) -> None:
    """Rows about commands."""
    for _ in range(rounds * 3):
        await timed("command true", lambda: sandbox.commands.run("true"))
    for _ in range(5):

        async def twenty() -> None:
            await asyncio.gather(*(sandbox.commands.run("true") for _ in range(20)))

        await timed("20 commands at once", twenty)
        done = await timed("seq 1 20000", lambda: sandbox.commands.run("seq 1 20000"))
        assert "".join(message.text for message in done.logs.stdout).count("0") > 0  # type: ignore[attr-defined]


async def files(sandbox: Sandbox, rounds: int) -> None:
    """Rows about files."""
    kilobyte = "x" * 1024
    for _ in range(rounds):
        await timed("write 1 KB", lambda: sandbox.files.write_file("/tmp/bench-1k", kilobyte))
        text = await timed("read 1 KB", lambda: sandbox.files.read_file("/tmp/bench-1k"))
        assert text == kilobyte
    large = bytes(32 * MIB)
    for _ in range(5):
        await timed("upload 32 MiB", lambda: sandbox.files.write_file("/tmp/bench-32m", large))
        back = await timed("download 32 MiB", lambda: sandbox.files.read_bytes("/tmp/bench-32m"))
        assert back == large


async def code(sandbox: Sandbox, rounds: int) -> None:
    """Rows about contexts."""
    interpreter = await CodeInterpreter.create(sandbox)
    first = await timed("first 1+1", lambda: interpreter.codes.run("1+1"))
    assert first.result[0].text == "2"  # type: ignore[attr-defined]
    for _ in range(rounds * 2):
        await timed("code 1+1", lambda: interpreter.codes.run("1+1"))
    for _ in range(10):
        context = await timed("new context", lambda: interpreter.codes.create_context("python"))
        await interpreter.codes.delete_context(context.id)  # type: ignore[attr-defined]


async def lifecycle(sandbox: Sandbox, rounds: int) -> None:
    """Rows about asking."""
    manager = await SandboxManager.create()
    for _ in range(rounds):
        await timed("get info", sandbox.get_info)
        await timed("get metrics", sandbox.get_metrics)
        await timed("list", lambda: manager.list_sandbox_infos(SandboxFilter(page_size=10)))
    await manager.close()


async def at_once(row: str, count: int, *, use: bool) -> None:
    """Create many sandboxes at the same time, *use* each, kill all."""

    async def one() -> Sandbox:
        return await Sandbox.create(
            IMAGE, timeout=timedelta(minutes=10), ready_timeout=timedelta(seconds=120), connection_config=PATIENT
        )

    async def all_of_them() -> list[Sandbox]:
        return await asyncio.gather(*(one() for _ in range(count)))

    sandboxes = await timed(row, all_of_them)
    for sandbox in sandboxes:  # type: ignore[attr-defined]
        done = await sandbox.commands.run("echo usable")
        assert not use or done.logs.stdout[0].text == "usable"
    await asyncio.gather(*(sandbox.kill() for sandbox in sandboxes))  # type: ignore[attr-defined]


async def full(rounds: int) -> None:
    """All rows but the burst."""
    for _ in range(rounds):
        sandbox = await create()
        # As on the floor: the SDK still builds a client for its own metrics, which must not count as our kill.
        for _ in range(5):
            await sandbox.commands.run("true")
        await timed("kill", sandbox.kill)
        await sandbox.close()
        await asyncio.sleep(
            1.5
        )  # let the pool fill again, and its newcomer get ready: this row is about a quiet server
    sandbox = await create("create (again)")
    await asyncio.sleep(3)  # its replacement is started and made ready meanwhile
    for part in (commands, files, code, lifecycle):
        await part(sandbox, rounds)
    await sandbox.kill()


async def main() -> None:
    """Do what the command line says."""
    what, rounds = sys.argv[1], int(sys.argv[2])
    if what.startswith("at-once"):
        await at_once(f"{rounds} creates at once", rounds, use=what == "at-once")
    else:
        await {"floor": floor, "full": full}[what](rounds)
    json.dump(samples, sys.stdout)


asyncio.run(main())
