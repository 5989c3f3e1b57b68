"""The contexts of this sandbox by id.

They do not depend on a link: after a lost link the control plane finds them again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from execd.errors import ExecdError
from execd.kernel.kernel import Kernel
from execd.kernel.question import expect
from execd.kernel.runner.channel import Forked
from execd.kernel.runner.manifest import Languages, Manifest
from execd.kernel.runner.process import Runner, adopt, join
from execd.kernel.runner.supply import Supply
from execd.kernel.runner.work import Work
from execd.launch.environment import Environment
from execd.process.limits import Limits
from execd.process.parents import parent_of
from execd.process.reap import Reaper

MAX_CONTEXTS = 64  # unless the claim sets another limit
MAX_REMEMBERED = 64  # ended contexts, with the reasons


class _Past(NamedTuple):
    """What is remembered of a context that has ended."""

    why: str
    language: str
    cwd: str
    died: bool  # it had started, and no client has closed it


class ContextTable:
    """All contexts, and the supplies of runners for new ones."""

    def __init__(self, reaper: Reaper, environment: Environment, languages: Languages) -> None:
        self._reaper = reaper
        self._environment = environment
        self._versions = environment.choice.names  # language → the version in which its runners are made
        self.languages = languages
        self._limits = Limits()
        self._work = Work()
        self._supplies = {one.language: self._supply(one) for one in languages.manifests}
        environment.follow(self._follow_versions)
        self.max_contexts = MAX_CONTEXTS
        self.max_output_bytes = 0  # of one run; 0: no limit
        self._kernels: dict[str, Kernel] = {}
        self._directories: dict[str, str] = {}  # of living contexts: id → the directory that was asked for
        self._gone: dict[str, _Past] = {}  # the oldest first
        self._renewed: dict[str, str] = {}  # id → why the former context of that id ended

    async def prepare(self, language: str = "") -> None:
        """Make a language ready, or all that their manifests mark as eager. Cancelling stops the wait, not the work.

        Raises:
            ExecdError: `context.unsupported`.
        """
        if language:
            await self._supplies[self.languages.find(language).language].prepare()
        else:
            await asyncio.gather(*(one.prepare() for one in self._supplies.values() if one.manifest.eager))

    def open(self, context_id: str, language: str, cwd: str) -> Kernel:
        """Create a context. It starts by itself: await its `started`.

        Raises:
            ExecdError: `context.duplicate`, `context.unsupported`, `context.too_many`, `request.invalid`.
        """
        supply = self._supplies[self.languages.find(language).language]
        self._check_free([context_id])
        launch = self._environment.prepare(cwd=cwd)
        self._directories[context_id] = cwd
        if (past := self._gone.get(context_id)) is not None and past.died:
            self._renewed[context_id] = past.why
        return self._add(
            Kernel(context_id, supply.manifest, supply.take, launch, self._limits, self._work, self._forget)
        )

    async def restart(self, context_id: str) -> Kernel:
        """Start a context anew that is alive or has ended lately. Raises as `find` and `open`."""
        if context_id in self._kernels:
            await self.close([self._kernels[context_id]])
        past = self._gone.get(context_id)
        if past is None:
            raise ExecdError("context.not_found", f"context {context_id} does not exist")
        kernel = self.open(context_id, past.language, past.cwd)
        self._renewed.pop(context_id, None)  # the loss was asked for
        return kernel

    def fork(self, context_id: str, ids: Sequence[str]) -> list[Kernel]:
        """Create copies of a context, all in the state of one moment. Await the `started` of each.

        Raises:
            ExecdError: `context.not_found`, `context.unsupported`, `context.duplicate`, `context.too_many`.
        """
        source = self.find(context_id)
        if not source.manifest.fork:
            language = source.manifest.language
            raise ExecdError("context.unsupported", f"contexts of {language} cannot be copied in this image")
        self._check_free(ids)

        async def copy() -> Runner:
            return await _copy(source, self._reaper)

        copies = []
        for copy_id in ids:
            self._directories[copy_id] = self._directories.get(context_id, "")
            kernel = Kernel(copy_id, source.manifest, copy, None, self._limits, self._work, self._forget)
            copies.append(self._add(kernel))
        return copies

    def take_loss(self, context_id: str, *, kind: str = "context") -> str:
        """Return the notice of the first run in a context that replaces one that has died; otherwise "".

        *kind* is the word that clients use for the context.
        """
        why = self._renewed.pop(context_id, "")
        return f"{kind} {context_id} has begun anew, without what it held: {why}" if why else ""

    def language_of(self, context_id: str) -> str:
        """Return the language of a context; "" if there is no such context."""
        kernel = self._kernels.get(context_id)
        return "" if kernel is None else kernel.manifest.language

    def find(self, context_id: str) -> Kernel:
        """Return a context.

        Raises:
            ExecdError: `context.not_found`. If the context has ended lately, the message says why.
        """
        kernel = self._kernels.get(context_id)
        if kernel is None:
            past = self._gone.get(context_id)
            problem = f"is gone: {past.why}" if past else "does not exist"
            raise ExecdError("context.not_found", f"context {context_id} {problem}")
        return kernel

    def select(self, language: str = "") -> list[Kernel]:
        """Return all contexts, or those of one language (or alias), the oldest first.

        Raises:
            ExecdError: `context.unsupported`.
        """
        name = self.languages.find(language).language if language else ""
        return [one for one in self._kernels.values() if name in ("", one.manifest.language)]

    async def close(self, kernels: Iterable[Kernel]) -> None:
        """End contexts. Their ids are free at once; their processes have ended when the call returns."""
        kernels = list(kernels)
        for kernel in kernels:
            self._forget(kernel, "it was closed")
        await asyncio.gather(*(kernel.close("it was closed") for kernel in kernels))

    async def shutdown(self) -> None:
        """End all contexts, and everything that was made ready for more."""
        await self.close(self.select())
        for supply in self._supplies.values():
            supply.close()

    def _supply(self, manifest: Manifest) -> Supply:
        """Return a supply of runners in the version that the sandbox chooses."""
        if command := self._environment.choice.commands.get(manifest.language):
            manifest = msgspec.structs.replace(manifest, command=command)
        return Supply(manifest, self._reaper, self._environment, self._limits, self._work)

    def _follow_versions(self) -> None:
        """Discard, after a claim, what was made ready in another version than the sandbox chooses."""
        made_in, self._versions = self._versions, self._environment.choice.names
        for manifest in self.languages.manifests:
            language = manifest.language
            if made_in.get(language) != self._versions.get(language):
                self._supplies[language].close()
                self._supplies[language] = self._supply(manifest)

    def _add(self, kernel: Kernel) -> Kernel:
        self._gone.pop(kernel.id, None)
        self._kernels[kernel.id] = kernel
        return kernel

    def _check_free(self, ids: Sequence[str]) -> None:
        for context_id in ids:
            if context_id in self._kernels or ids.count(context_id) > 1:
                raise ExecdError("context.duplicate", f"context {context_id} exists")
        if len(self._kernels) + len(ids) > self.max_contexts:
            raise ExecdError("context.too_many", f"{self.max_contexts} contexts may exist at once; close one")

    def _forget(self, kernel: Kernel, why: str = "") -> None:
        if self._kernels.get(kernel.id) is kernel:
            del self._kernels[kernel.id]
            self._renewed.pop(kernel.id, None)
            cwd = self._directories.pop(kernel.id, "")
            died = not why and kernel.has_started
            self._gone[kernel.id] = _Past(why or kernel.gone, kernel.manifest.language, cwd, died)
            if len(self._gone) > MAX_REMEMBERED:
                del self._gone[next(iter(self._gone))]


async def _copy(source: Kernel, reaper: Reaper) -> Runner:
    """Have a context copy itself. Return the runner of the copy.

    Raises:
        ExecdError: `context.not_forkable`; `context.not_found`, `context.no_answer`: the context does not answer.
    """
    runner, theirs = join()
    try:
        forked = expect(await source.ask("fork", {}, theirs.fds()), Forked, refusal="context.not_forkable")
        _check_ours(forked.pid, source)
        adopt(runner, forked.pid, reaper)
    except BaseException:
        runner.close()
        raise
    finally:
        theirs.close()
    return runner


def _check_ours(pid: int, source: Kernel) -> None:
    """Refuse a process that is not a copy. A copy is an orphan of the runner, and therefore a child of execd."""
    if parent_of(pid) != os.getpid():
        raise ExecdError("context.start_failed", f"process {pid} is not a copy of context {source.id}")
