"""Processes by id: what is remembered, and for how long."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from execd.errors import ExecdError
from execd.launch.environment import Launch
from execd.process.process import GRACE_S, Process
from execd.process.reap import Reaper
from execd.process.table import ProcessTable
from execd.wire.frames import Channel
from execd.wire.messages import MAX_COMMAND_CHARS, ProcessExited

LAUNCH = Launch({"PATH": os.environ["PATH"]}, "/", None)


def start(table: ProcessTable, process_id: str, script: str = "true", *, stdin: bool = False) -> Process:
    process = table.start(process_id, ["sh", "-c", script], LAUNCH, command=script, stdin=stdin)
    process.resume()
    return process


async def ended(process: Process) -> ProcessExited:
    async with asyncio.timeout(10):
        return await process.wait()


def ids(table: ProcessTable) -> list[str]:
    return [process.id for process in table.all()]


async def test_the_oldest_ends_are_forgotten_first_and_the_living_never(reaper: Reaper) -> None:
    table = ProcessTable(reaper, kept_processes=2)
    alive = start(table, "alive", "cat", stdin=True)
    for name in "abc":
        await ended(start(table, name))
    assert ids(table) == ["alive", "b", "c"]

    alive.stdin.close()
    await ended(alive)
    assert ids(table) == ["alive", "c"]
    with pytest.raises(ExecdError) as error:
        table.get("a")
    assert error.value.code == "process.not_found"


async def test_kept_output_is_bounded_in_all(reaper: Reaper) -> None:
    """Who wrote nothing is remembered longer than who filled the memory."""
    table = ProcessTable(reaper, kept_output_bytes=250)
    await ended(start(table, "quiet"))
    for name in "abc":
        await ended(start(table, name, "printf %0100d 0"))

    assert "a" not in ids(table)
    assert table.get("b").output is not None
    assert table.get("c").output is not None


async def test_an_id_is_taken_as_long_as_it_is_remembered(reaper: Reaper) -> None:
    table = ProcessTable(reaper, kept_processes=1)
    await ended(start(table, "a"))
    with pytest.raises(ExecdError) as error:
        start(table, "a")
    assert error.value.code == "process.duplicate"

    await ended(start(table, "b"))
    await ended(start(table, "a"))


async def test_a_start_that_fails_is_not_remembered(reaper: Reaper) -> None:
    table = ProcessTable(reaper)
    with pytest.raises(ExecdError):
        table.start("a", ["/no/such/program"], LAUNCH, command="x")

    assert table.all() == []


async def test_a_long_script_is_remembered_in_part(reaper: Reaper) -> None:
    table = ProcessTable(reaper)
    process = start(table, "a", "true #" + "x" * 2 * MAX_COMMAND_CHARS)
    await ended(process)

    assert len(process.state().command) == MAX_COMMAND_CHARS


async def test_oom_is_the_cause_when_the_kernel_counted_a_kill(reaper: Reaper, tmp_path: Path) -> None:
    """Death by KILL, or a shell that reports its child's, while the count of the container rose."""
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 5\n")
    table = ProcessTable(reaper, kill_files=(str(counter),))
    by_hand = await ended(start(table, "0", "kill -9 $$"))
    direct = start(table, "1", "read x; kill -9 $$", stdin=True)
    reported = start(table, "2", "read x; exit 137", stdin=True)
    other = start(table, "3", "read x; exit 1", stdin=True)
    counter.write_text("oom_kill 6\n")
    for process in (direct, reported, other):
        process.stdin.close()

    assert by_hand.cause == "signal"
    assert [(await ended(p)).cause for p in (direct, reported, other)] == ["oom", "oom", "exit"]


async def test_shutdown_ends_all_and_is_quick_where_nobody_refuses(reaper: Reaper) -> None:
    table = ProcessTable(reaper)
    polite = [start(table, name, "sleep 1000 & wait") for name in "abc"]
    loop = asyncio.get_running_loop()
    began = loop.time()
    await table.shutdown()

    assert loop.time() - began < 1.5
    assert all(p.exited is not None and p.exited.signal == signal.SIGTERM for p in polite)


async def test_shutdown_kills_who_ignores_it_and_takes_no_longer_than_the_grace_time(reaper: Reaper) -> None:
    table = ProcessTable(reaper)
    deaf = asyncio.Event()

    def take(_data: bytes, _channel: Channel) -> bool:
        deaf.set()
        return True

    script = "trap '' TERM; echo deaf; while :; do sleep 1000; done"
    stubborn = table.start("stubborn", ["sh", "-c", script], LAUNCH, command=script, sink=take)
    stubborn.resume()
    async with asyncio.timeout(10):
        await deaf.wait()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await table.shutdown()

    assert loop.time() - began < GRACE_S + 1.0
    assert (await ended(stubborn)).signal == signal.SIGKILL
