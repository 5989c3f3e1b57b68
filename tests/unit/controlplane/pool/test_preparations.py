"""Languages are made ready few at a time, what clients wait for first, in the order of asking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from controlplane.errors import LinkLost
from controlplane.pool.preparations import MAX_BEHIND, MAX_TURN_S, Preparations
from controlplane.tasks import Background
from tests.support.virtual_time import VirtualLoop, virtual_time


class World:
    """A server of two CPUs. Clients open contexts; the test says how long everything takes."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.background = Background()
        self.pool_is_quiet = asyncio.Event()
        self.pool_is_quiet.set()
        self.going_on: dict[tuple[str, str], asyncio.Future[None]] = {}
        self.open: dict[str, Callable[[bool], None]] = {}  # what clients open now
        self.asking: dict[str, asyncio.Task[None]] = {}
        self.preparations = Preparations(prepare=self._prepare, background=self.background, at_once=2)
        self.preparations.quiet = self._quiet

    async def _quiet(self) -> None:
        await self.pool_is_quiet.wait()

    async def _prepare(self, sandbox_id: str, language: str) -> None:
        self.going_on[sandbox_id, language] = asyncio.get_running_loop().create_future()
        try:
            await self.going_on[sandbox_id, language]
        finally:
            del self.going_on[sandbox_id, language]

    def ask(self, *sandbox_ids: str, language: str = "python") -> None:
        """Clients ask for contexts, in this order."""

        async def wait(sandbox_id: str) -> None:
            self.open[sandbox_id] = await self.preparations.turn(sandbox_id, language)

        for sandbox_id in sandbox_ids:
            self.asking[sandbox_id] = self.loop.create_task(wait(sandbox_id))
        self.loop.settle()

    def opened(self, sandbox_id: str, *, is_open: bool = True) -> None:
        """The context is there, or is not to be had. It is told twice, as streams do."""
        over = self.open.pop(sandbox_id)
        self.loop.call_soon(over, is_open)
        self.loop.call_soon(over, is_open)
        self.loop.settle()

    def prepared(self, error: Exception | None = None) -> tuple[str, str]:
        """What is made ready ahead of time is ready; return what it was."""
        ((key, future),) = self.going_on.items()
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
        self.loop.settle()
        return key

    def make_ahead(self, sandbox_id: str) -> None:
        """The pool wants a container to be made ready."""
        self.loop.call_soon(lambda: self.background.start(self.preparations.ahead(sandbox_id), name="test"))
        self.loop.settle()


@pytest.fixture
def world() -> Iterator[World]:
    with virtual_time() as loop:
        world = World(loop)
        yield world

        async def close() -> None:
            async with world.background:
                pass

        loop.run(close())
        for task in world.asking.values():
            task.cancel()
        loop.settle()


def test_clients_are_served_in_the_order_of_asking_two_at_a_time(world: World) -> None:
    """The tenth of twenty waits for as many as a tenth should."""
    names = [f"s{number}" for number in range(20)]
    world.ask(*names)
    served = []
    while world.open:
        assert len(world.open) <= 2
        first = next(iter(world.open))
        served.append(first)
        world.opened(first)
    assert served == names


def test_what_is_ready_is_opened_at_once(world: World) -> None:
    """The second context of a sandbox, all of one that the pool has made ready, and bash."""
    world.ask("a", "b")
    world.opened("a")
    world.make_ahead("warm")
    world.opened("b")
    assert world.prepared() == ("a", "python")
    assert world.prepared() == ("warm", "")
    world.ask("c", "d", "e")
    world.ask("a", "warm")
    world.ask("x", language="bash")
    assert list(world.open) == ["c", "d", "a", "warm", "x"]


def test_a_client_that_leaves_gives_its_turn_to_the_next(world: World) -> None:
    """And what was made ready ahead of time goes on when all have left."""
    world.ask("a", "b", "c", "d")
    world.asking["c"].cancel()
    world.opened("a")
    assert list(world.open) == ["b", "d"]
    world.opened("b")
    assert world.going_on == {}
    world.opened("d")
    assert list(world.going_on) == [("a", "python")]


def test_a_context_that_never_comes_does_not_keep_its_turn_for_ever(world: World) -> None:
    """Its sandbox may be paused, or its runner hang. The others are served, and what is made ready goes on."""
    world.ask("a", "b", "c", "d")
    world.loop.advance(MAX_TURN_S)
    assert list(world.open) == ["a", "b", "c", "d"]
    world.opened("c")
    world.opened("d")
    assert world.prepared() == ("c", "python")
    world.opened("a")  # late, and no turn is given back twice
    world.opened("b")
    world.ask("e", "f", "g")
    assert list(world.open) == ["e", "f"]


def test_ahead_of_time_one_is_made_ready_after_the_other_when_nobody_waits(world: World) -> None:
    """Neither a client nor a claim."""
    world.pool_is_quiet.clear()
    world.make_ahead("w1")
    world.make_ahead("w2")
    assert world.going_on == {}
    world.ask("a")
    world.pool_is_quiet.set()
    world.loop.settle()
    assert world.going_on == {}
    world.opened("a")
    assert [world.prepared(), world.prepared(), world.prepared()] == [("w1", ""), ("w2", ""), ("a", "python")]


def test_a_second_language_of_a_warm_sandbox_is_made_ready_behind_its_first_context(world: World) -> None:
    """Its manifest does not say that it is eager, and its client did not wait in line."""
    world.make_ahead("warm")
    world.prepared()
    world.ask("warm", language="go")
    world.opened("warm")
    assert world.prepared() == ("warm", "go")
    world.ask("warm", language="go")
    world.opened("warm")
    assert world.going_on == {}


def test_what_cannot_be_made_ready_stops_nobody(world: World) -> None:
    """Its sandbox may have gone."""
    world.ask("a")
    world.opened("a")
    world.ask("b")
    world.opened("b")
    assert world.prepared(LinkLost("gone")) == ("a", "python")
    assert world.prepared() == ("b", "python")


@pytest.mark.attack(
    "resources",
    "A client opens contexts of made-up languages, or of more languages than there is room for",
    "Nothing is made ready behind for languages that do not open, and for at most 64 at once of those that do",
)
@pytest.mark.parametrize("is_open", [False, True], ids=["made up", "open"])
def test_what_waits_behind_is_bounded(world: World, *, is_open: bool) -> None:
    """Were there no bound, each of them would be a task that waits for its turn."""
    world.pool_is_quiet.clear()
    world.make_ahead("pooled")
    for number in range(2 * MAX_BEHIND):
        world.ask("greedy", language=f"language-{number}")
        world.opened("greedy", is_open=is_open)
    assert len(world.background._tasks) == 1 + (MAX_BEHIND if is_open else 0)


def test_one_sandbox_is_served_once_at_a_time(world: World) -> None:
    """It may be hijacked, and hang with each of its languages: another one has the other turn."""
    hanging = [world.loop.create_task(world.preparations.turn("evil", name)) for name in ("python", "node", "go")]
    world.ask("good")
    assert "good" in world.open
    assert [task.done() for task in hanging] == [True, False, False]
    for task in hanging:
        task.cancel()
    world.opened("good")


def test_a_preparation_that_hangs_keeps_the_second_line_no_longer_than_a_turn(world: World) -> None:
    """The agent of one sandbox does not answer: the others are made ready all the same."""
    world.make_ahead("evil")
    world.make_ahead("good")
    assert list(world.going_on) == [("evil", "")]
    world.loop.advance(MAX_TURN_S)
    assert set(world.going_on) == {("evil", ""), ("good", "")}
