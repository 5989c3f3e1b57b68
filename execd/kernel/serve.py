"""The requests about contexts."""

from __future__ import annotations

import asyncio

from execd.dispatch import Handler
from execd.environment import Environment
from execd.kernel.manifest import load
from execd.kernel.table import ContextTable
from execd.process.reap import Reaper
from execd.wire.aio import Stream
from execd.wire.messages import (
    ContextClose,
    ContextInterrupt,
    ContextList,
    ContextOpen,
    ContextPrepare,
    ContextRun,
    Done,
    Request,
)


class Contexts:
    """Serves contexts in the languages that the manifests of *kernels_dir* declare. Make it in the event loop."""

    def __init__(self, reaper: Reaper, environment: Environment, kernels_dir: str) -> None:
        self.table = ContextTable(reaper, environment, load(kernels_dir))
        self._closing: set[asyncio.Future[None]] = set()

    def handlers(self) -> dict[type[Request], Handler]:
        """For the dispatcher."""
        return {
            ContextOpen: self._open,
            ContextPrepare: self._prepare,
            ContextList: self._list,
            ContextClose: self._close,
            ContextInterrupt: self._interrupt,
            ContextRun: self._run,
        }

    async def _open(self, stream: Stream, request: ContextOpen) -> None:
        kernel = self.table.open(request.id, request.language, request.cwd)
        try:
            await asyncio.shield(kernel.started)
        except asyncio.CancelledError:
            # Nobody knows of it. (Closing outlives this task, which has no time any more.)
            closing = asyncio.ensure_future(self.table.close([kernel]))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            raise
        await stream.send(kernel.state)

    async def _prepare(self, stream: Stream, request: ContextPrepare) -> None:
        await self.table.prepare()
        await stream.send(Done())

    async def _list(self, stream: Stream, request: ContextList) -> None:
        kernels = [self.table.find(request.id)] if request.id else self.table.select(request.language)
        for kernel in kernels:
            await stream.send(kernel.state)

    async def _close(self, stream: Stream, request: ContextClose) -> None:
        kernels = [self.table.find(request.id)] if request.id else self.table.select(request.language)
        await self.table.close(kernels)
        await stream.send(Done())

    async def _interrupt(self, stream: Stream, request: ContextInterrupt) -> None:
        self.table.find(request.id).interrupt()
        await stream.send(Done())

    async def _run(self, stream: Stream, request: ContextRun) -> None:
        await self.table.find(request.id).run(request.code, request.timeout_s, stream)
