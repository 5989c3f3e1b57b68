"""Pausing and resuming: a sandbox's processes stand still, its memory stays, its deadline goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from weakref import WeakValueDictionary

import structlog

from controlplane.errors import Conflict, RuntimeFailure, SandlotError
from controlplane.lifecycle.records.registry import Registry
from controlplane.lifecycle.records.states import Event
from controlplane.runtime.abilities import Ability
from controlplane.runtime.driver import Container, ContainerState, Driver
from controlplane.sandbox import Sandbox, State, how_it_ended
from controlplane.tasks import Background, Slots

log = structlog.get_logger()

# What has happened, when record and container do not agree: a server was killed on the way, or another program paused.
DISAGREEMENTS: dict[tuple[State, ContainerState], tuple[Event, ...]] = {
    (State.RUNNING, ContainerState.PAUSED): (Event.PAUSE, Event.PAUSED),
    (State.PAUSING, ContainerState.PAUSED): (Event.PAUSED,),
    (State.PAUSING, ContainerState.RUNNING): (Event.PAUSE_FAILED,),
    (State.PAUSED, ContainerState.RUNNING): (Event.RESUME, Event.RESUMED),
    (State.RESUMING, ContainerState.RUNNING): (Event.RESUMED,),
    (State.RESUMING, ContainerState.PAUSED): (Event.RESUME_FAILED,),
}

# Freezing takes an engine's process for each. One that cannot be frozen is tried for ten seconds.
CHANGES_AT_ONCE = 4
MAX_CHANGE_SLOT_S = 5.0


class Pauses:
    """Carries both out. Once begun they end, whether or not the one who asked still waits.

    `on_resumed` is called for every resumed sandbox, whether a client or a person at the engine resumed it;
    `before_pause` for one that a client pauses, while its agent still answers.
    """

    def __init__(
        self,
        registry: Registry,
        driver: Driver,
        background: Background,
        on_resumed: Callable[[str], None] = lambda _: None,
        before_pause: Callable[[Sandbox], Awaitable[None]] | None = None,
    ) -> None:
        self._registry = registry
        self._driver = driver
        self._background = background
        self._on_resumed = on_resumed
        self._before_pause = before_pause
        self._engine = Slots(CHANGES_AT_ONCE, longest_s=MAX_CHANGE_SLOT_S)
        self._changing: Counter[str] = Counter()  # how many are at work on each
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # one of them at a time

    async def pause(self, sandbox_id: str) -> Sandbox:
        """Pause a running sandbox; return it paused.

        Raises:
            NotFound, Conflict: there is no such sandbox, or it is not running (any more).
            Unsupported: the engine pauses no containers.
            RuntimeFailure: the engine failed; the sandbox runs on.
        """
        self._registry.get(sandbox_id)
        self._driver.abilities.require(Ability.PAUSE)
        sandbox = self._registry.advance(sandbox_id, Event.PAUSE)
        return await self._change(
            sandbox, self._driver.containers.pause, Event.PAUSED, Event.PAUSE_FAILED, "sandbox.pause_failed"
        )

    async def resume(self, sandbox_id: str) -> Sandbox:
        """Let a paused sandbox go on; return it running. Errors as in `pause`, the other way round."""
        sandbox = self._registry.get(sandbox_id)
        if sandbox.state is not State.PAUSED:
            raise Conflict(
                f"cannot resume a sandbox that is {sandbox.state.value}{how_it_ended(sandbox)}",
                code="sandbox.not_paused",
            )
        sandbox = self._registry.advance(sandbox_id, Event.RESUME)
        return await self._change(
            sandbox, self._driver.containers.resume, Event.RESUMED, Event.RESUME_FAILED, "sandbox.resume_failed"
        )

    def settle(self, sandbox: Sandbox, container: Container) -> None:
        """Have the record of a living container say what is. Raises StoreError."""
        if self._changing[sandbox.id]:
            return  # that will say so itself
        events = DISAGREEMENTS.get((sandbox.state, container.state), ())
        for event in events:
            self._advance(sandbox.id, event)
        if events:
            log.info("sandbox.settled", sandbox=sandbox.id, state=self._registry.get(sandbox.id).state.value)

    @contextlib.asynccontextmanager
    async def held(self, sandbox_id: str) -> AsyncIterator[None]:
        """Hold a sandbox inside of the block: no other task pauses or resumes it, and the engine's events do not count.

        Afterwards, look how things stand.
        """
        self._changing[sandbox_id] += 1
        try:
            async with self._turn(sandbox_id):
                yield
        finally:
            self._release(sandbox_id)
            self.look_again(sandbox_id)

    def _turn(self, sandbox_id: str) -> asyncio.Lock:
        """Return what is held by the one who changes a sandbox's container now."""
        return self._turns.setdefault(sandbox_id, asyncio.Lock())

    def _release(self, sandbox_id: str) -> None:
        self._changing[sandbox_id] -= 1
        if not self._changing[sandbox_id]:
            del self._changing[sandbox_id]

    def look_again(self, sandbox_id: str) -> None:
        """Ask the engine for the present state of a sandbox after an event, which may be outdated, and settle."""
        self._background.start(self._look(sandbox_id), name="sandbox.look_again")

    async def _look(self, sandbox_id: str) -> None:
        sandbox = self._registry.find(sandbox_id)
        if sandbox is None:
            return
        try:
            container = await self._driver.containers.inspect(sandbox.container_id)
            if container is not None and self._registry.find(sandbox_id) == sandbox:
                self.settle(sandbox, container)
        except SandlotError as error:  # the sweep looks again
            log.warning("sandbox.look_failed", sandbox=sandbox_id, error=error.message)

    def _advance(self, sandbox_id: str, event: Event) -> Sandbox:
        sandbox = self._registry.advance(sandbox_id, event)
        if event is not Event.RESUMED:
            return sandbox
        self._on_resumed(sandbox_id)
        return self._registry.get(sandbox_id)  # perhaps with another deadline

    async def _change(
        self, sandbox: Sandbox, verb: Callable[[str], Awaitable[None]], done: Event, failed: Event, code: str
    ) -> Sandbox:
        outcome: asyncio.Future[Sandbox] = asyncio.get_running_loop().create_future()
        outcome.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # its caller may have gone

        async def carry_out() -> None:
            try:
                try:
                    if done is Event.PAUSED and self._before_pause is not None:
                        await self._before_pause(sandbox)
                    async with self._turn(sandbox.id), self._engine.slot():
                        await verb(sandbox.container_id)
                except RuntimeFailure as error:
                    self._registry.advance(sandbox.id, failed)
                    raise RuntimeFailure(error.message, code=code, public=error.public) from error
                outcome.set_result(self._advance(sandbox.id, done))
            except SandlotError as error:
                outcome.set_exception(error)
            finally:
                self._release(sandbox.id)
                outcome.cancel()

        self._changing[sandbox.id] += 1
        self._background.start(carry_out(), name=f"sandbox.{done.value}")
        return await asyncio.shield(outcome)
