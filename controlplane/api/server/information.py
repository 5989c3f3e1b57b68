"""`/server`: what the server is, what it runs on, and what its operator has set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.bodies import json_answer
from controlplane.api.edge.guard import caller_of
from controlplane.api.server.schema import (
    AddressView,
    DiskView,
    EngineView,
    LimitsView,
    ServerView,
    SettingView,
)
from controlplane.errors import RuntimeFailure
from controlplane.lifecycle.events.news import PoolNews
from controlplane.runtime.driver import Driver, EngineInfo
from controlplane.settings.differences import differences
from controlplane.settings.sections import Settings
from controlplane.tasks import Shared

if TYPE_CHECKING:
    from controlplane.lifecycle.sandboxes import Sandboxes

ENGINE_PATIENCE_S = 3.0  # an engine that hangs is shown as one that does not answer


class Information:
    """The endpoint.

    Args:
        answers: Return whether the engine answers.
        why_not_ready: Return what keeps the server from its work; "" if nothing does.
        pools: Return the states of the warm pools.
    """

    def __init__(
        self,
        settings: Settings,
        driver: Driver,
        sandboxes: Sandboxes,
        *,
        answers: Callable[[], bool],
        why_not_ready: Callable[[], str],
        pools: Callable[[], Sequence[PoolNews]],
    ) -> None:
        self._settings = settings
        self._driver = driver
        self._sandboxes = sandboxes
        self._answers = answers
        self._why_not_ready = why_not_ready
        self._pools = pools
        self._started_at = datetime.now(UTC)
        self._described = Shared(self._describe)
        self._room = Shared(driver.disk_room)

    async def read(self, request: Request) -> Response:
        """Return what the server is: its release, engine, pools, disk and limits; for administrators its settings."""
        info = await self._ask()
        is_admin = caller_of(request.scope).is_admin
        settings = self._settings
        view = ServerView(
            version=version("sandlot"),
            started_at=self._started_at,
            problem=self._why_not_ready() if info is not None else "the container engine does not answer",
            address=AddressView(public_address=settings.server.public_address, port_domain=settings.server.port_domain),
            engine=self._engine(info),
            sandboxes={state.value: count for state, count in self._sandboxes.statistics().by_state.items()},
            pools=list(self._pools()),
            disk=await self._disk(info),
            limits=_limits(settings),
            settings=[SettingView(each.name, each.value, each.default) for each in differences(settings)]
            if is_admin
            else [],
        )
        return json_answer(view)

    async def _ask(self) -> EngineInfo | None:
        if not self._answers():
            return None
        try:
            async with asyncio.timeout(ENGINE_PATIENCE_S):
                return await self._described.ask()
        except (RuntimeFailure, TimeoutError):
            return None

    async def _describe(self) -> EngineInfo:
        return await self._driver.describe()

    async def _disk(self, info: EngineInfo | None) -> DiskView | None:
        if info is None:
            return None
        try:
            room = await self._room.ask()
        except RuntimeFailure:
            return None
        return None if room is None else DiskView(room.free_bytes, room.free_files)

    def _engine(self, info: EngineInfo | None) -> EngineView:
        can = self._driver.abilities
        view = EngineView(
            answers=info is not None,
            name=can.engine,
            abilities=sorted(ability.value for ability in can.can),
            networks=sorted(network.value for network in can.networks),
            volumes=sorted(kind.value for kind in can.volumes),
            runtimes=sorted(can.runtimes),
            limits=sorted(can.limits),
        )
        if info is None:
            return view
        return replace(
            view,
            name=info.name,
            version=info.version,
            api_version=info.api_version,
            cpus=info.cpus,
            memory_bytes=info.memory_bytes,
            cgroup_version=info.cgroup_version,
            storage_driver=info.storage_driver,
            default_runtime=info.default_runtime,
        )


def _limits(settings: Settings) -> LimitsView:
    sandbox, usual = settings.sandbox, settings.sandbox.limits
    return LimitsView(
        max_sandboxes=sandbox.max_sandboxes,
        cpus=usual.cpus,
        memory_bytes=usual.memory_bytes,
        pids=usual.pids,
        timeout_s=sandbox.timeout_seconds,
        max_cpus=sandbox.max_cpus,
        max_memory_bytes=sandbox.max_memory * 1024,
        max_lifetime_s=sandbox.max_lifetime,
        disk_bytes=sandbox.disk_limit * 1024,
        disk_files=sandbox.file_limit,
        max_snapshots=settings.storage.max_snapshots,
    )
