"""The pool, step by step. `tests/property/test_pool_machine.py` mixes the steps in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from controlplane.errors import CapacityExhausted, ImageMissing, RuntimeFailure, SandlotError, StartFailed
from controlplane.pool.plan import Template
from controlplane.pool.pool import CLOSE_TIMEOUT_S, Pool
from controlplane.pool.shelf import DEMAND_WINDOW_S, FIRST_RETRY_S, LAST_RETRY_S, REFILL_DELAY_S, Warm
from controlplane.sandbox import Limits, Network
from controlplane.tasks import Background
from tests.support.fakes.factory import Factory, Start
from tests.support.virtual_time import TURNS, VirtualLoop, virtual_time

A, B = (Template(image=name, network=Network.NONE, limits=Limits()) for name in "AB")


class World:
    """A pool of two A, at most two starts at once, and its factory."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.factory = Factory()
        self.claims: list[asyncio.Task[Warm]] = []
        self.background = Background()
        self.pool = Pool(
            targets={A: 2},
            provision=self.factory.provision,
            discard=self.factory.discard,
            prepare=self.factory.prepare,
            is_alive=self.factory.is_alive,
            background=self.background,
            max_starting=2,
            clock=loop.time,
        )

    def open(self, *, fill: bool = True) -> None:
        """Open the pool; with *fill*, let it become full."""
        self.loop.call_soon(self.pool.open)
        self.loop.settle()
        while fill and self.factory.starts:
            self.finish()

    def claim(self, template: Template = A, timeout_s: float = 60.0) -> asyncio.Task[Warm]:
        """A claim that has gone as far as it can."""
        task = self.loop.create_task(self.pool.take(template, timeout_s=timeout_s))
        self.claims.append(task)
        self.loop.settle()
        return task

    def cancel(self, claim: asyncio.Task[Warm]) -> None:
        claim.cancel()
        self.loop.settle()
        assert claim.cancelled()

    def start(self, template: Template | None) -> Start:
        """The oldest start that goes on, of any template or of that one."""
        return next(start for start in self.factory.starts if template in (None, start.template))

    def finish(self, template: Template | None = None) -> None:
        self.start(template).finish()
        self.loop.settle()

    def fail(self, error: Exception, template: Template | None = None) -> None:
        self.start(template).fail(error)
        self.loop.settle()

    def close(self) -> None:
        """As the server does: the pool, then the background."""

        async def work() -> None:
            async with self.background:
                await self.pool.aclose()

        self.loop.run(work())
        self.loop.settle()
        for claim in self.claims:
            assert claim.done()
            if not claim.cancelled():
                claim.exception()  # looked at, or asyncio complains


@pytest.fixture
def world() -> Iterator[World]:
    with virtual_time() as loop:
        world = World(loop)
        yield world
        world.close()


def test_it_fills_itself_and_says_when_it_is_full(world: World) -> None:
    """Two starts, no more; readiness is an event."""
    full = world.loop.create_task(world.pool.wait_full())
    world.open(fill=False)
    assert [start.template for start in world.factory.starts] == [A, A]
    world.finish()
    assert not world.pool.is_full
    assert not full.done()
    world.finish()
    assert world.pool.is_full
    assert full.done()
    assert world.factory.starts == []


def test_a_claim_takes_the_oldest_warm_one_and_it_is_replaced(world: World) -> None:
    """At once; the replacement is started when the first requests of the claim's caller are over."""
    world.open()
    claim = world.claim()
    assert claim.result().sandbox_id == "s0"
    assert world.factory.starts == []
    world.loop.advance(REFILL_DELAY_S)
    assert len(world.factory.starts) == 1
    statistics = world.pool.statistics()
    assert (statistics.warm, statistics.starting, statistics.claims, statistics.hits) == (1, 1, 1, 1)


def test_a_refill_is_put_off_once_and_no_claim_waits_for_it(world: World) -> None:
    """Claims that follow do not put it off further; one that finds nothing is served at once."""
    world.open()
    world.claim()
    world.loop.advance(REFILL_DELAY_S / 2)
    world.claim()
    assert world.factory.starts == []
    world.claim()
    assert len(world.factory.starts) == 1
    world.loop.advance(REFILL_DELAY_S / 2)
    assert len(world.factory.starts) == 2


def test_a_template_that_nobody_configured_is_started_for_the_claim(world: World) -> None:
    """The cold road; nothing of it is kept."""
    world.open()
    claim = world.claim(B)
    assert [start.template for start in world.factory.starts] == [B]
    world.finish()
    assert claim.result().template == B
    assert world.factory.starts == []
    assert world.pool.statistics().hits == 0


