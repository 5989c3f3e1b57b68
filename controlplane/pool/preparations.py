"""The preparation of languages over the whole server: few at a time, and those first that clients wait for.

The first context of an unprepared language costs CPU time. If the server prepared all requested languages at once,
each would be ready last.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from weakref import WeakValueDictionary

import structlog

from controlplane.errors import SandlotError
from controlplane.tasks import Background, Slots

log = structlog.get_logger()

MAX_REMEMBERED = 10_000  # sandboxes, and languages of sandboxes; a forgotten one only takes one more turn
READY_AT_ONCE = frozenset({"bash"})  # needs no preparation
# After this time, a context that does not open no longer makes others wait: its sandbox may be paused, or its runner
# may hang.
MAX_TURN_S = 30.0
# In the second line, over all sandboxes. A language without a place there is prepared after its next context.
MAX_BEHIND = 64


class Preparations:
    """Two lines of preparations. Clients wait in the first: *at_once* are served at a time, in the order of asking.

    Only one language of a sandbox is served at a time: a hijacked sandbox may hang with each of its languages.

    The second line has the preparations ahead of time. They run one after the other, and only while the first line is
    empty, and no container is being started or waited for. `quiet` waits for the pool's part of this condition; set it
    once the pool is made.

    `prepare` prepares a language of a sandbox, or all eager ones for "".
    """

    def __init__(
        self,
        *,
        prepare: Callable[[str, str], Awaitable[None]],
        background: Background,
        at_once: int,
    ) -> None:
        self._prepare = prepare
        self.quiet: Callable[[], Awaitable[None]] = _at_once
        self._background = background
        self._turns = asyncio.Semaphore(at_once)  # serves waiters in the order of asking
        self._in_first_line = 0
        self._first_line_is_empty = asyncio.Event()
        self._first_line_is_empty.set()
        self._second_line = Slots(1, longest_s=MAX_TURN_S)
        self._sandboxes: WeakValueDictionary[str, asyncio.Lock] = (
            WeakValueDictionary()
        )  # one language of each at a time
        self._behind = 0
        self._ready: OrderedDict[tuple[str, str], None] = OrderedDict()  # sandbox and language; "" stands for all

    async def turn(self, sandbox_id: str, language: str) -> Callable[[bool], None]:
        """Wait until a context of this language may open: not at all if the language is ready.

        Call the returned function afterwards: with True if the context exists, with False if it does not.
        """
        if (sandbox_id, language) in self._ready or language in READY_AT_ONCE:
            return _nothing
        is_served = (sandbox_id, "") not in self._ready
        own = self._sandboxes.setdefault(sandbox_id, asyncio.Lock())
        if is_served:
            await self._wait_in_first_line(own)

        def give_turn_back() -> None:
            nonlocal is_served
            if is_served:
                is_served = False
                own.release()
                self._turns.release()
                self._leave_first_line()

        patience = asyncio.get_running_loop().call_later(MAX_TURN_S, give_turn_back)

        def over(is_open: bool) -> None:
            patience.cancel()
            give_turn_back()
            # After a context that did not open, because there is no such language, no further one follows.
            if is_open and (sandbox_id, language) not in self._ready and self._behind < MAX_BEHIND:
                self._remember(sandbox_id, language)
                self._behind += 1
                self._background.start(self._prepare_behind(sandbox_id, language), name="preparations.behind")

        return over

    @property
    def clients_wait(self) -> bool:
        """Whether a client waits in the first line, or is being served."""
        return not self._first_line_is_empty.is_set()

    async def ahead(self, sandbox_id: str) -> None:
        """Prepare the eager languages of a container while nothing is more urgent. Raise what `prepare` raises."""
        await self._do_ahead(sandbox_id, "")
        self._remember(sandbox_id, "")

    # -- inside

    async def _wait_in_first_line(self, own: asyncio.Lock) -> None:
        self._in_first_line += 1
        self._first_line_is_empty.clear()
        try:
            await own.acquire()
            try:
                await self._turns.acquire()
            except BaseException:
                own.release()
                raise
        except BaseException:
            self._leave_first_line()
            raise

    def _leave_first_line(self) -> None:
        self._in_first_line -= 1
        if not self._in_first_line:
            self._first_line_is_empty.set()

    async def _prepare_behind(self, sandbox_id: str, language: str) -> None:
        """Prepare the parts of a language that its further contexts need, and the first one did not wait for."""
        try:
            await self._do_ahead(sandbox_id, language)
        except SandlotError as error:  # the sandbox is gone, paused or incomplete, but contexts still work
            self._ready.pop((sandbox_id, language), None)  # try again with the next context
            log.debug("preparations.failed", sandbox=sandbox_id, language=language, error=error.message)
        finally:
            self._behind -= 1

    async def _do_ahead(self, sandbox_id: str, language: str) -> None:
        async with self._second_line.slot():
            while True:
                await self._first_line_is_empty.wait()
                await self.quiet()
                if self._first_line_is_empty.is_set():
                    break
            await self._prepare(sandbox_id, language)

    def _remember(self, sandbox_id: str, language: str) -> None:
        self._ready[sandbox_id, language] = None
        if len(self._ready) > MAX_REMEMBERED:
            self._ready.popitem(last=False)


async def _at_once() -> None:
    """Return: there is no pool."""


def _nothing(_is_open: bool) -> None:
    """Do nothing: the context needed no turn."""
