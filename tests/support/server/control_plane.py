"""A control plane without its edge, on a fake engine, with state and sockets of its own that outlive it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from controlplane.sandbox import CreateRequest
from controlplane.server.composition import ControlPlane, compose
from controlplane.settings.sections import (
    EngineSettings,
    PathSettings,
    PoolSettings,
    SandboxSettings,
    Settings,
    StorageSettings,
)
from controlplane.store.store import Store
from controlplane.telemetry.tracing import SILENT, Tracer
from tests.support.fakes.agents import CutDriver
from tests.support.fakes.engine import FakeEngine

IMAGE = "fake/image"
PATIENCE_S = 60.0


class Home:
    """Where a control plane has its state and sockets. One may run in it at a time."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.path = Path(tempfile.mkdtemp(prefix="sandlot-"))  # short, for the sake of Unix socket paths
        self.driver: CutDriver

    @property
    def sockets(self) -> Path:
        """The directory of socket directories."""
        return self.path / "run" / "sandboxes"

    @contextlib.asynccontextmanager
    async def run(
        self,
        *,
        full: bool = True,
        storage: StorageSettings | None = None,
        pools: Sequence[PoolSettings] = (),
        engine: EngineSettings | None = None,
        clock: Callable[[], float] = time.time,
        tracer: Tracer = SILENT,
        **sandbox: Any,
    ) -> AsyncIterator[ControlPlane]:
        """Run a control plane, with these settings of `[sandbox]`; with *full*, once its pool is full."""
        settings = Settings(
            sandbox=SandboxSettings(**{"image": IMAGE, "pool_size": 2, **sandbox}),
            storage=storage or StorageSettings(),
            pools=tuple(pools),
            engine=engine or EngineSettings(),
            paths=PathSettings(state_dir=str(self.path / "state"), run_dir=str(self.path / "run")),
        )
        async with compose(settings, self._make_driver, verify=_anybody, clock=clock, tracer=tracer) as plane:
            if full:
                async with asyncio.timeout(PATIENCE_S):
                    await plane.pool.wait_full()
            yield plane

    def _make_driver(self, instance: str) -> CutDriver:
        self.driver = CutDriver(self.engine, instance=instance)
        return self.driver

    @contextlib.contextmanager
    def store(self) -> Any:
        """The store, while no control plane runs."""
        store = Store(self.path / "state")
        try:
            yield store
        finally:
            store.close()

    async def aclose(self) -> None:
        """Remove all there is."""
        await self.engine.aclose()
        shutil.rmtree(self.path)


def _anybody(pid: int, container_id: str) -> bool:
    return True


def a_request(**changes: Any) -> CreateRequest:
    """A request for a sandbox of the pooled image."""
    return CreateRequest(**{"image": IMAGE, "entrypoint": ("tail", "-f", "/dev/null"), **changes})


async def until(condition: Callable[[], object]) -> None:
    """Return when *condition* holds: for what has no event of its own."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - there is none
            await asyncio.sleep(0.001)


@contextlib.contextmanager
def stuck_store(home: Home) -> Iterator[None]:
    """While this lasts, nothing can be written down."""
    holder = sqlite3.connect(home.path / "state" / "sandlot.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        holder.close()
