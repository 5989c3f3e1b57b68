"""Rounds of the event loop: how many turns each has, and whose they are."""

import asyncio

from controlplane.listener.bounds import TURNS_A_ROUND
from controlplane.listener.rounds import Rounds


async def test_so_many_turns_are_taken_at_once() -> None:
    """The next round has room again."""
    rounds = Rounds()
    for _ in range(3):
        taken = [rounds.has_room() for _ in range(2 * TURNS_A_ROUND)]
        assert taken == [True] * TURNS_A_ROUND + [False] * TURNS_A_ROUND
        await asyncio.sleep(0)


async def test_addresses_take_turns() -> None:
    """Each gets as many as the others; of one address, whoever has waited longest is first."""
    rounds = Rounds()
    taken: list[str] = []
    for address, number in (("a", 20), ("b", 3), ("c", 1)):
        for index in range(number):
            rounds.put(address, lambda name=f"{address}{index}": taken.append(name))  # type: ignore[misc]
    assert not rounds.has_room()  # those who wait come first
    await asyncio.sleep(0)
    assert len(taken) == TURNS_A_ROUND
    for _ in range(24 // TURNS_A_ROUND):
        await asyncio.sleep(0)
    assert taken[:8] == ["a0", "b0", "c0", "a1", "b1", "a2", "b2", "a3"]
    assert taken[8:] == [f"a{index}" for index in range(4, 20)]


async def test_a_turn_that_fails_keeps_nobody_waiting() -> None:
    """The event loop tells of the error, and the others go on."""
    loop = asyncio.get_running_loop()
    told: list[object] = []
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    rounds = Rounds()
    taken = asyncio.Event()
    rounds.put("a", lambda: told.remove("nothing"))
    rounds.put("b", taken.set)
    async with asyncio.timeout(5):
        await taken.wait()
    assert [type(each) for each in told] == [ValueError]
