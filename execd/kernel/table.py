"""The contexts of this sandbox by id. They belong to it, not to a link: a lost control plane finds them again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from execd.environment import Environment
from execd.errors import ExecdError
from execd.kernel.channel import Forked
from execd.kernel.kernel import Kernel
from execd.kernel.manifest import Languages
from execd.kernel.question import expect
from execd.kernel.runner import Runner, adopt, join
from execd.kernel.supply import Supply
from execd.process.limits import Limits
from execd.process.parents import parent_of
from execd.process.reap import Reaper

MAX_CONTEXTS = 64  # unless the claim says otherwise
MAX_REMEMBERED = 64  # contexts that are gone, and why


class _Past(NamedTuple):
    """What is remembered of a context that is gone."""

    why: str
    language: str
    cwd: str


class ContextTable:
    """All contexts, and where new ones come from."""

    def __init__(self, reaper: Reaper, environment: Environment, languages: Languages) -> None:
        self._reaper = reaper
        self._environment = environment
        self.languages = languages
        self._supplies = {one.language: Supply(one, reaper, environment) for one in languages.manifests}
        self.max_contexts = MAX_CONTEXTS
        self.max_output_bytes = 0  # of one run; 0 is no limit
        self._limits = Limits()
        self._kernels: dict[str, Kernel] = {}
        self._directories: dict[str, str] = {}  # id → as it was asked for; of living ones
        self._gone: dict[str, _Past] = {}  # the oldest first

    async def prepare(self) -> None:
        """Make ready what the manifests mark as eager. Cancelling stops the wait, not the making."""
        await asyncio.gather(*(one.prepare() for one in self._supplies.values() if one.manifest.eager))

    def open(self, context_id: str, language: str, cwd: str) -> Kernel:
        """Make a context, which starts by itself: await its `started`.

        Raises:
            ExecdError: `context.duplicate`, `context.unsupported`, `context.too_many`, `request.invalid`.
        """
        supply = self._supplies[self.languages.find(language).language]
        self._check_free([context_id])
        launch = self._environment.prepare(cwd=cwd)
        self._directories[context_id] = cwd
        return self._add(Kernel(context_id, supply.manifest, supply.take, launch, self._limits, self._forget))

    async def restart(self, context_id: str) -> Kernel:
        """Begin a context anew that is alive or died lately. Raises as `find` and `open`."""
        if context_id in self._kernels:
            await self.close([self._kernels[context_id]])
        past = self._gone.get(context_id)
        if past is None:
            raise ExecdError("context.not_found", f"context {context_id} does not exist")
        return self.open(context_id, past.language, past.cwd)

    def fork(self, context_id: str, ids: Sequence[str]) -> list[Kernel]:
        """Make copies of a context, all of them as it is at one moment: await the `started` of each.

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
            copies.append(self._add(Kernel(copy_id, source.manifest, copy, None, self._limits, self._forget)))
        return copies

    def find(self, context_id: str) -> Kernel:
        """Return a context.

        Raises:
            ExecdError: `context.not_found`; of one that died lately the message says why.
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
        """End contexts; their ids are free at once, their processes gone when this returns."""
        kernels = list(kernels)
        for kernel in kernels:
            self._forget(kernel, "it was closed")
        await asyncio.gather(*(kernel.close("it was closed") for kernel in kernels))

    async def shutdown(self) -> None:
        """End all contexts, and what was made ready for more."""
        await self.close(self.select())
        for supply in self._supplies.values():
            supply.close()

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
            cwd = self._directories.pop(kernel.id, "")
            self._gone[kernel.id] = _Past(why or kernel.gone, kernel.manifest.language, cwd)
            if len(self._gone) > MAX_REMEMBERED:
                del self._gone[next(iter(self._gone))]


async def _copy(source: Kernel, reaper: Reaper) -> Runner:
    """Have a context copy itself; return the copy's runner.

    Raises:
        ExecdError: `context.not_forkable`; `context.not_found`, `context.no_answer`: it does not answer.
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
    """A copy is an orphan of the runner's, so a child of ours; else the runner named somebody else's process."""
    if parent_of(pid) != os.getpid():
        raise ExecdError("context.start_failed", f"process {pid} is no copy of context {source.id}")
