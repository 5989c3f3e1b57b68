"""What can be done with sandboxes: the policy, above drivers and below HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import msgspec
import structlog
from msgspec.structs import replace

from controlplane.config import LONGEST_S, Settings
from controlplane.errors import (
    AgentError,
    Conflict,
    ImageMissing,
    InvalidRequest,
    LinkLost,
    NotFound,
    SandlotError,
    StartFailed,
)
from controlplane.lifecycle import activity
from controlplane.lifecycle.activity import Activity
from controlplane.lifecycle.claim import claim
from controlplane.lifecycle.deadlines import Deadlines
from controlplane.lifecycle.pulls import Pulls
from controlplane.lifecycle.registry import Registry, utc_now
from controlplane.lifecycle.states import CLAIMED, LIVE, Event
from controlplane.link.directory import Directory
from controlplane.link.link import Link, read_output
from controlplane.link.stream import Stream
from controlplane.pool.plan import Template
from controlplane.pool.pool import Pool, Warm
from controlplane.provision import Provisioner
from controlplane.runtime.driver import Container, Driver, EventKind, RuntimeEvent
from controlplane.sandbox import (
    ISOLATION_KEY,
    CreateRequest,
    Sandbox,
    SandboxSpec,
    Snapshot,
    SnapshotState,
    State,
    Volume,
)
from controlplane.store import StoreError
from controlplane.tasks import Background
from execd.wire.messages import ENTRYPOINT_ID, ProcessExited

log = structlog.get_logger()

CREATE_TIMEOUT_S = 60.0
# A caller whose create failed hears of it when nothing is left; but not later than this, if the engine hangs.
UNDO_TIMEOUT_S = 10.0
# How long a sandbox that ended by itself can still be asked about.
FINISHED_RETENTION = timedelta(minutes=10)
# A use that puts a deadline off by less than this is not written down.
RENEWAL_STEP_S = 10.0
# What is kept of the output of an entrypoint that ended, and how long its agent may take to tell it.
KEPT_OUTPUT_BYTES = 64 << 10
OUTPUT_TIMEOUT_S = 2.0
# Reasons for which a sandbox is forgotten as soon as its container is gone: nobody knows of it, or wants it any more.
CREATE_FAILED = "CREATE_FAILED"
_FORGOTTEN = ("DELETED", "EXPIRED", "IDLE", CREATE_FAILED)


class SandboxStatistics(msgspec.Struct, frozen=True):
    """A snapshot: sandboxes by state, and what happened since the start."""

    by_state: dict[State, int]
    created: int
    failed_creates: int
    expired: int


class Sandboxes:
    """Create, get, list, delete, renew; and what happens to sandboxes by themselves."""

    def __init__(
        self,
        *,
        settings: Settings,
        registry: Registry,
        deadlines: Deadlines,
        pool: Pool,
        provisioner: Provisioner,
        driver: Driver,
        directory: Directory,
        background: Background,
        find_snapshot: Callable[[str], Snapshot],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._deadlines = deadlines
        self._pool = pool
        self._provisioner = provisioner
        self._driver = driver
        self._directory = directory
        self._background = background
        self._find_snapshot = find_snapshot
        self._clock = clock
        self._activity = Activity(directory, clock)
        self._pulls = Pulls(driver, settings.engine.pull, background)
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._making: dict[str, StartFailed | None] = {}  # what happened to a container while it is being claimed
        self._created = self._failed_creates = self._expired = 0

    # -- what clients ask for

    async def create(self, request: CreateRequest) -> Sandbox:
        """Create a sandbox and return it running. Cancelled or failed, it leaves nothing behind.

        Raises:
            InvalidRequest: the lifetime is too long, a host path or user namespaces are not allowed, there are no GPUs,
                or the entrypoint cannot be executed.
            NotFound, Conflict: the snapshot does not exist, or is not ready.
            ImageMissing, VolumeRefused, StartFailed, RuntimeFailure, LinkLost: no container came up, or it died while
                it was claimed.
            CapacityExhausted: none came up in time.
            StoreError: the sandbox could not be written down.
        """
        spec = self._spec(request)
        lifetime = self._lifetime(request.timeout_s)
        if spec.gpus:
            await self._check_gpus()
        if spec.user_namespaces and not self._settings.sandbox.allow_user_namespaces:
            raise InvalidRequest(
                f"extensions.{ISOLATION_KEY}: is not allowed here ([sandbox] allow_user_namespaces = false)",
                code="sandbox.unsupported",
            )
        try:
            warm = await self._take(request, self._template(spec))
            # Without a pause, so that nothing can happen to it before it is ours.
            sandbox = await self._bind(warm, spec, request, lifetime)
        except SandlotError:
            self._failed_creates += 1
            raise
        self._created += 1
        return sandbox

    def get(self, sandbox_id: str) -> Sandbox:
        """Return a sandbox. Raises NotFound."""
        return self._registry.get(sandbox_id)

    def list(self) -> list[Sandbox]:
        """Return all sandboxes, newest first."""
        return self._registry.all()

    async def delete(self, sandbox_id: str) -> None:
        """End a sandbox. Returns when that is written down; its container is removed behind.

        Raises:
            NotFound: there is none. A second delete while the first goes on is no error.
        """
        sandbox = self._registry.get(sandbox_id)
        if sandbox.state is State.TERMINATED:
            self._registry.forget(sandbox_id)
            self._deadlines.drop(sandbox_id)
        elif sandbox.state is not State.STOPPING:
            self._stop(sandbox_id, reason="DELETED")

    def renew(self, sandbox_id: str, expires_at: datetime) -> Sandbox:
        """Set a new deadline, later or sooner than the present one.

        Raises:
            NotFound, Conflict: there is no such sandbox, or it has ended.
            InvalidRequest: that moment has passed.
        """
        sandbox = self._get_lasting(sandbox_id)
        if expires_at <= utc_now():
            raise InvalidRequest("expiresAt must be in the future", code="sandbox.invalid_expiration")
        sandbox = self._registry.put(replace(sandbox, expires_at=expires_at))
        self._registry.journal.note(sandbox_id, "Renewed", f"until {expires_at:%Y-%m-%dT%H:%M:%SZ}")
        self._activity.settle(sandbox_id)
        self._schedule(sandbox)
        return sandbox

    def used(self, sandbox_id: str) -> None:
        """A client uses a sandbox, by whatever door. Costs next to nothing where no extension asks for it."""
        sandbox = self._registry.find(sandbox_id)
        if sandbox is None or not sandbox.spec.extensions or sandbox.state is not State.RUNNING:
            return
        self._activity.touch(sandbox_id)
        try:
            self._renew_by_use(sandbox)
        except StoreError as error:  # the use itself goes on; the next one tries again
            log.warning("sandbox.renew_failed", sandbox=sandbox_id, error=error.message)

    @contextlib.contextmanager
    def in_use(self, sandbox_id: str) -> Iterator[None]:
        """Inside, a client is connected to a sandbox, if there is one: use from its beginning to its end."""
        self.used(sandbox_id)
        try:
            with self._activity.connected(sandbox_id):
                yield
        finally:
            self.used(sandbox_id)

    def change_metadata(self, sandbox_id: str, changes: Mapping[str, str | None], *, most: int) -> Sandbox:
        """Set metadata, or drop what is None, and leave the rest: writers lose nothing of each other's.

        Raises:
            NotFound, Conflict: there is no such sandbox, or it has ended.
            InvalidRequest: it would have more than *most* entries.
        """
        sandbox = self._get_lasting(sandbox_id)
        merged = {**sandbox.spec.metadata, **changes}
        metadata = {key: value for key, value in merged.items() if value is not None}
        if len(metadata) > most:
            raise InvalidRequest(f"metadata: would have more than {most} entries", code="sandbox.invalid_metadata")
        return self._registry.put(replace(sandbox, spec=replace(sandbox.spec, metadata=metadata)))

    def statistics(self) -> SandboxStatistics:
        """Return counts."""
        return SandboxStatistics(
            by_state=self._registry.count(),
            created=self._created,
            failed_creates=self._failed_creates,
            expired=self._expired,
        )

    # -- what happens by itself

    def expire(self, sandbox_id: str, now: float) -> None:
        """A deadline has passed, unless its use put it off. Raises StoreError: then call it again later."""
        sandbox = self._registry.find(sandbox_id)
        if sandbox is None or sandbox.state is State.STOPPING:
            return
        if sandbox.state in LIVE:
            sandbox = self._renew_by_use(sandbox)
            due = activity.due(sandbox, self._activity.last(sandbox), now)
            if due is None or due > now:
                self._schedule(sandbox)
                return
            is_over = sandbox.expires_at is not None and sandbox.expires_at.timestamp() <= now
            self._stop(sandbox_id, reason="EXPIRED" if is_over else "IDLE")
            self._expired += 1
        else:
            self._registry.forget(sandbox_id)

    def linked(self, link: Link) -> None:
        """A link came up. That of a claimed sandbox is one that came back: follow its entrypoint again."""
        sandbox = self._registry.find(link.sandbox_id)
        if sandbox is not None and sandbox.state in CLAIMED:
            self._background.start(self._follow_again(sandbox, link), name="sandbox.follow")

    def violated(self, sandbox_id: str, text: str) -> None:
        """The execd of a sandbox broke the protocol."""
        self._lost(sandbox_id, "PROTOCOL_VIOLATION", f"its agent broke the protocol: {text}")

    def happened(self, event: RuntimeEvent) -> None:
        """The engine says that something happened to a container."""
        if event.kind is EventKind.OOM:
            log.info("sandbox.oom", sandbox=event.sandbox_id)
            if self._registry.find(event.sandbox_id) is not None:
                self._registry.journal.note(event.sandbox_id, "OutOfMemory", "the kernel ended a process of it")
        elif event.kind is EventKind.DIED:
            self._lost(event.sandbox_id, "CONTAINER_DIED", f"the container ended with exit code {event.exit_code}")
        elif event.kind is EventKind.REMOVED:
            self._lost(event.sandbox_id, "CONTAINER_VANISHED", "the container was removed, and not by us")

    def vanished(self, sandbox_id: str, container: Container | None) -> None:
        """The container of a sandbox has ended, or the engine does not know it any more."""
        if container is None:
            self._fail(sandbox_id, "CONTAINER_VANISHED", "the engine does not know its container any more")
        else:
            cause = " (out of memory)" if container.oom_killed else ""
            text = f"the container ended with exit code {container.exit_code}{cause}"
            self._fail(sandbox_id, "CONTAINER_DIED", text)

    def resume(self, sandbox: Sandbox) -> None:
        """Set the deadline of a sandbox of an earlier run."""
        if sandbox.state in LIVE:
            self._registry.journal.note(sandbox.id, "Recovered", "the server was started anew")
            self._schedule(sandbox)
        else:
            self._remember(sandbox.id, sandbox.state_changed_at)

    def abandon(self, sandbox: Sandbox) -> None:
        """This sandbox was being made when that ended; nobody was told of it. Raises StoreError."""
        self._stop(sandbox.id, reason=CREATE_FAILED)

    def remove(self, sandbox: Sandbox) -> None:
        """Take the container of an ended sandbox away, behind. Harmless while that goes on already."""
        running = self._removals.get(sandbox.id)
        if running is not None and not running.done():
            return  # it looks at the record again when the container is gone
        task = self._background.start(self._remove(sandbox), name="sandbox.remove")
        self._removals[sandbox.id] = task
        task.add_done_callback(lambda _: self._forget_removal(sandbox.id, task))

    def is_making(self, sandbox_id: str) -> bool:
        """Whether this sandbox is being created now."""
        return sandbox_id in self._making

    # -- inside

    def _get_lasting(self, sandbox_id: str) -> Sandbox:
        """Return a sandbox that has not ended, and is not about to. Raises NotFound, Conflict."""
        sandbox = self._registry.get(sandbox_id)
        if sandbox.state not in LIVE or sandbox.state is State.STOPPING:
            raise Conflict(f"sandbox {sandbox_id} is {sandbox.state.value}", code="sandbox.not_running")
        return sandbox

    async def _take(self, request: CreateRequest, template: Template) -> Warm:
        """Take a container of the pool; where its image is missing, and may be pulled, pull that first."""
        try:
            return await self._pool.take(template, timeout_s=CREATE_TIMEOUT_S)
        except ImageMissing as error:
            if request.snapshot_id or not self._pulls.may_pull(template.image):
                raise
            await self._pulls.pull(template.image, request.credentials, missing=error)
            return await self._pool.take(template, timeout_s=CREATE_TIMEOUT_S)

    async def _check_gpus(self) -> None:
        """Raises InvalidRequest when the engine has no runtime that hands GPUs out."""
        engine = await self._driver.describe()
        if not engine.gpus:
            raise InvalidRequest(
                "resourceLimits.gpu: the container engine has no GPUs to give (no NVIDIA container runtime)",
                code="sandbox.unsupported",
            )

    def _spec(self, request: CreateRequest) -> SandboxSpec:
        defaults = self._settings.sandbox
        image, env = self._settings.resolve_image(request.image), request.env
        if request.snapshot_id:
            snapshot = self._find_snapshot(request.snapshot_id)
            if snapshot.state is not SnapshotState.READY:
                raise Conflict(f"snapshot {snapshot.id} is {snapshot.state.value}", code="snapshot.not_ready")
            image, env = snapshot.image, {**snapshot.env, **request.env}
        return SandboxSpec(
            image=image,
            entrypoint=request.entrypoint,
            env=env,
            metadata=request.metadata,
            extensions=request.extensions,
            limits=request.limits or defaults.limits,
            network=defaults.allow_network if request.network is None else request.network,
            volumes=tuple(map(self._allowed, request.volumes)),
            platform=request.platform,
            gpus=request.gpus,
            user_namespaces=request.user_namespaces,
        )

    def _allowed(self, volume: Volume) -> Volume:
        """Return a volume whose host path is split into what the settings allow and what is below it."""
        if volume.claim:
            return volume
        for root in self._settings.storage.allowed_host_paths:
            if volume.host_root == root or volume.host_root.startswith(f"{root}/"):
                below = f"{volume.host_root}/{volume.sub_path}".removeprefix(root).strip("/")
                return replace(volume, host_root=root, sub_path=below)
        raise InvalidRequest(
            f"volume {volume.name}: {volume.host_root} is not below one of the server's [storage] allowed_host_paths",
            code="volume.host_path_not_allowed",
        )

    def _template(self, spec: SandboxSpec) -> Template:
        # Limits are bound at claim: a pooled container starts with those of the settings.
        template = template_for(self._settings, spec.image, spec.network)
        return replace(template, volumes=spec.volumes, gpus=spec.gpus, user_namespaces=spec.user_namespaces)

    def _lifetime(self, timeout_s: int | None) -> timedelta | None:
        longest = self._settings.sandbox.max_lifetime
        if timeout_s is None:
            return timedelta(seconds=longest) if longest else None
        if not 0 < timeout_s <= (longest or LONGEST_S):
            raise InvalidRequest(
                f"timeout must be from 1 to {longest or LONGEST_S} s on this server", code="sandbox.invalid_expiration"
            )
        return timedelta(seconds=timeout_s)

    async def _bind(self, warm: Warm, spec: SandboxSpec, request: CreateRequest, lifetime: timedelta | None) -> Sandbox:
        """Make a warm container the sandbox that was asked for. On failure it is removed: used is never reused."""
        now = utc_now()
        sandbox = Sandbox(
            id=warm.sandbox_id,
            container_id=warm.container_id,
            requested_image=request.image,
            snapshot_id=request.snapshot_id,
            spec=spec,
            state=State.PENDING,
            created_at=now,
            state_changed_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        self._making[sandbox.id] = None
        try:
            # First the record: from here on a crash finds out what this container was meant to be.
            self._registry.put(sandbox)
            if spec.limits != warm.template.limits:
                await self._driver.resize(warm.container_id, spec.limits)
            stream = await self._claim(sandbox, self._directory.get(sandbox.id))
            self._background.start(self._follow(sandbox.id, stream), name="sandbox.follow")
            sandbox = self._started(sandbox.id)
        except BaseException as error:
            ended = self._making[sandbox.id]  # before our own removal, which ends it too
            await self._unbind(sandbox)
            if isinstance(error, LinkLost) and ended is not None:
                raise ended from error  # the reason why the link was lost
            raise
        finally:
            del self._making[sandbox.id]
        self._schedule(sandbox)
        log.info("sandbox.created", sandbox=sandbox.id, image=spec.image)
        return sandbox

    async def _claim(self, sandbox: Sandbox, link: Link | None) -> Stream:
        settings = self._settings.sandbox
        return await claim(
            sandbox, link, max_contexts=settings.max_contexts, max_output_bytes=settings.output_limit * 1024
        )

    async def _unbind(self, sandbox: Sandbox) -> None:
        """Undo a create. In the background, so that a second cancellation cannot stop it.

        Returns when it is done, or takes too long.
        """
        try:
            self._stop(sandbox.id, reason=CREATE_FAILED)
        except NotFound:  # not written down: then nobody but us knows the container
            self.remove(sandbox)
        except (Conflict, StoreError):
            pass  # deleted meanwhile, or cannot be written down: either way it is being removed
        if (removal := self._removals.get(sandbox.id)) is not None:
            await asyncio.wait([removal], timeout=UNDO_TIMEOUT_S)

    def _started(self, sandbox_id: str) -> Sandbox:
        if (ended := self._making[sandbox_id]) is not None:
            raise ended
        return self._registry.advance(sandbox_id, Event.STARTED)

    async def _follow_again(self, sandbox: Sandbox, link: Link) -> None:
        try:
            stream = await self._claim(sandbox, link)
        except LinkLost:
            pass  # the next link follows
        except SandlotError as error:
            self._fail(sandbox.id, "CLAIM_REFUSED", error.message)
        else:
            await self._follow(sandbox.id, stream)

    async def _follow(self, sandbox_id: str, stream: Stream) -> None:
        """Wait for the end of the entrypoint, which ends the sandbox."""
        async with stream:
            try:
                exited = await stream.expect(ProcessExited)
                await self._keep_output(sandbox_id)
            except LinkLost:
                return  # the next link follows
            except AgentError as error:
                self._fail(sandbox_id, "AGENT_FAILED", error.message)
                return
        sandbox = self._registry.find(sandbox_id)
        if sandbox is None or sandbox.state not in CLAIMED:
            return
        text = f"the entrypoint ended: {exited.cause}, exit code {exited.exit_code}"
        if exited.exit_code == 0:
            self._stop(sandbox_id, reason="ENTRYPOINT_EXITED", message=text)
        else:
            self._fail(sandbox_id, "ENTRYPOINT_FAILED", text)

    async def _keep_output(self, sandbox_id: str) -> None:
        """Keep what the entrypoint said last: it is asked for when its container is gone."""
        link = self._directory.get(sandbox_id)
        with contextlib.suppress(SandlotError, TimeoutError):
            async with asyncio.timeout(OUTPUT_TIMEOUT_S):
                if link is not None:
                    output = await read_output(link, ENTRYPOINT_ID)
                    self._registry.journal.keep_output(sandbox_id, output[-KEPT_OUTPUT_BYTES:])

    def _renew_by_use(self, sandbox: Sandbox) -> Sandbox:
        """Put the deadline off where the sandbox was created with that extension. Raises StoreError."""
        if sandbox.state is not State.RUNNING:
            return sandbox  # who is connected to a paused one does not use it
        until = activity.renewed(sandbox, self._activity.last_renewing(sandbox))
        if until is None or sandbox.expires_at is None or until < sandbox.expires_at.timestamp() + RENEWAL_STEP_S:
            return sandbox
        return self._registry.put(replace(sandbox, expires_at=datetime.fromtimestamp(until, UTC)))

    def _schedule(self, sandbox: Sandbox) -> None:
        """Set when to look whether a sandbox is to end."""
        now = self._clock()
        look = activity.due_to_look(sandbox, activity.due(sandbox, self._activity.last(sandbox), now), now)
        if look is None:
            self._deadlines.drop(sandbox.id)
        else:
            self._deadlines.set(sandbox.id, look)

    def _lost(self, sandbox_id: str, reason: str, text: str) -> None:
        """A container has ended, or must end: whoever has to do with it hears of it."""
        ended = StartFailed(text)
        self._directory.fail(sandbox_id, ended)
        if sandbox_id in self._making:
            self._making[sandbox_id] = ended
        elif not self._pool.lost(sandbox_id):
            self._fail(sandbox_id, reason, text)

    def _stop(self, sandbox_id: str, *, reason: str, message: str = "") -> None:
        self._end(sandbox_id, Event.STOP, reason, message)
        self._deadlines.drop(sandbox_id)
        log.info("sandbox.stopping", sandbox=sandbox_id, reason=reason)

    def _fail(self, sandbox_id: str, reason: str, message: str) -> None:
        sandbox = self._registry.find(sandbox_id)
        # What is being made tells the one who makes it; what is being removed is meant to end.
        if sandbox is None or sandbox.state not in CLAIMED:
            return
        self._end(sandbox_id, Event.FAIL, reason, message)
        self._remember(sandbox_id, utc_now())
        log.warning("sandbox.failed", sandbox=sandbox_id, reason=reason, message=message)

    def _end(self, sandbox_id: str, event: Event, reason: str, message: str) -> None:
        """Write an end down, and take the container away behind.

        Raises:
            NotFound, Conflict: it cannot end any more.
            StoreError: it could not be written down. The container is taken away all the same: perhaps it is what
                fills the disk.
        """
        sandbox = self._registry.get(sandbox_id)
        try:
            sandbox = self._registry.advance(sandbox_id, event, reason=reason, message=message)
        except StoreError:
            self.remove(sandbox)
            raise
        self.remove(sandbox)

    def _remember(self, sandbox_id: str, since: datetime) -> None:
        """It has ended; forget it when nobody will ask any more."""
        self._activity.forget(sandbox_id)
        self._deadlines.set(sandbox_id, (since + FINISHED_RETENTION).timestamp())

    def _forget_removal(self, sandbox_id: str, task: asyncio.Task[None]) -> None:
        if self._removals.get(sandbox_id) is task:
            del self._removals[sandbox_id]

    async def _remove(self, sandbox: Sandbox) -> None:
        """Take the container away, then the record too, unless the sandbox ended by itself and may be asked about."""
        try:
            await self._provisioner.remove(sandbox.id, sandbox.container_id)
            # It may have been the last user of one that others made.
            if any(volume.claim for volume in sandbox.spec.volumes):
                await self._driver.remove_unused_volumes()
            self._removed(sandbox.id)
        except SandlotError as error:
            # The record stays as it is, and the sweep tries again.
            log.warning("sandbox.remove_failed", sandbox=sandbox.id, error=error.message)

    def _removed(self, sandbox_id: str) -> None:
        present = self._registry.find(sandbox_id)
        if present is None:
            return
        # Still pending: that it ends could not be written down.
        if present.state is State.PENDING or (present.state is State.STOPPING and present.reason in _FORGOTTEN):
            self._registry.forget(sandbox_id)
            self._activity.forget(sandbox_id)
        elif present.state is State.STOPPING:
            self._registry.advance(sandbox_id, Event.GONE, reason=present.reason, message=present.message)
            self._remember(sandbox_id, utc_now())


def template_for(settings: Settings, image: str, network: bool) -> Template:
    """Return the template of an image under these settings."""
    return Template(
        image=image,
        network=network,
        limits=settings.sandbox.limits,
        runtime=settings.sandbox.runtime,
        hardened=settings.sandbox.hardened,
    )
