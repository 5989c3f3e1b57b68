"""Background work: every task has an owner, an end, and its errors in the log."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

import structlog

log = structlog.get_logger()


class Background:
    """A scope for tasks. Leaving it cancels what still runs and waits for it.

    Unlike in a TaskGroup, one failed task does not end its siblings: a sandbox whose removal failed must not stop the
    server. The failure is logged with its traceback.
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
        while self._tasks:  # what ends may start more, which `start()` then cancels
            await asyncio.wait(self._tasks)

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run *work* in the background under that name. When the scope has been left, it is cancelled at once.

        Its log does not carry the request that happened to start it.
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
