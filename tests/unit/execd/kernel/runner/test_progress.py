"""Who starts may take its time, as long as it does something."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from execd.kernel.runner import progress
from execd.kernel.runner.progress import TICK_S, TICKS, Progress, cpu_s_of_session
from tests.support.virtual_time import VirtualLoop, virtual_time


class World:
    """A process whose use of the CPU is what the test says."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.used = 0.0
        self.stuck = 0
        self.progress = Progress(lambda: 7, self._on_stuck)

    def _on_stuck(self) -> None:
        self.stuck += 1

    def pass_ticks(self, count: int) -> None:
        for _ in range(count):
            self.loop.advance(TICK_S)

    async def begin(self) -> None:
        self.progress.begin()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with virtual_time() as loop:
        world = World(loop)
        monkeypatch.setattr(progress, "cpu_s_of_session", lambda pid: world.used)
        loop.run(world.begin())
        yield world
        world.progress.end()


def test_what_stands_still_is_given_up_once(world: World) -> None:
    world.pass_ticks(TICKS)
    assert world.stuck == 0
    world.pass_ticks(1)
    assert world.stuck == 1
    world.pass_ticks(3 * TICKS)
    assert world.stuck == 1


def test_what_does_something_now_and_then_is_waited_for(world: World) -> None:
    for _ in range(20):
        world.pass_ticks(TICKS - 1)
        world.used += 0.001
        world.pass_ticks(1)
    assert world.stuck == 0


def test_what_is_held_is_not_given_up(world: World) -> None:
    world.progress.is_held = True
    world.pass_ticks(3 * TICKS)
    world.progress.is_held = False
    world.pass_ticks(TICKS - 1)
    assert world.stuck == 0


def test_a_pause_of_the_whole_sandbox_is_one_tick(world: World) -> None:
    world.loop.advance(1000 * TICK_S)
    world.pass_ticks(TICKS - 2)
    assert world.stuck == 0


def test_the_cpu_time_is_that_of_the_whole_session() -> None:
    """A runner may let others work for it.

    The session is the test's own: the kernel calls the session of a caller from another PID namespace 0.
    """
    worker = "import time\nwhile time.process_time() < 0.1: pass\nprint('done', flush=True)\ninput()"
    leader = ["sh", "-c", 'python3 -c "$1"; :', "sh", worker]
    with subprocess.Popen(
        leader, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n"
        assert cpu_s_of_session(child.pid) >= 0.05
        child.communicate("\n")
    assert cpu_s_of_session(0) == 0.0
