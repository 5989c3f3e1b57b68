"""The warm inventory: hands out warm containers, and keeps itself filled as `plan.py` decides."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import msgspec
import structlog

from controlplane.errors import CapacityExhausted, RuntimeFailure, SandlotError
from controlplane.pool.plan import Discard, Stock, Template, plan
from controlplane.tasks import Background

log = structlog.get_logger()

DEMAND_WINDOW_S = 10.0
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0
# A start takes both cores of a small machine for a moment: not the one in which the first requests after a claim come.
# A claim that finds nothing does not wait for this.
REFILL_DELAY_S = 0.3
# An engine that hangs must not keep the server from stopping; the next start removes what is left.
CLOSE_TIMEOUT_S = 20.0


class Warm(msgspec.Struct, frozen=True):
    """A container with a link that belongs to nobody yet."""

    sandbox_id: str
    container_id: str
    template: Template


class PoolStatistics(msgspec.Struct, frozen=True):
    """A snapshot of the pool, over all templates."""

    target: int
    warm: int
    prepared: int  # of the warm ones
    starting: int
    waiting: int
    claims: int  # ever
    hits: int  # claims that found a warm one
    failures: int  # starts that failed


class _Shelf:
    """What the pool keeps for one template. Nothing is warm while a claim waits."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.warm: deque[Warm] = deque()
        self.starting = 0
        self.adopting: dict[str, Warm] = {}
        self.waiters: deque[asyncio.Future[Warm]] = deque()
        self.claims: deque[float] = deque()
        self.turn = 0
        self.failures_in_a_row = 0
        self.retry_at = 0.0
        self.refill_at = 0.0

    def claimed(self, now: float) -> None:
        """A claim has come. Those that follow soon do not put the refill off any further."""
        self.claims.append(now)
        if now >= self.refill_at:
            self.refill_at = now + REFILL_DELAY_S

    @property
    def not_before(self) -> float:
        """When the shelf may be filled up (again)."""
        return max(self.retry_at, self.refill_at)

    def stock(self, now: float) -> Stock:
        while self.claims and self.claims[0] <= now - DEMAND_WINDOW_S:
            self.claims.popleft()
        return Stock(
            target=self.target,
            warm=tuple(warm.sandbox_id for warm in self.warm),
            starting=self.starting,
            adopting=len(self.adopting),
            waiting=len(self.waiters),
            recent=len(self.claims),
            blocked=now < self.not_before,
            turn=self.turn,
        )

    @property
    def is_empty(self) -> bool:
        return not (self.target or self.warm or self.starting or self.adopting or self.waiters)


