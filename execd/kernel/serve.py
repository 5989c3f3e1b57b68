"""The handlers of the requests about contexts."""

from __future__ import annotations

import asyncio

from execd.dispatch import Handler, Replies
from execd.errors import ExecdError
from execd.kernel.kernel import Kernel
from execd.kernel.question import expect
from execd.kernel.runner.builtin import BASH
from execd.kernel.runner.channel import Completion, Inspection
from execd.kernel.runner.manifest import Manifest, load
from execd.kernel.table import ContextTable
from execd.launch.environment import Environment
from execd.launch.versions import Versions
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
    """Contexts in the languages that the manifests of *kernels_dir* declare. Create it inside the event loop."""

    def __init__(
        self, reaper: Reaper, environment: Environment, kernels_dir: str, versions: Versions | None = None
    ) -> None:
        self._environment = environment
        self._versions = versions or Versions()
        self.table = ContextTable(reaper, environment, load(kernels_dir).with_builtin(BASH))
        self._closing: set[asyncio.Future[None]] = set()

    def handlers(self) -> dict[type[Request], Handler]:
        """Return the handler of each request."""
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
            ContextRun: self.run,
        }

    def take_settings(self, claim: SandboxClaim) -> None:
        """Take the limits on contexts, and on the output of a run, from a claim."""
        if claim.max_contexts:
            self.table.max_contexts = claim.max_contexts
        self.table.max_output_bytes = claim.max_output_bytes

    async def _open(self, stream: Stream, request: ContextOpen) -> None:
        await self._tell_started(stream, [self.table.open(request.id, request.language, request.cwd)])

    async def _restart(self, stream: Stream, request: ContextRestart) -> None:
        await self._tell_started(stream, [await self.table.restart(request.id)])

    async def _fork(self, stream: Stream, request: ContextFork) -> None:
        await self._tell_started(stream, self.table.fork(request.id, request.ids))

    async def _tell_started(self, stream: Stream, kernels: list[Kernel]) -> None:
        """Send the states of new contexts once all of them can run.

        If one cannot, or nobody waits, close all of them.
        """
        try:
            for kernel in kernels:
                await asyncio.shield(kernel.started)
        except (asyncio.CancelledError, ExecdError):
            # The closing outlives this task, which is being cancelled.
            closing = asyncio.ensure_future(self.table.close(kernels))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            raise
        for kernel in kernels:
            await stream.send(kernel.state)

    async def _prepare(self, stream: Stream, request: ContextPrepare) -> None:
        await self.table.prepare(request.language)
        await stream.send(Done())

    async def _list(self, stream: Stream, request: ContextList) -> None:
        kernels = [self.table.find(request.id)] if request.id else self.table.select(request.language)
        for kernel in kernels:
            await stream.send(kernel.state)

    async def _list_languages(self, stream: Stream, request: ContextLanguages) -> None:
        languages = self.table.languages
        for one in languages.manifests:
            await stream.send(self._describe(one))
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

    async def run(self, stream: Replies, request: ContextRun) -> None:
        """Run code in a context, and send what the run says. Raises ExecdError."""
        if stream.is_broken:
            return  # nobody waits for the run: it must not begin, nor delay what was asked for after it
        kernel = self.table.find(request.id)
        most_bytes = self.table.max_output_bytes
        await kernel.run(
            request.code,
            request.timeout_s,
            stream,
            may_ask=request.input,
            most_bytes=most_bytes,
            notice=self._environment.take_notice(),
            loss=self.table.take_loss(request.id),
        )

    def _describe(self, one: Manifest) -> ContextLanguage:
        declared = self._versions.of(one.language)
        if declared is None:
            return ContextLanguage(one.language, one.aliases, check=one.check)
        return ContextLanguage(
            one.language,
            one.aliases,
            check=one.check,
            variable=declared.variable,
            version=self._environment.choice.names[one.language],
            versions=tuple(declared.versions),
        )