def test_claims_are_served_in_the_order_in_which_they_came(world: World) -> None:
    """First come, first served."""
    claims = [world.claim(B) for _ in range(3)]
    for number in range(3):
        world.finish(B)
        assert [claim.done() for claim in claims] == [index <= number for index in range(3)]


def test_a_claim_gets_its_answer_in_time(world: World) -> None:
    """Nothing came up: a clear error, and what comes up later stays in the pool."""
    world.open(fill=False)
    claim = world.claim(A, timeout_s=5)
    world.loop.advance(4.9)
    assert not claim.done()
    world.loop.advance(0.2)
    with pytest.raises(CapacityExhausted, match="no container of A became ready within 5 s"):
        claim.result()
    world.finish()
    world.finish()
    assert world.pool.warm_ids() == {"s0", "s1"}


def test_a_cancelled_claim_leaves_the_queue(world: World) -> None:
    """The container that was started for it serves the next one."""
    first = world.claim(B)
    second = world.claim(B)
    world.cancel(first)
    world.finish(B)
    assert second.result().sandbox_id == "s0"


def test_a_claim_cancelled_in_the_moment_of_success_gives_back(world: World) -> None:
    """The container was on its way to it: the next claim gets it, none is lost."""
    first, second = world.claim(B), world.claim(B)

    async def cancel_in_between() -> None:
        world.start(B).finish()
        for _ in range(TURNS):
            if not world.factory.made:
                await asyncio.sleep(0)
        assert world.factory.made
        assert not first.done()  # its own task has yet to hear of it
        first.cancel()

    world.loop.run(cancel_in_between())
    world.loop.settle()
    assert first.cancelled()
    assert second.result().sandbox_id == "s0"
    assert world.factory.discarded == {}


def test_a_cold_container_that_nobody_wants_any_more_is_removed(world: World) -> None:
    """Its claim was cancelled, and its template has no size to keep."""
    claim = world.claim(B)
    world.cancel(claim)
    world.finish(B)
    assert world.factory.discarded == {"s0": 1}
    assert world.pool.warm_ids() == frozenset()


def test_a_dead_warm_container_is_not_handed_out(world: World) -> None:
    """Its link is gone, whether or not the engine has said so: the next one is taken, both are replaced."""
    world.open()
    world.factory.dead.add("s0")
    claim = world.claim()
    assert claim.result().sandbox_id == "s1"
    assert world.factory.discarded == {"s0": 1}
    world.loop.advance(REFILL_DELAY_S)
    assert len(world.factory.starts) == 2


def test_a_container_that_dies_on_its_way_to_a_claim_is_not_handed_out(world: World) -> None:
    """The claim keeps its place at the head of the queue."""
    first, second = world.claim(B), world.claim(B)
    world.factory.dead.add("s0")
    world.finish(B)
    assert not first.done()
    assert world.factory.discarded == {"s0": 1}
    world.finish(B)
    assert first.result().sandbox_id == "s1"
    assert not second.done()
    world.finish(B)
    assert second.result().sandbox_id == "s2"


def test_a_lost_warm_container_is_removed_and_replaced(world: World) -> None:
    """`lost` knows its own from others."""
    world.open()
    world.loop.run(_call(lambda: world.pool.lost("s1")))
    world.loop.settle()
    assert world.factory.discarded == {"s1": 1}
    assert len(world.factory.starts) == 1
    assert world.pool.lost("s1") is False
    assert world.pool.lost("stranger") is False


async def _call(work: object) -> None:
    assert work()  # type: ignore[operator]


def test_a_failed_start_is_the_answer_to_the_claim_it_was_for(world: World) -> None:
    """The engine's own words."""
    world.open()
    claim = world.claim(B)
    world.fail(ImageMissing("no image B"))
    with pytest.raises(ImageMissing, match="no image B"):
        claim.result()
    assert world.factory.starts == []


def test_a_claim_does_not_fail_while_other_starts_may_serve_it(world: World) -> None:
    """Of two that are starting, one fails: the claim gets the other."""
    world.open(fill=False)
    claim = world.claim()
    with capture_logs():
        world.fail(StartFailed("bad luck"))
    assert not claim.done()
    world.finish()
    assert claim.result().sandbox_id == "s0"