class Pool:
    """Warm containers by template.

    A template without a configured size is served too: its containers are started when they are asked for. So cold and
    warm are one road, and one bound on concurrent starts holds for both.

    `provision` makes a container or leaves nothing behind; `discard` removes one. `is_alive` says whether a container
    still has its link. `prepare` does the work that makes a first run quick; it costs CPU, so it is done for one
    container after the other, and only while none is being started or waited for.

    The mutable state is `_shelves`, and which of the warm ones are prepared; what changes it ends in `_act()`.
    """

    def __init__(
        self,
        *,
        targets: Mapping[Template, int],
        provision: Callable[[Template], Awaitable[Warm]],
        discard: Callable[[Warm], Awaitable[None]],
        prepare: Callable[[Warm], Awaitable[None]],
        is_alive: Callable[[Warm], bool],
        background: Background,
        max_starting: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shelves = {template: _Shelf(target) for template, target in targets.items()}
        self._provision = provision
        self._discard = discard
        self._prepare = prepare
        self._prepared: set[str] = set()  # of what is warm
        self._preparing = False
        self._is_alive = is_alive
        self._background = background
        self._max_starting = max_starting
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._full = asyncio.Event()
        self._closed = False
        self._starts: set[asyncio.Task[None]] = set()  # and adoptions
        self._discards: set[asyncio.Task[None]] = set()
        self._turns = 0
        self._claims = self._hits = self._failures = 0

    def open(self) -> None:
        """Begin to fill the pool."""
        self._act()

    async def take(self, template: Template, *, timeout_s: float) -> Warm:
        """Take a warm container, or wait for one that is started for this claim.

        What is returned has its link. Cancelling is safe: a container that comes too late goes back to the pool.

        Raises:
            CapacityExhausted: none became ready in time, or the pool is closed.
            RuntimeFailure, LinkLost: those that were started for this claim failed.
        """
        self._claims += 1
        shelf = self._shelf(template)
        shelf.claimed(self._clock())
        while shelf.warm:
            warm = next((one for one in shelf.warm if one.sandbox_id in self._prepared), shelf.warm[0])
            shelf.warm.remove(warm)
            if self._is_alive(warm):
                self._hits += 1
                self._act()
                return warm
            self._throw_away(warm)
        try:
            async with asyncio.timeout(timeout_s):
                warm = await self._wait(template)
                while not self._is_alive(warm):  # it died on its way to us
                    self._throw_away(warm)
                    warm = await self._wait(template, first=True)
                return warm
        except TimeoutError:
            raise CapacityExhausted(f"no container of {template.image} became ready within {timeout_s:g} s") from None

    def adopt(self, warm: Warm, ready: Callable[[Warm], Awaitable[object]]) -> None:
        """Take over a warm container of an earlier run, when *ready* has returned. If it raises, it is removed."""
        self._shelf(warm.template).adopting[warm.sandbox_id] = warm
        self._run(self._starts, self._adopt(warm, ready), name="pool.adopt")

    def lost(self, sandbox_id: str) -> bool:
        """A container died; return whether it was one of ours (it is removed and replaced then)."""
        if (warm := self._pull(sandbox_id)) is None:
            return False
        self._throw_away(warm)
        self._act()
        return True

    def warm_ids(self) -> frozenset[str]:
        """Return the sandbox ids of the containers that are warm now."""
        return frozenset(warm.sandbox_id for shelf in self._shelves.values() for warm in shelf.warm)

    @property
    def is_full(self) -> bool:
        """Whether every template has its configured number of warm containers."""
        return self._full.is_set()

    async def wait_full(self) -> None:
        """Return when every template has its configured number of warm containers."""
        await self._full.wait()

    async def aclose(self) -> None:
        """Stop starting containers, and remove what is warm: nobody would end it before the next start.

        Returns when all is removed, or the engine has not done it within CLOSE_TIMEOUT_S. Claims that wait end with
        CapacityExhausted.
        """
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for shelf in self._shelves.values():
            while shelf.waiters:
                shelf.waiters.popleft().set_exception(CapacityExhausted("the server is stopping"))
            for warm in (*shelf.warm, *shelf.adopting.values()):
                self._throw_away(warm)
            shelf.warm.clear()
            shelf.adopting.clear()
        for task in self._starts:
            task.cancel()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while pending := self._starts | self._discards:
                    await asyncio.wait(pending)
        except TimeoutError:
            log.warning("pool.close_timeout", left=len(self._starts | self._discards))

    def statistics(self) -> PoolStatistics:
        """Return totals over all templates."""
        shelves = self._shelves.values()
        return PoolStatistics(
            target=sum(shelf.target for shelf in shelves),
            warm=sum(len(shelf.warm) for shelf in shelves),
            prepared=len(self._prepared & self.warm_ids()),
            starting=sum(shelf.starting + len(shelf.adopting) for shelf in shelves),
            waiting=sum(len(shelf.waiters) for shelf in shelves),
            claims=self._claims,
            hits=self._hits,
            failures=self._failures,
        )

    # -- inside

    def _shelf(self, template: Template) -> _Shelf:
        return self._shelves.setdefault(template, _Shelf(0))

    def _run(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = self._background.start(work, name=name)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _act(self) -> None:
        """Carry out what the plan says now."""
        if self._closed:
            return
        now = self._clock()
        for template in [template for template, shelf in self._shelves.items() if shelf.is_empty]:
            del self._shelves[template]
        stocks = {template: shelf.stock(now) for template, shelf in self._shelves.items()}
        for action in plan(stocks, max_starting=self._max_starting):
            if isinstance(action, Discard):
                if (warm := self._pull(action.sandbox_id)) is not None:
                    self._throw_away(warm)
            else:
                shelf = self._shelves[action.template]
                self._turns += 1
                shelf.turn = self._turns
                shelf.starting += 1
                self._run(self._starts, self._start(action.template, shelf), name="pool.start")
        if all(len(shelf.warm) >= shelf.target for shelf in self._shelves.values()):
            self._full.set()
        else:
            self._full.clear()
        self._prepare_next()
        self._wake_later(now)

    def _prepare_next(self) -> None:
        """Have the next warm container made ready, if nothing more urgent goes on."""
        self._prepared &= self.warm_ids()
        if self._preparing or any(shelf.starting or shelf.waiters for shelf in self._shelves.values()):
            return
        for shelf in self._shelves.values():
            for warm in shelf.warm:
                if warm.sandbox_id not in self._prepared:
                    self._preparing = True
                    self._run(self._starts, self._make_ready(warm), name="pool.prepare")
                    return

    async def _make_ready(self, warm: Warm) -> None:
        try:
            await self._prepare(warm)
        except SandlotError as error:  # it is warm all the same
            log.info("pool.prepare_failed", sandbox=warm.sandbox_id, error=error.message, code=error.code)
        finally:
            self._preparing = False
        self._prepared.add(warm.sandbox_id)
        self._act()

    async def _wait(self, template: Template, *, first: bool = False) -> Warm:
        """Stand in the queue, or at its head, until there is a container or an error."""
        if self._closed:
            raise CapacityExhausted("the server is stopping")
        shelf = self._shelf(template)
        waiter: asyncio.Future[Warm] = asyncio.get_running_loop().create_future()
        if first:
            shelf.waiters.appendleft(waiter)
        else:
            shelf.waiters.append(waiter)
        self._act()
        try:
            await asyncio.wait([waiter])
        except asyncio.CancelledError:
            if waiter in shelf.waiters:
                shelf.waiters.remove(waiter)
            elif waiter.exception() is None:
                self._shelve(waiter.result())
            self._act()
            raise
        return waiter.result()

    async def _start(self, template: Template, shelf: _Shelf) -> None:
        try:
            warm = await self._provision(template)
        except SandlotError as error:
            shelf.starting -= 1
            self._failed(template, shelf, error)
        except Exception as error:
            log.exception("pool.start_broken", image=template.image)
            shelf.starting -= 1
            self._failed(template, shelf, RuntimeFailure(f"the container could not be started: {error!r}"))
        else:
            shelf.starting -= 1
            shelf.failures_in_a_row, shelf.retry_at = 0, 0.0
            self._shelve(warm)
        self._act()

    def _failed(self, template: Template, shelf: _Shelf, error: SandlotError) -> None:
        self._failures += 1
        now = self._clock()
        if now >= shelf.retry_at:  # starts that ran side by side failed for one reason: that counts once
            shelf.failures_in_a_row += 1
            shelf.retry_at = now + min(FIRST_RETRY_S * 2 ** (shelf.failures_in_a_row - 1), LAST_RETRY_S)
        if len(shelf.waiters) > shelf.starting:  # a claim for which nothing else is coming
            shelf.waiters.popleft().set_exception(error)
        elif not self._closed:
            log.warning(
                "pool.start_failed",
                image=template.image,
                error=error.message,
                code=error.code,
                retry_s=round(shelf.retry_at - now, 1),
            )

    async def _adopt(self, warm: Warm, ready: Callable[[Warm], Awaitable[object]]) -> None:
        shelf = self._shelves[warm.template]
        is_ready = False
        try:
            await ready(warm)
            is_ready = True
        except SandlotError as error:
            log.info("pool.adopt_failed", sandbox=warm.sandbox_id, error=error.message)
        finally:
            if shelf.adopting.pop(warm.sandbox_id, None) is not None:  # else `aclose()` has taken it
                if is_ready:
                    self._shelve(warm)
                else:
                    self._throw_away(warm)
                self._act()

    def _shelve(self, warm: Warm) -> None:
        """Give a warm container to the claim that waits longest, or keep it."""
        shelf = self._shelf(warm.template)
        if self._closed:
            self._throw_away(warm)
        elif shelf.waiters:
            shelf.waiters.popleft().set_result(warm)
        else:
            shelf.warm.append(warm)

    def _pull(self, sandbox_id: str) -> Warm | None:
        """Take a certain warm container off its shelf."""
        for shelf in self._shelves.values():
            for warm in shelf.warm:
                if warm.sandbox_id == sandbox_id:
                    shelf.warm.remove(warm)
                    return warm
        return None

    def _throw_away(self, warm: Warm) -> None:
        self._run(self._discards, self._remove(warm), name="pool.discard")

    async def _remove(self, warm: Warm) -> None:
        try:
            await self._discard(warm)
        except SandlotError as error:  # the sweep finds it
            log.warning("pool.discard_failed", sandbox=warm.sandbox_id, error=error.message)

    def _wake_later(self, now: float) -> None:
        """Look again when a failed template may be tried again, or the demand of the last seconds is forgotten."""
        shelves = [shelf for shelf in self._shelves.values() if shelf.target]
        moments = [moment for shelf in shelves if (moment := shelf.not_before) > now]
        moments += [shelf.claims[0] + DEMAND_WINDOW_S for shelf in shelves if shelf.claims]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if moments:
            self._timer = asyncio.get_running_loop().call_later(max(0.01, min(moments) - now), self._act)
