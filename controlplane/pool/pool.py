"""The stock of warm containers, which `plan.py` keeps filled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import msgspec
import structlog

from controlplane.errors import CapacityExhausted, RuntimeFailure, SandlotError
from controlplane.pool.plan import Discard, Template, plan
from controlplane.pool.shelf import Shelf, Warm
from controlplane.tasks import Background

log = structlog.get_logger()

# An engine that hangs must not block the server's stop; the next start removes the remaining containers.
CLOSE_TIMEOUT_S = 20.0


class ShelfStatistics(msgspec.Struct, frozen=True):
    """The containers of one configured template at a moment, and its claims since the start."""

    target: int
    warm: int
    starting: int
    hits: int  # claims that found a warm container
    misses: int
    trouble: str  # why none is warm; "" if starts do not fail


class PoolStatistics(msgspec.Struct, frozen=True):
    """The totals of the pool over all templates at a moment."""

    target: int
    warm: int
    prepared: int  # warm containers whose languages are ready
    starting: int
    waiting: int
    claims: int  # since the start
    hits: int  # claims that found a warm container
    failures: int  # starts that failed


class Pool:
    """Warm containers by template.

    A template without a configured size is served too: a claim starts its container. So cold and warm claims take the
    same path, and one bound on concurrent starts applies to both.

    `provision` makes a container or leaves nothing behind; `discard` removes one. `is_alive` returns whether a
    container still has its link. `prepare` does the work that makes a first run quick. The work costs CPU, so one
    container is prepared at a time, and only while none is being started or waited for. While `clients_wait` for a
    language in their sandbox, one container starts at a time.

    The mutable state is `_shelves` and `_prepared`; every method that changes it calls `_act()` at its end.
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
        clients_wait: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shelves = {template: Shelf(target, is_configured=True) for template, target in targets.items()}
        self._provision = provision
        self._discard = discard
        self._prepare = prepare
        self._prepared: set[str] = set()  # ids of warm containers
        self._preparing = False
        self._is_alive = is_alive
        self._background = background
        self._max_starting = max_starting
        self._clients_wait = clients_wait
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._full = asyncio.Event()
        self._quiet = asyncio.Event()
        self._was_full = False
        self.changed = asyncio.Event()  # set when a container is warm or a start failed; a waiting task clears it first
        self.on_change: Callable[[], None] = _tell_nobody
        self._closed = False
        self._starts: set[asyncio.Task[None]] = set()  # starts and adoptions
        self._discards: set[asyncio.Task[None]] = set()
        self._turns = 0
        self._claims = self._hits = self._failures = 0

    def open(self) -> None:
        """Start to fill the pool."""
        self._act()

    async def take(self, template: Template, *, timeout_s: float) -> Warm:
        """Return a warm container, or one that is started for this claim.

        The container has its link. Cancellation is safe: a container that comes too late goes back to the pool.

        Raises:
            CapacityExhausted: no container became ready in time, or the pool is closed.
            RuntimeFailure, LinkLost: the containers that were started for this claim failed.
        """
        if (found := self._take_warm(template)) is not None:
            return found
        try:
            async with asyncio.timeout(timeout_s):
                warm = await self._wait(template)
                while not self._is_alive(warm):  # it died on its way
                    self._throw_away(warm)
                    warm = await self._wait(template, first=True)
                return warm
        except TimeoutError:
            raise CapacityExhausted(f"no container of {template.image} became ready within {timeout_s:g} s") from None

    def take_warm(self, template: Template, *, name: str) -> Warm:
        """Return a warm container of the pool of that name, or refuse at once.

        Raises:
            CapacityExhausted: the pool has no warm container.
        """
        if (found := self._take_warm(template)) is not None:
            return found
        self._act()  # the demand still counts
        raise CapacityExhausted(f"the pool {name} is exhausted: none of its containers is warm now; try again")

    def _take_warm(self, template: Template) -> Warm | None:
        self._claims += 1
        shelf = self._shelf(template)
        shelf.claimed(self._clock())
        shelf.misses += 1  # until one is found
        while shelf.warm:
            warm = next((one for one in shelf.warm if one.sandbox_id in self._prepared), shelf.warm[0])
            shelf.warm.remove(warm)
            if self._is_alive(warm):
                self._hits += 1
                shelf.hits += 1
                shelf.misses -= 1
                self._act()
                return warm
            self._throw_away(warm)
        return None

    def has_warm(self, template: Template) -> bool:
        """Return whether a claim would find a warm container now."""
        shelf = self._shelves.get(template)
        return shelf is not None and any(map(self._is_alive, shelf.warm))

    def keeps(self, template: Template) -> bool:
        """Return whether the pool keeps containers of a template warm."""
        shelf = self._shelves.get(template)
        return shelf is not None and shelf.target > 0

    def give_back(self, warm: Warm) -> None:
        """Take back a claimed container that is unchanged."""
        self._shelve(warm)
        self._act()

    def adopt(self, warm: Warm, ready: Callable[[Warm], Awaitable[object]]) -> None:
        """Take over a warm container of an earlier run after *ready* returns; remove it if *ready* raises."""
        self._shelf(warm.template).adopting[warm.sandbox_id] = warm
        self._run(self._starts, self._adopt(warm, ready), name="pool.adopt")

    def lost(self, sandbox_id: str) -> bool:
        """Remove and replace a container that has died. Return whether it was one of the pool's."""
        if (warm := self._pull(sandbox_id)) is None:
            return False
        self._throw_away(warm)
        self._act()
        return True

    def warm_ids(self) -> frozenset[str]:
        """Return the sandbox ids of the warm containers."""
        return frozenset(warm.sandbox_id for shelf in self._shelves.values() for warm in shelf.warm)

    @property
    def is_full(self) -> bool:
        """Whether every template has its configured number of warm containers."""
        return self._full.is_set()

    async def wait_full(self) -> None:
        """Wait until every template has its configured number of warm containers."""
        await self._full.wait()

    async def wait_quiet(self) -> None:
        """Wait until no container is being started or waited for."""
        await self._quiet.wait()

    def why_not_ready(self) -> str:
        """Return why the pool is not ready; "" if it is.

        The pool becomes ready when it is full, and stays ready until the starts of a template fail: an empty shelf that
        is being refilled belongs to a busy pool, not to a broken one.
        """
        if trouble := self.trouble():
            return trouble
        if not self._was_full:
            counts = self.statistics()
            return f"the warm pool is being filled, {counts.warm} of {counts.target} containers are warm"
        return ""

    def trouble(self) -> str:
        """Return the images without a warm container because starts fail, with the reasons; "" if there are none."""
        return "; ".join(
            f"no warm container of {template.image}: {trouble}"
            for template, shelf in self._shelves.items()
            if (trouble := shelf.why_empty)
        )

    def renew(self, is_old: Callable[[str], bool]) -> None:
        """Replace the warm containers of every image that *is_old*: its name stands for another image now."""
        for template, shelf in self._shelves.items():
            if is_old(template.image):
                shelf.edition += 1
                for warm in (*shelf.warm, *shelf.adopting.values()):
                    self._throw_away(warm)
                shelf.warm.clear()
                shelf.adopting.clear()
        self._act()

    async def aclose(self) -> None:
        """Stop starting containers, and remove the warm ones, which would outlive the server.

        Wait for the removals, at most CLOSE_TIMEOUT_S. Waiting claims end with CapacityExhausted.
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
        """Return the totals over all templates."""
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

    def shelves(self) -> dict[Template, ShelfStatistics]:
        """Return the containers of each configured template."""
        return {
            template: ShelfStatistics(
                target=shelf.target,
                warm=len(shelf.warm),
                starting=shelf.starting + len(shelf.adopting),
                hits=shelf.hits,
                misses=shelf.misses,
                trouble=shelf.why_empty,
            )
            for template, shelf in self._shelves.items()
            if shelf.is_configured
        }

    # -- inside

    def _shelf(self, template: Template) -> Shelf:
        return self._shelves.setdefault(template, Shelf(0))

    def _run(self, tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = self._background.start(work, name=name)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _act(self) -> None:
        """Carry out the present plan."""
        if self._closed:
            return
        now = self._clock()
        for template in [template for template, shelf in self._shelves.items() if shelf.is_empty]:
            del self._shelves[template]
        stocks = {template: shelf.stock(now) for template, shelf in self._shelves.items()}
        # A client that waits for the first result in its sandbox asked before those that wait for a sandbox.
        max_starting = 1 if self._clients_wait() else self._max_starting
        for action in plan(stocks, max_starting=max_starting):
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
            self._was_full = True
        else:
            self._full.clear()
        if any(shelf.starting or shelf.waiters for shelf in self._shelves.values()):
            self._quiet.clear()
        else:
            self._quiet.set()
        self.changed.set()
        self.on_change()
        self._prepare_next()
        self._wake_later(now)

    def _prepare_next(self) -> None:
        """Prepare the next warm container, if nothing is more urgent."""
        self._prepared &= self.warm_ids()
        if self._preparing or not self._quiet.is_set():
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
        except SandlotError as error:  # the container is still warm
            log.info("pool.prepare_failed", sandbox=warm.sandbox_id, error=error.message, code=error.code)
        finally:
            self._preparing = False
        self._prepared.add(warm.sandbox_id)
        self._act()

    async def _wait(self, template: Template, *, first: bool = False) -> Warm:
        """Wait in the queue, or at its head, for a container or an error."""
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

    async def _start(self, template: Template, shelf: Shelf) -> None:
        edition = shelf.edition
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
            shelf.succeeded()
            if edition == shelf.edition:
                self._shelve(warm)
            else:
                self._throw_away(warm)
        self._act()

    def _failed(self, template: Template, shelf: Shelf, error: SandlotError) -> None:
        self._failures += 1
        now = self._clock()
        is_first = shelf.failed(now, error.public)
        if len(shelf.waiters) > shelf.starting:  # a claim that no other start serves
            shelf.waiters.popleft().set_exception(error)
        elif is_first and not self._closed:
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
            if shelf.adopting.pop(warm.sandbox_id, None) is not None:  # otherwise `aclose()` has taken it
                if is_ready:
                    self._shelve(warm)
                else:
                    self._throw_away(warm)
                self._act()

    def _shelve(self, warm: Warm) -> None:
        """Give a warm container to the claim that has waited longest, or keep the container."""
        shelf = self._shelf(warm.template)
        if self._closed:
            self._throw_away(warm)
        elif shelf.waiters:
            shelf.waiters.popleft().set_result(warm)
        else:
            shelf.warm.append(warm)

    def _pull(self, sandbox_id: str) -> Warm | None:
        """Take the given warm container off its shelf."""
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
        except SandlotError as error:  # the sweep will remove it
            log.warning("pool.discard_failed", sandbox=warm.sandbox_id, error=error.message)

    def _wake_later(self, now: float) -> None:
        """Call `_act` when a failed template may be tried again, or the demand of the last seconds has expired."""
        moments = [moment for shelf in self._shelves.values() if shelf.target for moment in shelf.changes_after(now)]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if moments:
            self._timer = asyncio.get_running_loop().call_later(max(0.01, min(moments) - now), self._act)


def _tell_nobody() -> None:
    """Stand for a listener to changes."""