def test_a_bug_in_a_start_is_an_answer_too(world: World) -> None:
    """Anything unexpected is logged and told to the claim; the pool goes on."""
    world.open()
    claim = world.claim(B)
    with capture_logs() as logs:
        world.fail(ZeroDivisionError("bug"))
    with pytest.raises(RuntimeFailure, match="could not be started: ZeroDivisionError"):
        claim.result()
    assert [entry["event"] for entry in logs] == ["pool.start_broken"]
    again = world.claim(B)
    world.finish()
    assert again.result()


def test_failures_are_followed_by_longer_and_longer_pauses(world: World) -> None:
    """Half a second, doubled up to half a minute; starts that fail side by side count once. A success resets it."""
    with capture_logs() as logs:
        world.open(fill=False)
        pause = FIRST_RETRY_S
        for _ in range(9):
            world.fail(StartFailed("x"))
            world.fail(StartFailed("x"))
            assert world.factory.starts == []
            world.loop.advance(pause - 0.01)
            assert world.factory.starts == []
            world.loop.advance(0.02)
            assert len(world.factory.starts) == 2
            pause = min(pause * 2, LAST_RETRY_S)
    assert pause == LAST_RETRY_S
    # Two starts fail side by side each time: one line a round.
    assert [entry["event"] for entry in logs] == ["pool.start_failed"] * 9
    world.finish()
    with capture_logs():
        world.fail(StartFailed("x"))
    world.loop.advance(FIRST_RETRY_S + 0.01)
    assert len(world.factory.starts) == 1


def test_why_it_is_not_ready(world: World) -> None:
    """While it is filled for the first time, and while no container can be started. An empty shelf is no reason."""
    assert world.pool.why_not_ready() == "the warm pool is being filled, 0 of 2 containers are warm"
    world.open(fill=False)
    with capture_logs():
        world.fail(ImageMissing("the engine has no image A"))
    assert world.pool.why_not_ready() == "no warm container of A: the engine has no image A"
    world.finish()
    assert world.pool.why_not_ready() == "the warm pool is being filled, 1 of 2 containers are warm"
    world.loop.advance(FIRST_RETRY_S + 0.01)
    world.finish()
    assert world.pool.why_not_ready() == ""
    for _ in range(2):
        world.claim()
    assert world.pool.why_not_ready() == ""
    world.loop.advance(REFILL_DELAY_S)
    with capture_logs():
        world.fail(RuntimeFailure("runc: /var/lib/docker", public="the engine refused"))  # anybody may ask
    assert world.pool.why_not_ready() == "no warm container of A: the engine refused"


def test_changes_are_told(world: World) -> None:
    """Whoever waits hears of each start that failed or went well."""
    world.open(fill=False)
    for step in (lambda: world.fail(StartFailed("x")), world.finish):
        world.pool.changed.clear()
        with capture_logs():
            step()
        assert world.pool.changed.is_set()


def test_each_configured_template_tells_of_itself(world: World) -> None:
    """With the claims that found a warm container, and the others; of no other template, and also when it is empty."""
    told: list[int] = []
    world.pool.on_change = lambda: told.append(world.pool.shelves()[A].warm)
    world.open()
    assert told[-1] == 2
    for _ in range(3):
        world.claim()
    world.claim(B)
    (shelf,) = world.pool.shelves().values()
    assert (shelf.target, shelf.warm, shelf.hits, shelf.misses) == (2, 0, 2, 1)
    assert told[-1] == 0
    world.fail(StartFailed("no room"))
    world.fail(StartFailed("no room"))
    assert world.pool.shelves()[A].trouble == "no room"


def test_claims_do_not_wait_for_the_pause(world: World) -> None:
    """Who asks gets a try of his own, and its outcome."""
    world.open(fill=False)
    with capture_logs():
        world.fail(StartFailed("x"))
        world.fail(StartFailed("x"))
    claim = world.claim()
    assert len(world.factory.starts) == 1
    world.finish()
    assert claim.result()


def test_demand_keeps_more_warm_for_a_while(world: World) -> None:
    """Three claims in a row on a pool of two: three, until the demand is forgotten."""
    world.open()
    for _ in range(3):
        world.claim()
        world.loop.advance(REFILL_DELAY_S)
        while world.factory.starts:
            world.finish()
    assert len(world.pool.warm_ids()) == 3
    world.loop.advance(DEMAND_WINDOW_S + 0.1)
    assert len(world.pool.warm_ids()) == 2
    assert sum(world.factory.discarded.values()) == 1


