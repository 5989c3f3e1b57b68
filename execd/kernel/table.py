"""The contexts of this sandbox by id. They belong to it, not to a link: a lost control plane finds them again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from execd.environment import Environment
from execd.errors import ExecdError
from execd.kernel.kernel import Kernel
from execd.kernel.manifest import Languages
from execd.kernel.supply import Supply
from execd.process.oom import KillCounter
from execd.process.reap import Reaper

MAX_CONTEXTS = 64
MAX_REMEMBERED = 64  # contexts that are gone, and why


class ContextTable:
    """All contexts, and where new ones come from."""

    def __init__(self, reaper: Reaper, environment: Environment, languages: Languages) -> None:
        self._environment = environment
        self._languages = languages
        self._supplies = {one.language: Supply(one, reaper, environment) for one in languages.manifests}
        self._kills = KillCounter()
        self._kernels: dict[str, Kernel] = {}
        self._gone: dict[str, str] = {}  # id → why; the oldest first

    async def prepare(self) -> None:
        """Make ready what the manifests mark as eager. Cancelling stops the wait, not the making."""
        await asyncio.gather(*(one.prepare() for one in self._supplies.values() if one.manifest.eager))

    def open(self, context_id: str, language: str, cwd: str) -> Kernel:
        """Make a context, which starts by itself: await its `started`.

        Raises:
            ExecdError: `context.duplicate`, `context.unsupported`, `context.too_many`, `request.invalid`.
        """
        if context_id in self._kernels:
            raise ExecdError("context.duplicate", f"context {context_id} exists")
        supply = self._supplies[self._languages.find(language).language]
        if len(self._kernels) >= MAX_CONTEXTS:
            raise ExecdError("context.too_many", f"{MAX_CONTEXTS} contexts exist; close one")
        launch = self._environment.prepare(cwd=cwd)
        self._gone.pop(context_id, None)
        kernel = self._kernels[context_id] = Kernel(context_id, supply, launch, self._kills, self._forget)
        return kernel

    def find(self, context_id: str) -> Kernel:
        """Return a context.

        Raises:
            ExecdError: `context.not_found`; of one that died lately the message says why.
        """
        kernel = self._kernels.get(context_id)
        if kernel is None:
            why = self._gone.get(context_id)
            problem = f"is gone: {why}" if why else "does not exist"
            raise ExecdError("context.not_found", f"context {context_id} {problem}")
        return kernel

    def select(self, language: str = "") -> list[Kernel]:
        """Return all contexts, or those of one language (or alias), the oldest first.

        Raises:
            ExecdError: `context.unsupported`.
        """
        name = self._languages.find(language).language if language else ""
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

    def _forget(self, kernel: Kernel, why: str = "") -> None:
        if self._kernels.get(kernel.id) is kernel:
            del self._kernels[kernel.id]
            self._gone[kernel.id] = why or kernel.gone
            if len(self._gone) > MAX_REMEMBERED:
                del self._gone[next(iter(self._gone))]
