"""Processes under the real agent: PID 1 of a container, in the tree that every sandbox mounts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiodocker
import pytest

from controlplane.errors import AgentError
from controlplane.link.link import Link
from controlplane.link.stream import Data
from controlplane.sandbox import EXECD_DIR
from execd.wire.messages import (
    Done,
    ProcessExited,
    ProcessSignal,
    ProcessStart,
    ProcessStarted,
    SandboxClaim,
    SandboxClaimed,
)
from tests.support.agent.execd_link import ControlPlaneEnd
from tests.support.agent.execd_processes import Finished, finish

COMMAND = [f"{EXECD_DIR}/bin/python3", "-I", "-S", f"{EXECD_DIR}/boot.pyc", "/run/sandlot/link.sock"]
LOCKED_DOWN = {"ReadonlyRootfs": True, "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges"]}
EXHAUST_MEMORY = "tail -c 1000000000 < <(cat /dev/zero)"  # tail keeps all that it may have to print

pytestmark = pytest.mark.timeout(600)  # the first one may have to build the images


class Container:
    """A container whose PID 1 is execd, and the link that it dialled."""

    def __init__(self, container: Any, link: Link) -> None:
        self.container = container
        self.link = link

    async def run(self, shell: str = "", **more: Any) -> Finished:
        request = ProcessStart(id=os.urandom(8).hex(), shell=shell, **more)
        async with asyncio.timeout(60), await self.link.open(request) as stream:
            return await finish(stream)


@contextlib.asynccontextmanager
async def running(
    engine: aiodocker.Docker, volume: str, *, user: str = "", env: tuple[str, ...] = (), **host: Any
) -> AsyncIterator[Container]:
    """Start one; remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="sandlot-") as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "link.sock"
        async with ControlPlaneEnd(path) as end:
            path.chmod(0o666)
            mounts = [
                {"Type": "volume", "Source": volume, "Target": EXECD_DIR, "ReadOnly": True},
                {"Type": "bind", "Source": folder, "Target": "/run/sandlot", "ReadOnly": True},
            ]
            host = {"NetworkMode": "none", "Mounts": mounts, "Memory": 128 << 20, "MemorySwap": 128 << 20, **host}
            config = {"Image": "sandlot/base", "Entrypoint": COMMAND, "Cmd": [], "User": user, "Env": list(env)}
            container = await engine.containers.create({**config, "NetworkDisabled": True, "HostConfig": host})
            try:
                await container.start()
                yield Container(container, await end.next_link())
            finally:
                await container.delete(force=True)


async def test_pid_1_leaves_no_zombie_of_what_others_abandoned(engine: aiodocker.Docker, volume: str) -> None:
    """Orphans that end are gone, whether their starter was a shell, a session or a double fork."""
    async with running(engine, volume) as box:
        await box.run("(sleep 0.01 &) ; setsid -f sleep 0.01; (true &) ; exit 0")
        # Each line: pid and state, of all that is there when the last orphan has ended.
        script = "while pgrep -x sleep >/dev/null 2>&1; do :; done; grep -h ^State: /proc/[0-9]*/status"
        script = script.replace("pgrep -x sleep", "grep -lx sleep /proc/[0-9]*/comm")
        result = await box.run(script)

        assert b"zombie" not in result.stdout
        assert result.exited.exit_code in (0, 2)  # grep met a process that was gone already


async def test_memory_exhaustion_is_told_as_such_and_costs_only_its_cause(
    engine: aiodocker.Docker, volume: str
) -> None:
    async with running(engine, volume) as box:
        innocent = await box.link.open(ProcessStart(id="innocent", argv=("cat",), stdin=True))
        await innocent.expect(ProcessStarted)
        direct = await box.run(f"exec {EXHAUST_MEMORY}")
        assert (direct.exited.cause, direct.exited.signal) == ("oom", 9)
        assert direct.exited.peak_memory_bytes > 64 << 20
        through_a_shell = await box.run(f"{EXHAUST_MEMORY}; exit $?")
        assert (through_a_shell.exited.cause, through_a_shell.exited.exit_code) == ("oom", 137)
        by_hand = await box.run("kill -9 $$")
        assert by_hand.exited.cause == "signal"

        innocent.end()
        async with asyncio.timeout(10):
            assert (await innocent.expect(ProcessExited)).cause == "exit"


async def test_a_fork_bomb_leaves_execd_able_to_say_what_is_wrong_and_to_end_it(
    engine: aiodocker.Docker, volume: str
) -> None:
    async with running(engine, volume, PidsLimit=40) as box:
        bomb = await box.link.open(ProcessStart(id="bomb", shell="while :; do sleep 1000 & done"))
        await bomb.expect(ProcessStarted)
        async with asyncio.timeout(30):
            await bomb.receive()  # bash complains that it cannot fork
        with pytest.raises(AgentError, match="another process cannot be started"):
            await box.run("true")

        await box.link.call(ProcessSignal("bomb", 9), Done)
        async with asyncio.timeout(30):
            while (item := await bomb.receive()) is not None:
                assert isinstance(item, Data | ProcessExited)
        assert (await box.run("echo again")).stdout == b"again\n"


async def test_docker_stop_is_quick_and_ends_everything(engine: aiodocker.Docker, volume: str) -> None:
    async with running(engine, volume) as box:
        claim = await box.link.open(SandboxClaim(id="s1", entrypoint=("sleep", "1000")))
        await claim.expect(SandboxClaimed)
        background = ProcessStart(id="a", shell="sleep 1000 & wait", background=True)
        await box.link.call(background, ProcessStarted)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await box.container.stop(t=10)

        assert loop.time() - began < 3.0
        async with asyncio.timeout(10):
            assert (await claim.expect(ProcessExited)).signal == 15
        assert (await box.container.show())["State"]["ExitCode"] == 0


async def test_everything_works_without_any_right(engine: aiodocker.Docker, volume: str) -> None:
    """Another user than root, no capability, nothing writable."""
    async with running(engine, volume, user="1000:1000", **LOCKED_DOWN) as box:
        result = await box.run("id -u; cat /proc/self/oom_score_adj; touch /x || echo read-only")
        assert result.stdout == b"1000\n500\nread-only\n"
        assert (await box.run("sleep 1000", timeout_s=0.1)).exited.cause == "timeout"
        with pytest.raises(AgentError, match="cannot run as 0:0: Operation not permitted"):
            await box.run("true", uid=0)


async def test_text_is_utf_8_whatever_the_image_says(engine: aiodocker.Docker, volume: str) -> None:
    for locale in ("de_DE.ISO-8859-1", "C", "POSIX"):
        async with running(engine, volume, env=(f"LC_ALL={locale}", f"LANG={locale}", "WHO=ü€")) as box:
            result = await box.run(argv=("sh", "-c", 'printf %s "$WHO|$ME|$1"', "sh", "ß→🙂"), env={"ME": "é→"})
            assert result.stdout.decode() == "ü€|é→|ß→🙂"
