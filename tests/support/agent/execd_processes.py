"""A sandbox that runs processes over a real link, and short ways to say what its tests say."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from controlplane.errors import AgentError
from controlplane.link.link import Link
from controlplane.link.stream import Stream
from execd.claim import Claim
from execd.launch.environment import Environment
from execd.process.reap import Reaper
from execd.process.serve import Processes
from execd.wire.aio import Data
from execd.wire.frames import Channel
from execd.wire.messages import (
    Done,
    ProcessExited,
    ProcessList,
    ProcessOutput,
    ProcessStart,
    ProcessStarted,
    ProcessState,
)
from tests.support.agent.execd_link import ControlPlaneEnd, collect, control_plane_of


class Finished(NamedTuple):
    """All that came over one stream."""

    pid: int
    stdout: bytes
    stderr: bytes
    exited: ProcessExited


class Sandbox:
    """A link, and short ways to say what every test says."""

    def __init__(self, processes: Processes, end: ControlPlaneEnd, link: Link) -> None:
        self.processes = processes
        self.end = end
        self.link = link

    async def open(self, shell: str = "", **more: Any) -> Stream:
        more.setdefault("id", os.urandom(8).hex())
        return await self.link.open(ProcessStart(shell=shell, **more))

    async def run(self, shell: str = "", **more: Any) -> Finished:
        async with asyncio.timeout(30), await self.open(shell, **more) as stream:
            return await finish(stream)

    async def background(self, process_id: str, shell: str, **more: Any) -> int:
        request = ProcessStart(id=process_id, shell=shell, background=True, **more)
        return (await self.link.call(request, ProcessStarted)).pid

    async def list(self, process_id: str = "") -> list[ProcessState]:
        async with asyncio.timeout(10), await self.link.open(ProcessList(id=process_id)) as stream:
            return await collect(stream, ProcessState)

    async def output(self, process_id: str, offset: int = 0) -> tuple[ProcessState, bytes]:
        async with asyncio.timeout(10), await self.link.open(ProcessOutput(id=process_id, offset=offset)) as stream:
            state = await stream.expect(ProcessState)
            data = []
            while (item := await stream.receive()) is not None:
                assert isinstance(item, Data)
                data.append(item.data)
            return state, b"".join(data)

    async def ended(self, process_id: str) -> ProcessExited:
        async with asyncio.timeout(20):
            return await self.processes.table.get(process_id).wait()

    async def refusal(self, request: Any) -> tuple[str, str]:
        with pytest.raises(AgentError) as error:
            await self.link.call(request, Done)
        return error.value.code, error.value.message


async def finish(stream: Stream) -> Finished:
    """Read a process's stream to its end; the order of what comes is part of what is promised."""
    started = await stream.expect(ProcessStarted)
    output: dict[int, list[bytes]] = {Channel.STDOUT: [], Channel.STDERR: []}
    while isinstance(item := await stream.receive(), Data):
        output[item.channel].append(item.data)
    assert isinstance(item, ProcessExited)
    assert await stream.receive() is None
    stdout, stderr = (b"".join(output[channel]) for channel in (Channel.STDOUT, Channel.STDERR))
    assert item.output_bytes == len(stdout) + len(stderr)
    return Finished(started.pid, stdout, stderr, item)


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until_dead(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    fd = os.pidfd_open(pid) if is_alive(pid) else -1
    if fd >= 0:
        dead = asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, dead.set)
        try:
            async with asyncio.timeout(10):
                await dead.wait()
        finally:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)


@contextlib.asynccontextmanager
async def process_sandbox(directory: Path) -> AsyncIterator[Sandbox]:
    """A sandbox whose working directory and environment file are in *directory*."""
    reaper = Reaper()
    base = {"PATH": os.environ["PATH"], "HOME": "/root", "EXECD_ENVS": str(directory / "envs")}
    environment = Environment(base, str(directory))
    processes = Processes(reaper, environment)
    claim = Claim(environment, processes.table)
    async with control_plane_of({**processes.handlers(), **claim.handlers()}) as end:
        yield Sandbox(processes, end, await end.next_link())
    await processes.table.shutdown()
    reaper.close()
