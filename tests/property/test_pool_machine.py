"""The pool under any mix of claims, cancellations, timeouts, failures, deaths and adoptions, in virtual time.

After every step: no container is lost, none is handed out twice, none is warm while a claim for it waits, and the
bound on starts holds. At the end nothing is left.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from structlog.testing import capture_logs

from controlplane.errors import CapacityExhausted, StartFailed
from controlplane.pool.plan import Template
from controlplane.pool.pool import Pool
from controlplane.pool.shelf import Warm
from controlplane.sandbox import Limits, Network
from controlplane.tasks import Background
from tests.support.fakes.factory import Factory
from tests.support.virtual_time import VirtualLoop

TEMPLATES = [Template(image=name, network=Network.NONE, limits=Limits()) for name in "ABC"]
PATIENCE_S = 60.0

INDEX = st.integers(0, 50)


class PoolMachine(RuleBasedStateMachine):
    """Drives a pool with targets for A and B; C is cold."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.factory = Factory()
        self.background = Background()
        self.claims: list[tuple[Template, asyncio.Task[Warm]]] = []
        self.taken: dict[str, Warm] = {}
        self.logs = capture_logs()
        self.logs.__enter__()

    @initialize(sizes=st.tuples(st.integers(0, 3), st.integers(0, 2)), bound=st.integers(1, 4))
    def open(self, sizes: tuple[int, int], bound: int) -> None:
        self.bound = bound
        self.targets = dict(zip(TEMPLATES, (*sizes, 0), strict=True))
        self.pool = Pool(
            targets={template: size for template, size in self.targets.items() if size},
            provision=self.factory.provision,
            discard=self.factory.discard,
            prepare=self.factory.prepare,
            is_alive=self.factory.is_alive,
            background=self.background,
            max_starting=bound,
            clock=self.loop.time,
        )
        self.do(self.pool.open)

    def do(self, *work: object) -> None:
        """Run plain calls inside the loop, one right after the other, and let what they bring happen."""

        async def inside() -> None:
            for one in work:
                one()  # type: ignore[operator]

        self.loop.run(inside())
        self.loop.settle()
        for template, claim in list(self.claims):
            if claim.done():
                self.claims.remove((template, claim))
                if not claim.cancelled() and claim.exception() is None:
                    self.handed_out(template, claim.result())

    def handed_out(self, template: Template, warm: Warm) -> None:
        assert warm.template == template
        assert warm.sandbox_id not in self.taken, "handed out twice"
        assert warm.sandbox_id not in self.factory.discarded, "handed out, but removed"
        assert warm.sandbox_id not in self.factory.dead, "handed out dead"
        self.taken[warm.sandbox_id] = warm

    # -- what can happen

    @rule(template=st.sampled_from(TEMPLATES), count=st.integers(1, 4))
    def claim(self, template: Template, count: int) -> None:
        for _ in range(count):
            task = self.loop.create_task(self.pool.take(template, timeout_s=PATIENCE_S))
            self.claims.append((template, task))
        self.do()

    @precondition(lambda self: self.claims)
    @rule(index=INDEX)
    def cancel(self, index: int) -> None:
        _, task = self.claims[index % len(self.claims)]
        self.do(task.cancel)
        assert task.cancelled()

    @precondition(lambda self: self.factory.starts)
    @rule(index=INDEX)
    def finish(self, index: int) -> None:
        self.do(self.factory.starts[index % len(self.factory.starts)].finish)

    @precondition(lambda self: self.factory.starts)
    @rule(index=INDEX, bug=st.booleans())
    def fail(self, index: int, bug: bool) -> None:
        start = self.factory.starts[index % len(self.factory.starts)]
        error = ValueError("a bug") if bug else StartFailed("made to fail")
        self.do(lambda: start.fail(error))

    @precondition(lambda self: self.factory.starts and self.claims)
    @rule(index=INDEX, other=INDEX, turns=st.integers(0, 8), first=st.booleans())
    def finish_and_cancel_at_once(self, index: int, other: int, turns: int, first: bool) -> None:
        """A start ends and a claim is cancelled, so many turns of the loop apart, in either order."""
        start = self.factory.starts[index % len(self.factory.starts)]
        _, task = self.claims[other % len(self.claims)]

        async def race() -> None:
            steps = [start.finish, task.cancel] if first else [task.cancel, start.finish]
            steps[0]()
            for _ in range(turns):
                await asyncio.sleep(0)
            if not start.outcome.done() or steps[1] is not start.finish:
                steps[1]()

        self.loop.run(race())
        self.do()

    @precondition(lambda self: self.factory.starts)
    @rule(index=INDEX, turns=st.integers(0, 8))
    def finish_and_die_at_once(self, index: int, turns: int) -> None:
        """A container dies a few turns after it came up: perhaps warm, perhaps on its way, perhaps handed out."""
        start = self.factory.starts[index % len(self.factory.starts)]

        async def race() -> None:
            known = set(self.factory.made)
            start.finish()
            for _ in range(turns):
                await asyncio.sleep(0)
            for sandbox_id in self.factory.made.keys() - known:
                if not any(claim.done() and _result(claim) == sandbox_id for _, claim in self.claims):
                    self.factory.dead.add(sandbox_id)
                    self.pool.lost(sandbox_id)

        self.loop.run(race())
        self.do()

    @precondition(lambda self: self.pool.warm_ids())
    @rule(index=INDEX, told=st.booleans())
    def die(self, index: int, told: bool) -> None:
        """A warm container dies; the engine tells, or has not told yet."""
        warm = sorted(self.pool.warm_ids())
        sandbox_id = warm[index % len(warm)]
        self.factory.dead.add(sandbox_id)
        if told:
            self.do(lambda: self.pool.lost(sandbox_id))
            assert sandbox_id not in self.pool.warm_ids()

    @rule(template=st.sampled_from(TEMPLATES))
    def adopt(self, template: Template) -> None:
        self.do(lambda: self.pool.adopt(self.factory.make(template), self.factory.ready))

    @precondition(lambda self: self.factory.adoptions)
    @rule(index=INDEX, arrives=st.booleans())
    def end_adoption(self, index: int, arrives: bool) -> None:
        adoptions = list(self.factory.adoptions.values())
        adoption = adoptions[index % len(adoptions)]
        self.do(adoption.finish if arrives else lambda: adoption.fail(StartFailed("no agent")))

    @rule(seconds=st.sampled_from([0.1, 0.6, 11.0, 31.0, PATIENCE_S + 1]))
    def time_passes(self, seconds: float) -> None:
        self.loop.now += seconds
        self.do()

    @rule()
    def toggle_broken_discard(self) -> None:
        self.factory.broken_discard = not self.factory.broken_discard

    # -- what always holds

    @invariant()
    def every_container_is_in_one_place(self) -> None:
        assert len(self.factory.starts) <= self.bound
        assert self.factory.most_starts <= self.bound
        warm = self.pool.warm_ids()
        for sandbox_id in self.factory.made:
            places = [
                sandbox_id in warm,
                sandbox_id in self.taken,
                sandbox_id in self.factory.discarded,
                sandbox_id in self.factory.adoptions,
            ]
            assert sum(places) == 1, f"{sandbox_id} is in {places}"
        assert all(count == 1 for count in self.factory.discarded.values()), "removed twice"

    @invariant()
    def no_claim_waits_without_need(self) -> None:
        """Not while something is warm; and as many starts go on for the waiting as there are places."""
        warm = {self.factory.made[one].template for one in self.pool.warm_ids()}
        waiting = [template for template, _ in self.claims]
        assert warm.isdisjoint(waiting)
        starting = [start.template for start in self.factory.starts]
        if len(starting) < self.bound:
            for template in set(waiting):
                assert starting.count(template) >= waiting.count(template)
        statistics = self.pool.statistics()
        assert statistics.waiting == len(waiting)
        assert statistics.starting == len(starting) + len(self.factory.adoptions)

    @invariant()
    def readiness_is_true(self) -> None:
        warm = [self.factory.made[one].template for one in self.pool.warm_ids()]
        assert self.pool.is_full == all(warm.count(template) >= size for template, size in self.targets.items())

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.close()
        self.loop.close()
        self.logs.__exit__(None, None, None)

    def close(self) -> None:
        async def work() -> None:
            async with self.background:
                await self.pool.aclose()

        waiting = [claim for _, claim in self.claims]
        self.loop.run(work())
        self.do()
        for claim in waiting:
            with pytest.raises(CapacityExhausted):
                claim.result()
        assert self.factory.starts == []
        assert self.factory.adoptions == {}
        left = self.factory.made.keys() - self.taken.keys()
        assert set(self.factory.discarded) == left
        assert all(count == 1 for count in self.factory.discarded.values())
        assert asyncio.all_tasks(self.loop) == set()


def _result(claim: asyncio.Task[Warm]) -> str:
    return "" if claim.cancelled() or claim.exception() is not None else claim.result().sandbox_id


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_pool_machine = PoolMachine.TestCase
