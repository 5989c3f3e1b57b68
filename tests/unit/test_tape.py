"""What is kept of a run for a client that comes back."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.api.tape import KeptRun, KeptRuns, Tape
from controlplane.errors import Conflict, NotFound


async def write_all(tape: Tape[int], count: int, size: int = 10) -> None:
    for number in range(1, count + 1):
        await tape.write(number, size)
    tape.finish()


async def test_a_reader_gets_all_from_where_it_wants() -> None:
    """And an end that is one, however often it asks."""
    tape: Tape[int] = Tape()
    await write_all(tape, 5)
    assert [item.value for item in await tape.read(0)] == [1, 2, 3, 4, 5]
    assert [item.number for item in await tape.read(3)] == [4, 5]
    assert await tape.read(5) == await tape.read(5) == []


async def test_a_run_waits_for_a_reader_that_is_slow() -> None:
    """So much is written ahead and no more; then it goes on."""
    tape: Tape[int] = Tape(unread_bytes=30)
    writing = asyncio.ensure_future(write_all(tape, 10))
    await asyncio.sleep(0)
    read: list[int] = []
    while items := await tape.read(read[-1] if read else 0):
        assert len(items) <= 3
        read += [item.value for item in items]
        await asyncio.sleep(0)
    await writing
    assert read == list(range(1, 11))


async def test_what_has_been_read_is_dropped_when_there_is_too_much() -> None:
    """Then it is said to be lost; never skipped."""
    tape: Tape[int] = Tape(kept_bytes=50, unread_bytes=1000)
    await write_all(tape, 20)
    assert len(await tape.read(0)) == 20
    assert tape.check(0) == 1  # it was given to a reader, who may not have dealt with it
    assert await tape.read(20) == []
    assert [item.number for item in await tape.read(15)] == [16, 17, 18, 19, 20]
    for after in (14, 21, -1):
        with pytest.raises(NotFound) as lost:
            tape.check(after)
        assert lost.value.code == "run.lost"


async def test_what_is_larger_than_all_that_is_kept_is_kept_until_it_has_been_dealt_with() -> None:
    """A connection that breaks in the middle of it costs nothing."""
    tape: Tape[int] = Tape(kept_bytes=50, unread_bytes=1)
    writing = asyncio.ensure_future(write_all(tape, 3, size=100))
    assert [item.value for item in await tape.read(0)] == [1]
    await asyncio.sleep(0)
    assert [item.value for item in await tape.read(0)] == [1, 2]
    assert [item.value for item in await tape.read(1)] == [2]
    await asyncio.sleep(0)
    assert [item.value for item in await tape.read(2)] == [3]
    await writing
    assert tape.check(1) == 2


async def count_to(limit: asyncio.Event, tape: Tape[int]) -> None:
    await tape.write(1, 1)
    await limit.wait()
    await tape.write(2, 1)


async def kept(runs: KeptRuns[int], keep_s: int) -> tuple[KeptRun[int], asyncio.Event, asyncio.Event]:
    """A run that says 1, and 2 when the first event is set; the other tells that it has ended."""
    going, ended = asyncio.Event(), asyncio.Event()
    return runs.start("s", "r", keep_s, lambda tape: count_to(going, tape), ended.set), going, ended


async def test_the_newer_reader_takes_over() -> None:
    """The older one is told."""
    async with KeptRuns[int]() as runs:
        run, going, _ = await kept(runs, 5)
        with run.reading() as first:
            assert [item.value for item in await first(0)] == [1]
            waiting = asyncio.ensure_future(first(1))
            await asyncio.sleep(0)
            with run.reading() as second:
                with pytest.raises(Conflict):
                    await waiting
                going.set()
                assert [item.value for item in await second(1)] == [2]


async def test_nobody_reads_and_time_is_up() -> None:
    """It is ended and forgotten; until then it can be found, and its sandbox's alone."""
    async with KeptRuns[int]() as runs:
        run, _, ended = await kept(runs, 0)
        assert runs.get("s", "r") is run
        with pytest.raises(NotFound):
            runs.get("other", "r")
        with run.reading() as read:
            await read(0)
        async with asyncio.timeout(5):
            await ended.wait()
        with pytest.raises(NotFound):
            runs.get("s", "r")


async def test_the_end_of_the_server_ends_all() -> None:
    """Nothing is left running."""
    async with KeptRuns[int]() as runs:
        _, _, ended = await kept(runs, 3600)
        await asyncio.sleep(0)
    assert ended.is_set()
