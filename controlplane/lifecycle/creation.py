"""Creation of sandboxes: a container of the pool is claimed for a caller, or nothing is left behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import structlog
from msgspec.structs import replace

from controlplane.access.scopes import OPERATOR, Caller
from controlplane.errors import (
    Conflict,
    EngineUnavailable,
    Field,
    ImageMissing,
    ImageUnfinished,
    InvalidRequest,
    LinkLost,
    OutOfMemory,
    RuntimeFailure,
    SandlotError,
    StartFailed,
)
from controlplane.lifecycle.endings import Endings
from controlplane.lifecycle.entrypoints import Entrypoints, split_entrypoint
from controlplane.lifecycle.pulls import Pulls
from controlplane.lifecycle.records.registry import Registry, utc_now
from controlplane.lifecycle.records.states import CLAIMED, Event
from controlplane.lifecycle.resolve import Resolver
from controlplane.lifecycle.room.abilities import check_abilities
from controlplane.lifecycle.room.capacity import Capacity, Held
from controlplane.lifecycle.uses import Uses
from controlplane.link.stream import Stream
from controlplane.pool.plan import Template
from controlplane.pool.pool import Pool
from controlplane.pool.shelf import Warm
from controlplane.runtime.abilities import Ability
from controlplane.runtime.driver import Driver
from controlplane.sandbox import CREATE_FAILED, CreateRequest, Limits, Sandbox, SandboxSpec, State
from controlplane.telemetry.metrics import COLD, WARM, Metrics, Start
from controlplane.telemetry.tracing import SILENT, Tracer

log = structlog.get_logger()

CREATE_TIMEOUT_S = 60.0


class _LimitsRefused(Exception):
    """The engine cannot give a running container these limits."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Creation:
    """Creates sandboxes."""

    def __init__(
        self,
        *,
        resolver: Resolver,
        capacity: Capacity,
        uses: Uses,
        registry: Registry,
        pool: Pool,
        pulls: Pulls,
        driver: Driver,
        entrypoints: Entrypoints,
        endings: Endings,
        metrics: Metrics | None = None,
        tracer: Tracer = SILENT,
    ) -> None:
        self._tracer = tracer
        self._metrics = metrics or Metrics()
        self._resolver = resolver
        self._capacity = capacity
        self._uses = uses
        self._registry = registry
        self._pool = pool
        self._pulls = pulls
        self._driver = driver
        self._entrypoints = entrypoints
        self._endings = endings
        self._making: dict[str, StartFailed | None] = {}  # what happened to a container while it is being claimed
        self.created = self.failed = 0  # since the start

    async def create(self, request: CreateRequest, by: Caller = OPERATOR) -> Sandbox:
        """Create a sandbox of a caller and return it running. Cancelled or failed, this leaves nothing behind.

        Raises:
            InvalidRequest: the lifetime is too long, more CPUs or memory than a sandbox may have, there is no such
                pool, a host path or user namespaces are not allowed, there are no GPUs, the entrypoint cannot be
                executed, or the memory that was asked for is too little to start.
            QuotaExceeded: the settings allow no more sandboxes.
            KeyQuotaExceeded: the caller's key allows no more now.
            NotFound, Conflict: the snapshot does not exist, or is not ready.
            ImageMissing, VolumeRefused, StartFailed, RuntimeFailure, LinkLost: no container came up, or the container
                died while it was claimed.
            CapacityExhausted: no container came up in time, or the pool that was named has none and starts none.
            StoreError: the sandbox could not be written down.
        """
        began = time.perf_counter()
        spec = self._resolver.spec(request, by)
        lifetime = self._uses.lifetime(request.timeout_s)
        template = self._resolver.template(spec)
        await check_abilities(self._driver, template)
        try:
            with self._capacity.reserve(spec.limits, by):
                sandbox, start = await self._make(request, spec, template, lifetime, by.owner)
        except SandlotError as error:
            self.failed += 1
            self._metrics.create_failed(error)
            raise
        self.created += 1
        self._metrics.created(sandbox.id, spec.image, start, time.perf_counter() - began)
        return sandbox

    def lost(self, sandbox_id: str, ended: StartFailed) -> bool:
        """Return whether a create uses this container; if so, let the create fail with *ended*."""
        if sandbox_id not in self._making:
            return False
        self._making[sandbox_id] = ended
        return True

    def abandon(self, sandbox: Sandbox) -> None:
        """End a sandbox whose creation an earlier run did not finish: no client was told of it.

        A sandbox that is being made now is left alone.
        """
        if sandbox.id not in self._making:
            self._endings.stop(sandbox.id, reason=CREATE_FAILED)

    # -- inside

    async def _make(
        self, request: CreateRequest, spec: SandboxSpec, template: Template, lifetime: timedelta | None, owner: str
    ) -> tuple[Sandbox, Start]:
        """Bind a container to the sandbox that was asked for: a warm one, or where that cannot be, a cold one."""
        exact = replace(template, limits=spec.limits)
        can_be_bound = spec.limits == template.limits or Ability.LIVE_LIMITS in self._driver.abilities.can
        if self._pool.keeps(template) and can_be_bound:
            warm, start = await self._take(request, template)
            try:
                # Without a pause, so that nothing can happen to the container before it is ours.
                return await self._bind(warm, spec, request, lifetime, owner), start
            except _LimitsRefused as refused:
                log.info("sandbox.limits_refused", image=spec.image, error=refused.reason)
        try:
            cold, start = await self._take(request, exact)
        except OutOfMemory as error:
            if request.limits is None:
                raise
            mebibytes = spec.limits.memory_bytes >> 20
            raise InvalidRequest(
                f"{spec.image} runs out of memory while it starts with {mebibytes} MiB; "
                f"ask for at least {2 * mebibytes}Mi",
                field=Field.MEMORY,
            ) from error
        return await self._bind(cold, spec, request, lifetime, owner), start

    async def _take(self, request: CreateRequest, template: Template) -> tuple[Warm, Start]:
        """Take a container of the pool, and tell whether it waited there."""
        began, start = time.perf_counter(), WARM if self._pool.has_warm(template) else COLD
        with self._tracer.inside("pool.claim", {"sandlot.image": template.image, "sandlot.start": start}):
            taken = await self._take_or_pull(request, template)
        self._metrics.claimed(template.image, start, time.perf_counter() - began)
        return taken, start

    async def _take_or_pull(self, request: CreateRequest, template: Template) -> Warm:
        """Take a container of the pool. An image that is missing, and may be pulled, is pulled first."""
        pool = self._resolver.pool(request.pool)
        if pool is not None and pool.refuses_when_exhausted:
            return self._pool.take_warm(template, name=pool.name)
        try:
            return await self._pool.take(template, timeout_s=CREATE_TIMEOUT_S)
        except ImageMissing as error:
            if request.snapshot_id or isinstance(error, ImageUnfinished):
                raise
            asked = request.image or template.image
            if not self._pulls.may_pull(template.image):
                raise self._pulls.missing(asked, template.image) from error
            await self._pulls.pull(asked, template.image, request.credentials, missing=error)
            return await self._pool.take(template, timeout_s=CREATE_TIMEOUT_S)

    async def _bind(
        self, warm: Warm, spec: SandboxSpec, request: CreateRequest, lifetime: timedelta | None, owner: str
    ) -> Sandbox:
        """Make a warm container the sandbox that was asked for. A container for which this fails is removed.

        Raises:
            _LimitsRefused: the engine cannot change its limits so; the container is warm again, as it was.
        """
        now = utc_now()
        sandbox = Sandbox(
            id=warm.sandbox_id,
            owner=owner,
            container_id=warm.container_id,
            requested_image=spec.image if spec.pool else request.image,
            snapshot_id=request.snapshot_id,
            spec=spec,
            state=State.PENDING,
            created_at=now,
            state_changed_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        self._making[sandbox.id] = None
        try:
            # First the record: after a crash, the next start then finds out what this container was meant to be.
            self._registry.put(sandbox)
            if spec.limits != warm.template.limits:
                await self._resize(warm, spec.limits)
            with self._tracer.inside("agent sandbox.claim", {"sandlot.sandbox": sandbox.id}):
                stream = await self._claim(sandbox)
            self._entrypoints.follow(sandbox.id, stream)
            sandbox = self._started(sandbox.id)
        except BaseException as error:
            ended = self._making[sandbox.id]  # before our own removal, which ends the container too
            if isinstance(error, _LimitsRefused) and ended is None:
                self._give_back(sandbox, warm)
                raise
            await self._endings.undo(sandbox)
            if isinstance(error, LinkLost) and ended is not None:
                raise ended from error  # the reason why the link was lost
            raise
        finally:
            del self._making[sandbox.id]
        self._uses.schedule(sandbox)
        log.info("sandbox.created", sandbox=sandbox.id, image=spec.image)
        return sandbox

    async def _resize(self, warm: Warm, limits: Limits) -> None:
        """Change the limits of a warm container. Raises _LimitsRefused, EngineUnavailable."""
        try:
            await self._driver.containers.resize(warm.container_id, limits)
        except EngineUnavailable:
            raise  # nobody knows whether the limits are changed
        except RuntimeFailure as error:
            raise _LimitsRefused(error.message) from error

    def _give_back(self, sandbox: Sandbox, warm: Warm) -> None:
        """Return a container that was not changed to the pool.

        Raises:
            Conflict: the sandbox was deleted meanwhile. The container is removed.
        """
        if self._registry.find(sandbox.id) is not sandbox:
            raise Conflict(f"sandbox {sandbox.id} was deleted while it was made", code="sandbox.not_running")
        self._registry.forget(sandbox.id)
        self._pool.give_back(warm)

    async def _claim(self, sandbox: Sandbox) -> Stream:
        """Claim a new sandbox. An entrypoint of one item that is no program is split as a shell would, and tried again.

        Only the container knows its programs. The record keeps what was executed.
        """
        try:
            return await self._entrypoints.claim(sandbox)
        except InvalidRequest as error:
            words = split_entrypoint(sandbox.spec.entrypoint)
            if error.code != "sandbox.invalid_entrypoint" or words == sandbox.spec.entrypoint:
                raise
        split = replace(sandbox, spec=replace(sandbox.spec, entrypoint=words))
        return await self._entrypoints.claim(self._registry.put(split))

    def _started(self, sandbox_id: str) -> Sandbox:
        if (ended := self._making[sandbox_id]) is not None:
            raise ended
        return self._registry.advance(sandbox_id, Event.STARTED)


def claimed(registry: Registry) -> Callable[[], Iterator[Held]]:
    """Return a function that yields the share of each claimed sandbox, for `Capacity`.

    A sandbox that is being created is not claimed yet: `Capacity.reserve` holds its room.
    """

    def held() -> Iterator[Held]:
        for sandbox in registry.all():
            if sandbox.state in CLAIMED:
                expires_at = None if sandbox.expires_at is None else sandbox.expires_at.timestamp()
                yield Held(sandbox.owner, sandbox.spec.limits, sandbox.created_at.timestamp(), expires_at)

    return held
