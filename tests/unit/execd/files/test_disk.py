"""Slow work off the event loop: bounded, in turns, and never left with what its caller has closed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from execd.files import disk
from execd.files.disk import THREADS, TURN_STEPS, Disk, Steps


class Gate:
    """A function that runs until it is let go, as one that waits for a slow disk does."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()
        self._open = threading.Event()
        self.entered = threading.Semaphore(0)

    def __call__(self) -> str:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.entered.release()
        assert self._open.wait(10)
        with self._lock:
            self.running -= 1
        return "done"

    def let_go(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.let_go()


async def entered(gate: Gate, count: int) -> None:
    for _ in range(count):
        assert await asyncio.to_thread(gate.entered.acquire, timeout=10)


async def test_results_and_errors_come_back() -> None:
    disk = Disk()
    assert await disk.run(max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        await disk.run(divmod, 1, 0)


async def test_the_loop_goes_on_while_every_thread_waits(gate: Gate) -> None:
    disk = Disk()
    tasks = [asyncio.ensure_future(disk.run(gate)) for _ in range(THREADS + 3)]
    await entered(gate, THREADS)
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    gate.let_go()
    assert await asyncio.gather(*tasks) == ["done"] * (THREADS + 3)
    assert gate.most == THREADS


async def test_a_cancelled_caller_waits_for_its_thread(gate: Gate) -> None:
    """Else it would close a descriptor under the thread, and the number might be another file's by then."""
    disk = Disk()
    task = asyncio.ensure_future(disk.run(gate))
    await entered(gate, 1)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    gate.let_go()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.running == 0


async def test_a_caller_cancelled_before_its_turn_does_not_run_at_all(gate: Gate) -> None:
    disk = Disk()
    busy = [asyncio.ensure_future(disk.run(gate)) for _ in range(THREADS)]
    await entered(gate, THREADS)
    ran: list[int] = []
    late = asyncio.ensure_future(disk.run(ran.append, 1))
    await asyncio.sleep(0)
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
    gate.let_go()
    await asyncio.gather(*busy)
    assert ran == []


async def test_steps_run_in_turns_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "TURN_S", 10.0)
    taken: list[int] = []

    def count() -> Steps[int]:
        for number in range(TURN_STEPS * 2 + 5):
            taken.append(number)
            yield number

    steps = count()
    assert await Disk().turn(steps) == taken == list(range(TURN_STEPS))
    assert await Disk().finish(steps) == TURN_STEPS * 2 + 4
    assert await Disk().turn(steps) == []


async def test_a_turn_ends_in_time_however_slow_the_steps_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "TURN_S", 0.0)
    assert await Disk().turn(number for number in range(100)) == [0]


async def test_cancelled_steps_are_closed_before_the_caller_hears_of_it(gate: Gate) -> None:
    closed_in: list[str] = []

    def work() -> Steps[None]:
        try:
            while True:
                gate()
                yield
        finally:
            closed_in.append(threading.current_thread().name)

    task = asyncio.ensure_future(Disk().finish(work()))
    await entered(gate, 1)
    task.cancel()
    gate.let_go()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(closed_in) == 1
    assert closed_in[0].startswith("disk")
