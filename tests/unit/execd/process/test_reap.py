"""Who ended, and how."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from execd.launch.environment import Launch
from execd.process.reap import LOST, Exit, Reaper
from execd.process.spawn import NULL, PIPE, Child, spawn

LAUNCH = Launch({"PATH": os.environ["PATH"]}, "/", None)


def start(*argv: str, stdin: int = NULL) -> Child:
    return spawn(argv, LAUNCH, stdin=stdin, stdout=NULL, stderr=NULL)


def let_end(pid: int) -> None:
    """Wait until a child has ended, and leave it a zombie."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def steal(pid: int) -> None:
    os.waitpid(pid, 0)


def start_apart() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["true"])


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def wait(reaper: Reaper, child: Child) -> Exit:
    async with asyncio.timeout(10):
        return await reaper.wait(child.pid)


async def test_exit_codes_and_signals_are_told_apart(reaper: Reaper) -> None:
    exited = await wait(reaper, start("sh", "-c", "exit 7"))
    assert (exited.exit_code, exited.signal) == (7, 0)

    killed = await wait(reaper, start("sh", "-c", "kill -9 $$"))
    assert (killed.exit_code, killed.signal) == (137, 9)


async def test_use_of_cpu_and_memory_is_told(reaper: Reaper) -> None:
    """What the child used, not what we did; its memory in bytes."""
    script = "x = bytearray(200_000_000); sum(range(3_000_000))"
    used = await wait(reaper, start("python3", "-S", "-c", script))

    assert 0.01 < used.cpu_s < 10
    # The kernel carries the parent's size over exec: what tests before this one needed counts here, too.
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 200_000_000 <= used.peak_memory_bytes < max(400_000_000, ours + 50_000_000)


async def test_a_child_that_ended_before_anybody_asked_is_told_of(reaper: Reaper) -> None:
    child = start("true")
    let_end(child.pid)

    assert (await wait(reaper, child)).exit_code == 0


async def test_the_callback_never_runs_inside_watch(reaper: Reaper) -> None:
    child = start("true")
    let_end(child.pid)
    told: list[Exit] = []
    reaper.watch(child.pid, told.append)
    assert told == []

    reaper.reap()  # as a SIGCHLD would: the status is not told twice
    await asyncio.sleep(0)
    assert [exited.exit_code for exited in told] == [0]


async def test_many_that_end_at_once_are_all_told_of(reaper: Reaper) -> None:
    """Signals are merged by the kernel: one SIGCHLD may stand for many children."""
    children = [start("cat", stdin=PIPE) for _ in range(20)]
    ends = [reaper.wait(child.pid) for child in children]
    for child in children:
        os.close(child.stdin)

    async with asyncio.timeout(10):
        assert [exited.exit_code for exited in await asyncio.gather(*ends)] == [0] * 20


async def test_a_callback_that_fails_keeps_nobody_else_from_hearing(
    reaper: Reaper, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_exited: Exit) -> None:
        raise RuntimeError("a bug")

    bad, good = start("cat", stdin=PIPE), start("cat", stdin=PIPE)
    reaper.watch(bad.pid, fail)
    ended = reaper.wait(good.pid)
    for child in (bad, good):
        os.close(child.stdin)
        let_end(child.pid)
    reaper.reap()

    assert (await ended).exit_code == 0
    assert "a bug" in caplog.text


async def test_a_cancelled_wait_leaves_the_child_to_be_reaped(reaper: Reaper) -> None:
    child = start("cat", stdin=PIPE)
    reaper.wait(child.pid).cancel()
    os.close(child.stdin)
    let_end(child.pid)

    reaper.reap()
    assert not exists(child.pid)


async def test_a_stolen_status_is_lost_and_does_not_hang(reaper: Reaper) -> None:
    child = start("true")
    steal(child.pid)

    assert await wait(reaper, child) == LOST


async def test_children_of_others_are_left_to_them(reaper: Reaper) -> None:
    """Outside a container, other parts of the process have children too."""
    other = start_apart()
    let_end(other.pid)
    reaper.reap()

    assert other.wait() == 0


async def test_nothing_warns_of_children_that_are_collected(reaper: Reaper) -> None:
    """Popen objects would wait and warn when they are collected."""
    await wait(reaper, start("sh", "-c", "kill -9 $$"))
    child = start("cat", stdin=PIPE)
    gc.collect()
    os.kill(child.pid, 0)
    os.close(child.stdin)

    assert (await wait(reaper, child)).signal == 0


PID_1 = """
import asyncio, ctypes, os, signal, sys
from execd.launch.environment import Launch
from execd.process.reap import Reaper
from execd.process.spawn import NULL, spawn

PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0

async def main():
    reaper = Reaper(orphans=True)
    # The child starts a grandchild, tells its pid, and leaves it to us; the grandchild ends when its stdin does.
    reading, writing = os.pipe()
    told, tell = os.pipe()
    script = f"cat <&{reading} & echo $! >&{tell}; exit 5"
    child = spawn(["sh", "-c", script], Launch(dict(os.environ), "/", None), pass_fds=(reading, tell))
    ended = reaper.wait(child.pid)
    os.close(reading); os.close(tell)
    print((await ended).exit_code)
    orphan = int(os.read(told, 100))
    assert open(f"/proc/{orphan}/stat").read().split()[3] == str(os.getpid()), "not ours"
    signalled = asyncio.Event()
    reap = reaper.reap
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, lambda: (reap(), signalled.set()))
    os.close(writing)
    await asyncio.wait_for(signalled.wait(), 10)
    print(os.path.exists(f"/proc/{orphan}"))
    child = spawn(["true"], Launch(dict(os.environ), "/", None), stdout=NULL, stderr=NULL)
    print((await reaper.wait(child.pid)).exit_code)

asyncio.run(main())
"""


def test_pid_1_reaps_orphans_too() -> None:
    """Run apart, as what orphans fall to: a grandchild vanishes when it ends, and children are still told of."""
    root = Path(__file__).parents[4]
    result = subprocess.run(
        [sys.executable, "-c", PID_1], cwd=root, capture_output=True, text=True, timeout=30, check=False
    )

    assert result.stdout.split() == ["5", "False", "0"], result.stderr


async def test_a_closed_reaper_gives_the_signal_back() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    Reaper().close()

    assert signal.getsignal(signal.SIGCHLD) == before
