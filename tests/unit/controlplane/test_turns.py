"""A loop over what others send serves everybody else now and then, whatever they send."""

from __future__ import annotations

import asyncio

import pytest

from controlplane import turns
from controlplane.api.lifecycle import pagination
from controlplane.api.lifecycle.pagination import select
from controlplane.link import stream as stream_module
from controlplane.turns import Turn
from execd.wire.aio import Data, Stream
from execd.wire.frames import Channel
from execd.wire.messages import MetricsRead, Request
from tests.support.agent.execd_link import control_plane_of
from tests.support.turns import steps_of

PIECES = 20_000


@pytest.mark.parametrize(("size", "most"), [(0, turns.TURN_ITEMS), (1, turns.TURN_ITEMS), (1024, 64), (1 << 20, 1)])
async def test_a_turn_ends_after_so_many_bytes_or_items(size: int, most: int) -> None:
    """Empty items count as well."""
    done = 0
    turn = Turn()
    with steps_of(lambda: done) as steps:
        for _ in range(4 * most):
            done += 1
            await turn.spend(size)

    assert steps.largest == most


async def _chatty(stream: Stream, _: Request) -> None:
    for _ in range(PIECES):
        await stream.write(b"x", Channel.STDOUT)
    stream.end()


async def _largest_step() -> int:
    taken = 0
    async with control_plane_of({MetricsRead: _chatty}) as end:
        link = await end.next_link()
        async with await link.open(MetricsRead()) as stream:
            stream.end()
            for _ in range(5_000):  # everything arrives meanwhile
                await asyncio.sleep(0)
            with steps_of(lambda: taken) as steps:
                while isinstance(await stream.receive(), Data):
                    taken += 1
                    while stream.receive_nowait() is not None:
                        taken += 1
    assert taken == PIECES
    return steps.largest


@pytest.mark.attack(
    "agent",
    "an agent answers in twenty thousand pieces of one byte",
    "whoever reads them serves everybody else after every 256 pieces",
)
@pytest.mark.parametrize("is_bounded", [True, False])
async def test_a_reader_of_a_stream_serves_others(is_bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches or one by one; without the bound, all that has arrived is read in one turn."""
    if not is_bounded:
        monkeypatch.setattr(stream_module, "STREAM_TURN_ITEMS", 1 << 30)

    largest = await _largest_step()

    assert (largest <= stream_module.STREAM_TURN_ITEMS) if is_bounded else (largest > 1000)


@pytest.mark.attack(
    "edge",
    "a client asks for a list of ten thousand entries with a filter",
    "everybody else is served after every 256 of them",
)
@pytest.mark.parametrize("is_bounded", [True, False])
async def test_a_long_list_is_filtered_in_turns(is_bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the list."""
    if not is_bounded:
        monkeypatch.setattr(pagination, "TURN_ITEMS", 1 << 30)
    looked_at = 0

    def is_even(number: int) -> bool:
        nonlocal looked_at
        looked_at += 1
        return number % 2 == 0

    with steps_of(lambda: looked_at) as steps:
        assert await select(range(10_000), is_even) == list(range(0, 10_000, 2))

    assert steps.largest == (turns.TURN_ITEMS if is_bounded else 10_000)