def adopt(world: World, template: Template = A) -> Warm:
    warm = world.factory.make(template)

    async def work() -> None:
        world.pool.adopt(warm, world.factory.ready)

    world.loop.run(work())
    world.loop.settle()
    return warm


def test_a_container_of_an_earlier_run_is_taken_over_when_its_agent_is_there(world: World) -> None:
    """Meanwhile no other is started in its place, and it is not handed out."""
    warm = adopt(world)
    world.open(fill=False)
    assert len(world.factory.starts) == 1
    assert world.pool.warm_ids() == frozenset()
    world.factory.adoptions[warm.sandbox_id].finish()
    world.loop.settle()
    assert world.pool.warm_ids() == {warm.sandbox_id}


@pytest.mark.parametrize("error", [StartFailed("died"), CapacityExhausted("x")])
def test_a_container_of_an_earlier_run_whose_agent_does_not_come_is_replaced(world: World, error: SandlotError) -> None:
    """It is removed, once."""
    warm = adopt(world)
    world.open(fill=False)
    world.factory.adoptions[warm.sandbox_id].fail(error)
    world.loop.settle()
    assert world.factory.discarded == {warm.sandbox_id: 1}
    assert len(world.factory.starts) == 2


def test_a_container_of_an_earlier_run_serves_a_claim(world: World) -> None:
    """But no claim depends on it: another is started at the same time."""
    world.open()
    warm = adopt(world, B)
    claim = world.claim(B)
    assert [start.template for start in world.factory.starts] == [B]
    world.factory.adoptions[warm.sandbox_id].finish()
    world.loop.settle()
    assert claim.result() == warm


def test_a_discard_that_fails_is_logged(world: World) -> None:
    """The sweep removes what is left; the pool goes on."""
    world.open()
    world.factory.broken_discard = True
    with capture_logs() as logs:
        world.loop.run(_call(lambda: world.pool.lost("s0")))
        world.loop.settle()
    assert [entry["event"] for entry in logs] == ["pool.discard_failed"]
    world.factory.broken_discard = False


def test_closing_leaves_nothing(world: World) -> None:
    """Warm ones are removed, starts and adoptions are cut off, claims get an answer, later ones too."""
    world.open(fill=False)
    world.finish()
    adopted = adopt(world)
    waiting = world.claim(B)
    assert len(world.factory.starts) == 2
    world.close()
    world.loop.settle()
    assert world.factory.discarded == {"s0": 1, adopted.sandbox_id: 1}
    assert world.factory.starts == []
    assert world.factory.abandoned == 2
    for claim in (waiting, world.claim(A)):
        with pytest.raises(CapacityExhausted, match="the server is stopping"):
            claim.result()


def test_an_engine_that_hangs_does_not_keep_the_server_from_stopping(world: World) -> None:
    """What cannot be removed in time is left to the next start."""
    world.open()
    answer = asyncio.Event()

    async def hang(warm: Warm) -> None:
        await answer.wait()

    world.pool._discard = hang
    closing = world.loop.create_task(world.pool.aclose())
    world.loop.settle()
    world.loop.advance(CLOSE_TIMEOUT_S - 1)
    assert not closing.done()
    with capture_logs() as logs:
        world.loop.advance(2)
    assert closing.done()
    assert [(entry["event"], entry["left"]) for entry in logs] == [("pool.close_timeout", 2)]
    answer.set()


def test_a_renewed_image_replaces_what_is_warm_and_what_is_about_to_be(world: World) -> None:
    """A name means another image now: containers of the one before are not handed out any more."""
    world.open()
    old = world.pool.warm_ids()
    claimed = world.claim().result().sandbox_id  # one of the two
    world.loop.advance(REFILL_DELAY_S)
    started_before = world.start(A)

    world.loop.call_soon(world.pool.renew, lambda image: image == "A")
    world.loop.settle()
    assert world.pool.warm_ids() == frozenset()
    started_before.finish()
    world.loop.settle()
    while world.factory.starts:
        world.finish()
    assert len(world.pool.warm_ids()) == 2
    assert set(world.factory.discarded) == {*(old - {claimed}), "s2"}
    assert world.pool.warm_ids() == {"s3", "s4"}


def test_a_renewal_leaves_other_images_alone(world: World) -> None:
    world.open()
    before = world.pool.warm_ids()
    world.loop.call_soon(world.pool.renew, lambda image: image == "B")
    world.loop.settle()
    assert world.pool.warm_ids() == before
