"""The parts of `controlplane.lifecycle` below the façade, on a store of their own: no pool, no agent, no settings."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from msgspec.structs import replace

from controlplane.lifecycle.deadlines import Deadlines
from controlplane.lifecycle.endings import Endings
from controlplane.lifecycle.records.registry import Registry, utc_now
from controlplane.lifecycle.uses import Uses
from controlplane.link.accept import Accept
from controlplane.link.directory import Directory
from controlplane.pool.provision import Provisioner
from controlplane.sandbox import Sandbox, SandboxSpec, State
from controlplane.store.store import Store
from controlplane.tasks import Background
from tests.support.fakes.agents import CutDriver
from tests.support.fakes.engine import FakeEngine


def a_record(state: State = State.RUNNING, **changes: object) -> Sandbox:
    """The record of a sandbox that was made now."""
    now = utc_now()
    sandbox = Sandbox(
        id="one",
        container_id="container-one",
        requested_image="fake/image",
        spec=SandboxSpec(image="fake/image", entrypoint=("tail",)),
        state=state,
        created_at=now,
        state_changed_at=now,
    )
    return replace(sandbox, **changes)


class Parts:
    """Uses and endings with their collaborators. Time stands still until a test moves it."""

    def __init__(self, home: Path, background: Background, *, max_lifetime_s: int = 0) -> None:
        self.home = home
        self.background = background
        self.store = Store(home)
        self.now = utc_now().timestamp()
        self.registry = Registry(self.store)
        self.deadlines = Deadlines()
        self.directory = Directory()
        self.driver = CutDriver(FakeEngine(), instance="test")
        self.uses = Uses(
            self.registry, self.deadlines, self.directory, max_lifetime_s=max_lifetime_s, clock=lambda: self.now
        )
        accept = Accept(home / "run", self.directory)
        provisioner = Provisioner(self.driver, accept, self.directory)
        self.endings = Endings(self.registry, self.deadlines, self.uses, provisioner, self.driver.volumes, background)

    def put(self, *, extensions: dict[str, str] | None = None, lasts_s: float | None = None) -> Sandbox:
        """Write down a sandbox that runs, was made now, and ends then."""
        made_at = datetime.fromtimestamp(self.now, UTC)
        spec = SandboxSpec(image="fake/image", entrypoint=("tail",), extensions=extensions or {})
        expires_at = None if lasts_s is None else made_at + timedelta(seconds=lasts_s)
        return self.registry.put(a_record(spec=spec, created_at=made_at, expires_at=expires_at))


@contextlib.asynccontextmanager
async def parts(*, max_lifetime_s: int = 0) -> AsyncIterator[Parts]:
    """Run the parts in a directory of their own."""
    with tempfile.TemporaryDirectory(prefix="sandlot-") as home:
        async with Background() as background:
            made = Parts(Path(home), background, max_lifetime_s=max_lifetime_s)
            yield made
        await made.driver.engine.aclose()
        made.store.close()
