"""Background tasks: none outlives its scope, no error is lost."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from controlplane.tasks import Background, Shared, Slots
from tests.support.virtual_time import virtual_time


async def forever(started: asyncio.Event, ended: list[str]) -> None:
    started.set()
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        ended.append("ended")


async def test_leaving_the_scope_ends_what_runs() -> None:
    """A task is cancelled and has cleaned up when the scope is left."""
    ended: list[str] = []
    started = asyncio.Event()
    async with Background() as background:
        background.start(forever(started, ended), name="one")
        await started.wait()
    assert ended == ["ended"]


async def test_a_task_that_never_ran_leaves_no_warning() -> None:
    """Warnings are errors in these tests: "coroutine was never awaited" would fail this one."""
    async with Background() as background:
        task = background.start(forever(asyncio.Event(), []), name="one")
    assert task.cancelled()


async def test_a_failure_is_logged_and_stops_nobody_else() -> None:
    """The sibling goes on; the log names the task and has the error."""
    finished = asyncio.Event()

    async def fail() -> None:
        raise ValueError("broken")

    async def succeed() -> None:
        finished.set()

    with capture_logs() as logs:
        async with Background() as background:
            failing = background.start(fail(), name="bad")
            await asyncio.wait([failing])
            background.start(succeed(), name="good")
            await asyncio.wait_for(finished.wait(), 5)
    assert [(entry["event"], entry["task"], str(entry["exc_info"])) for entry in logs] == [
        ("task.failed", "bad", "broken")
    ]


async def test_what_a_task_starts_while_it_is_ended_is_waited_for() -> None:
    """A clean-up that starts more work leaves no task behind."""
    later: list[asyncio.Task[None]] = []
    started = asyncio.Event()

    async def starts_more(background: Background) -> None:
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            later.append(background.start(forever(asyncio.Event(), []), name="late"))

    async with Background() as background:
        background.start(starts_more(background), name="early")
        await started.wait()
    assert later[0].cancelled()


async def test_a_cleanup_is_not_cancelled_twice() -> None:
    """What a cancelled task still has to do may await."""
    cleaned = False
    started = asyncio.Event()

    async def careful() -> None:
        nonlocal cleaned
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.to_thread(lambda: None)
            cleaned = True

    async with Background() as background:
        background.start(careful(), name="careful")
        await started.wait()
    assert cleaned


async def test_an_error_in_the_scope_itself_passes() -> None:
    """The scope hides nothing."""
    with pytest.raises(KeyError):
        async with Background():
            raise KeyError("mine")


def test_slots_are_given_in_the_order_of_asking_few_at_once() -> None:
    """Whoever gives up while it waits does not lose a slot for the others."""
    with virtual_time() as loop:
        slots, doing, done = Slots(2, longest_s=10), [], []

        async def work(number: int) -> None:
            async with slots.slot():
                doing.append(number)
                await gates[number].wait()
                doing.remove(number)
                done.append(number)

        gates = [asyncio.Event() for _ in range(5)]
        tasks = [loop.create_task(work(number)) for number in range(5)]
        loop.settle()
        assert doing == [0, 1]
        tasks[2].cancel()
        gates[0].set()
        loop.settle()
        assert doing == [1, 3]
        for gate in gates:
            gate.set()
        loop.settle()
        assert sorted(done) == [0, 1, 3, 4]


def test_work_that_hangs_keeps_its_slot_only_so_long() -> None:
    """It goes on; that it ends later gives no further slot."""
    with virtual_time() as loop:
        slots, doing = Slots(1, longest_s=10), []

        async def work(number: int) -> None:
            async with slots.slot():
                doing.append(number)
                await gates[number].wait()

        gates = [asyncio.Event() for _ in range(3)]
        tasks = [loop.create_task(work(number)) for number in range(3)]
        loop.settle()
        assert doing == [0]
        loop.advance(10)
        assert doing == [0, 1]
        gates[0].set()
        loop.settle()
        assert doing == [0, 1]
        gates[1].set()
        gates[2].set()
        loop.settle()
        assert all(task.done() for task in tasks)


async def test_who_waits_shares_an_answer_that_is_not_older() -> None:
    """Of a hundred, the first asks, then one for all others; who comes later asks anew."""
    asked = 0
    going_on = asyncio.Event()

    async def question() -> int:
        nonlocal asked
        asked += 1
        mine = asked
        await going_on.wait()
        return mine

    shared = Shared(question)
    many = [asyncio.ensure_future(shared.ask()) for _ in range(100)]
    await asyncio.sleep(0)
    going_on.set()
    assert await asyncio.gather(*many) == [1] + [2] * 99
    assert await shared.ask() == 3


async def test_an_error_is_shared_and_a_cancelled_question_is_asked_again() -> None:
    answers: list[object] = [OSError("no"), "yes"]
    going_on = asyncio.Event()

    async def question() -> object:
        await going_on.wait()
        if isinstance(answer := answers.pop(0), OSError):
            raise answer
        return answer

    shared = Shared(question)
    gone, *others = [asyncio.ensure_future(shared.ask()) for _ in range(4)]
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    going_on.set()
    told = await asyncio.gather(*others, return_exceptions=True)
    assert [type(each) for each in told] == [OSError] * 3
    assert await shared.ask() == "yes"
