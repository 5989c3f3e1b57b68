"""Background tasks: each has an owner and an end, and its errors go to the log."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import structlog

log = structlog.get_logger()


class Slots:
    """A bound on the number of tasks that do a kind of work at once. Tasks wait in the order of asking.

    Work that takes longer than *longest_s* continues, but no longer makes others wait: it may hang.
    """

    def __init__(self, at_once: int, *, longest_s: float) -> None:
        self._free = asyncio.Semaphore(at_once)  # serves waiters in the order of asking
        self._longest_s = longest_s

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a free slot, and hold the slot inside of the block."""
        await self._free.acquire()
        is_held = True

        def give_back() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._free.release()

        patience = asyncio.get_running_loop().call_later(self._longest_s, give_back)
        try:
            yield
        finally:
            patience.cancel()
            give_back()


T = TypeVar("T")


class Shared(Generic[T]):
    """A costly question that any number may ask at once. It is asked by one after the other.

    Who has waited for that takes the answer to a question that was asked meanwhile, or its error: no answer is older
    than its question.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._asked = self._answered = 0  # numbers of questions
        self._answer: T | Exception | None = None

    async def ask(self) -> T:
        """Return the answer. Raises what the question raises."""
        before = self._asked
        async with self._asking:
            if self._answered <= before:
                self._asked += 1
                number = self._asked
                try:
                    self._answer = await self._ask()
                except Exception as error:  # noqa: BLE001 - it is raised below, for all who share it
                    self._answer = error
                self._answered = number
            answer = self._answer
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]


class Background:
    """A scope for tasks. On exit, the scope cancels the remaining tasks and waits for their ends.

    Unlike in a TaskGroup, one failed task does not end its siblings: a sandbox whose removal failed must not stop the
    server. The log gets the failure with its traceback.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed = True
        for task in self._tasks:
            task.cancel()
        while self._tasks:  # a task may start others while it ends; `start()` cancels these
            await asyncio.wait(self._tasks)

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run *work* in the background as a task called *name*. After the scope's exit, cancel the task at once.

        The task's log entries do not name the request that started the task.
        """
        task = asyncio.get_running_loop().create_task(work, name=name, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if self._closed:
            task.cancel()
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task.failed", task=task.get_name(), exc_info=error)
