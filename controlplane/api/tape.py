"""What a run says, numbered and kept for a while, so that a client that lost its connection can go on reading."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Generic, NamedTuple, Self, TypeVar

from controlplane.errors import Conflict, NotFound, SandlotError

T = TypeVar("T")

# What is kept of a run for somebody who comes back: more than what can be under way in the sockets between.
KEPT_BYTES = 4 << 20
# What may wait for a reader. Beyond that the run has to wait too.
UNREAD_BYTES = 1 << 20
MAX_RUNS = 10_000


class Item(NamedTuple, Generic[T]):
    """One thing that was said: the how-manieth, what, and its size in bytes."""

    number: int
    value: T
    size: int


class Tape(Generic[T]):
    """Items from 1 on. One task writes; one reads, from wherever it likes, as long as that is still there."""

    def __init__(self, kept_bytes: int = KEPT_BYTES, unread_bytes: int = UNREAD_BYTES) -> None:
        self.is_finished = False
        self._kept_bytes = kept_bytes
        self._unread_bytes = unread_bytes
        self._items: deque[Item[T]] = deque()
        self._last = 0  # number of the last item that was written
        self._read = 0  # of the last one that was given to a reader
        self._taken = 0  # of the last one that a reader has dealt with: it asked for what comes after
        self._taken_size = self._unread = 0  # bytes; of those that are kept
        self._changed = asyncio.Event()

    async def write(self, value: T, size: int) -> None:
        """Append an item; waits while too much has not been read."""
        while self._unread >= self._unread_bytes:
            await self.change()
        self._last += 1
        self._items.append(Item(self._last, value, size))
        self._unread += size
        self.wake()

    def finish(self) -> None:
        """Nothing more will be written."""
        self.is_finished = True
        self.wake()

    def check(self, after: int) -> int:
        """Return the number of the first item that is kept.

        Raises:
            NotFound: the one after that number is not kept any more, or was never written.
        """
        first = self._items[0].number if self._items else self._last + 1
        if not first - 1 <= after <= self._last:
            raise NotFound(f"what came after number {after} is not kept (any more)", code="run.lost")
        return first

    async def read(self, after: int) -> list[Item[T]]:
        """Return all items after that number, waiting for some; none at the end. Errors as of `check`."""
        while (first := self.check(after)) and after == self._last and not self.is_finished:
            await self.change()
        for index in range(self._taken + 1 - first, after + 1 - first):
            self._taken = self._items[index].number
            self._taken_size += self._items[index].size
        items = [self._items[index] for index in range(after + 1 - first, len(self._items))]
        for item in items:
            if item.number > self._read:
                self._read = item.number
                self._unread -= item.size
        self._trim()
        self.wake()
        return items

    def wake(self) -> None:
        """Have whoever waits look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def change(self) -> Awaitable[object]:
        """Return what waits for the next change after this call."""
        return self._changed.wait()

    def _trim(self) -> None:
        while self._taken_size and self._taken_size - self._items[0].size >= self._kept_bytes:
            self._taken_size -= self._items.popleft().size


class KeptRun(Generic[T]):
    """A run that outlives its client's connection by some seconds."""

    def __init__(
        self, key: tuple[str, str], keep_s: int, tape: Tape[T], running: asyncio.Task[None], forget: Callable[[], None]
    ) -> None:
        self.key = key
        self.tape = tape
        self._keep_s = keep_s
        self._running = running
        self._forget = forget
        self._reader = 0
        self._has_reader = False
        self._timer = self._wait_for_a_reader()

    @property
    def has_reader(self) -> bool:
        """Whether somebody reads it now."""
        return self._has_reader

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[int], Awaitable[list[Item[T]]]]]:
        """Be its reader, in place of any other; yields what reads the items after a number.

        Raises (what was yielded):
            Conflict: somebody else reads it now.
            NotFound: as `Tape.read`.
        """
        self._reader += 1
        mine = self._reader
        self._has_reader = True
        self._timer.cancel()
        self.tape.wake()

        async def read(after: int) -> list[Item[T]]:
            reading = asyncio.ensure_future(self.tape.read(after))
            try:
                while not reading.done():
                    self._check(mine)
                    changed = asyncio.ensure_future(self.tape.change())
                    await asyncio.wait([reading, changed], return_when=asyncio.FIRST_COMPLETED)
                    changed.cancel()
                    self._check(mine)
                return reading.result()
            finally:
                reading.cancel()

        try:
            yield read
        finally:
            if self._reader == mine:
                self._has_reader = False
                self._timer = self._wait_for_a_reader()

    def end(self) -> None:
        """Have done with it: if it still goes on, it is ended."""
        self._timer.cancel()
        self._running.cancel()
        self._forget()

    def _wait_for_a_reader(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._keep_s, self.end)

    def _check(self, reader: int) -> None:
        if self._reader != reader:
            raise Conflict("another client reads this run now", code="run.taken")


class KeptRuns(Generic[T]):
    """All of them, by sandbox and id. Ends them with its `async with` block."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], KeptRun[T]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for run in list(self._runs.values()):
            run.end()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def start(
        self,
        sandbox_id: str,
        run_id: str,
        keep_s: int,
        pump: Callable[[Tape[T]], Awaitable[None]],
        close: Callable[[], None],
    ) -> KeptRun[T]:
        """Have *pump* write what a run says on a tape; *close* is called at its end in any case."""
        key = (sandbox_id, run_id)
        tape: Tape[T] = Tape()
        task = asyncio.get_running_loop().create_task(self._run(tape, pump, close))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        run = KeptRun(key, keep_s, tape, task, lambda: self._forget(key))
        self._runs[key] = run
        if len(self._runs) > MAX_RUNS:
            next(iter(self._runs.values())).end()
        return run

    def get(self, sandbox_id: str, run_id: str) -> KeptRun[T]:
        """Return a run. Raises NotFound: there is none, or it was not kept, or not for so long."""
        try:
            return self._runs[sandbox_id, run_id]
        except KeyError:
            raise NotFound(f"no run {run_id[:64]} is kept", code="run.not_found") from None

    def _forget(self, key: tuple[str, str]) -> None:
        self._runs.pop(key, None)

    async def _run(self, tape: Tape[T], pump: Callable[[Tape[T]], Awaitable[None]], close: Callable[[], None]) -> None:
        try:
            await pump(tape)
        except SandlotError:
            pass  # the pump has said on the tape what it could
        finally:
            close()
            tape.finish()
