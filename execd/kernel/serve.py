"""The requests about contexts."""

from __future__ import annotations

import asyncio

from execd.dispatch import Handler
from execd.environment import Environment
from execd.errors import ExecdError
from execd.kernel.builtin import BASH
from execd.kernel.channel import Completion, Inspection
from execd.kernel.kernel import Kernel
from execd.kernel.manifest import load
from execd.kernel.question import expect
from execd.kernel.table import ContextTable
from execd.process.reap import Reaper
from execd.wire.aio import Stream
from execd.wire.messages import (
    ContextClose,
    ContextComplete,
    ContextCompletion,
    ContextFork,
    ContextInput,
    ContextInspect,
    ContextInspection,
    ContextInterrupt,
    ContextLanguage,
    ContextLanguages,
    ContextList,
    ContextOpen,
    ContextPrepare,
    ContextRestart,
    ContextRun,
    Done,
    Request,
    SandboxClaim,
)

MAX_PROBLEM_CHARS = 1000


class Contexts:
    """Serves contexts in the languages that the manifests of *kernels_dir* declare. Make it in the event loop."""

    def __init__(self, reaper: Reaper, environment: Environment, kernels_dir: str) -> None:
        self.table = ContextTable(reaper, environment, load(kernels_dir).with_builtin(BASH))
        self._closing: set[asyncio.Future[None]] = set()

    def handlers(self) -> dict[type[Request], Handler]:
        """For the dispatcher."""
        return {
            ContextOpen: self._open,
            ContextPrepare: self._prepare,
            ContextList: self._list,
            ContextLanguages: self._list_languages,
            ContextClose: self._close,
            ContextInterrupt: self._interrupt,
            ContextRestart: self._restart,
            ContextFork: self._fork,
            ContextInput: self._input,
            ContextComplete: self._complete,
            ContextInspect: self._inspect,
            ContextRun: self._run,
        }

    def limited_by(self, claim: Handler) -> Handler:
        """Return the claim's handler, made to take the limits first that it sets for contexts."""

        async def serve(stream: Stream, request: SandboxClaim) -> None:
            if request.max_contexts:
                self.table.max_contexts = request.max_contexts
            self.table.max_output_bytes = request.max_output_bytes
            await claim(stream, request)

        return serve

    async def _open(self, stream: Stream, request: ContextOpen) -> None:
        await self._tell_started(stream, [self.table.open(request.id, request.language, request.cwd)])

    async def _restart(self, stream: Stream, request: ContextRestart) -> None:
        await self._tell_started(stream, [await self.table.restart(request.id)])

    async def _fork(self, stream: Stream, request: ContextFork) -> None:
        await self._tell_started(stream, self.table.fork(request.id, request.ids))

    async def _tell_started(self, stream: Stream, kernels: list[Kernel]) -> None:
        """Send the states of new contexts once all of them run. When one does not, or nobody waits, none stays."""
        try:
            for kernel in kernels:
                await asyncio.shield(kernel.started)
        except (asyncio.CancelledError, ExecdError):
            # Closing outlives this task, which may have no time any more.
            closing = asyncio.ensure_future(self.table.close(kernels))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            raise
        for kernel in kernels:
            await stream.send(kernel.state)

    async def _prepare(self, stream: Stream, request: ContextPrepare) -> None:
        await self.table.prepare()
        await stream.send(Done())

    async def _list(self, stream: Stream, request: ContextList) -> None:
        kernels = [self.table.find(request.id)] if request.id else self.table.select(request.language)
        for kernel in kernels:
            await stream.send(kernel.state)

    async def _list_languages(self, stream: Stream, request: ContextLanguages) -> None:
        languages = self.table.languages
        for one in languages.manifests:
            await stream.send(ContextLanguage(one.language, one.aliases, check=one.check))
        for name, problem in languages.problems.items():
            await stream.send(ContextLanguage(name, problem=problem[:MAX_PROBLEM_CHARS]))

    async def _close(self, stream: Stream, request: ContextClose) -> None:
        kernels = [self.table.find(request.id)] if request.id else self.table.select(request.language)
        await self.table.close(kernels)
        await stream.send(Done())

    async def _interrupt(self, stream: Stream, request: ContextInterrupt) -> None:
        self.table.find(request.id).interrupt()
        await stream.send(Done())

    async def _input(self, stream: Stream, request: ContextInput) -> None:
        self.table.find(request.id).answer_input(request.text)
        await stream.send(Done())

    async def _complete(self, stream: Stream, request: ContextComplete) -> None:
        fields = {"code": request.code, "cursor": request.cursor}
        answer = await self.table.find(request.id).ask("complete", fields)
        found = expect(answer, Completion, refusal="context.unsupported")
        await stream.send(ContextCompletion(found.matches, found.start, found.end))

    async def _inspect(self, stream: Stream, request: ContextInspect) -> None:
        fields = {"code": request.code, "cursor": request.cursor, "detail": request.detail}
        answer = await self.table.find(request.id).ask("inspect", fields)
        await stream.send(ContextInspection(expect(answer, Inspection, refusal="context.unsupported").data))

    async def _run(self, stream: Stream, request: ContextRun) -> None:
        kernel = self.table.find(request.id)
        most_bytes = self.table.max_output_bytes
        await kernel.run(request.code, request.timeout_s, stream, may_ask=request.input, most_bytes=most_bytes)
