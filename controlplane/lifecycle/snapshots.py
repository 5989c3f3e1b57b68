"""Snapshots: what a sandbox has written, kept as an image from which others start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog
from msgspec.structs import replace

from controlplane.access.scopes import OPERATOR, Caller
from controlplane.errors import (
    Conflict,
    ImageInUse,
    KeyQuotaExceeded,
    NotFound,
    RuntimeFailure,
    SandlotError,
    StoreError,
)
from controlplane.lifecycle.pauses import Pauses
from controlplane.lifecycle.records.registry import Registry, utc_now
from controlplane.lifecycle.room.capacity import RETRY_GUESS_S
from controlplane.runtime.abilities import Ability
from controlplane.runtime.driver import Driver
from controlplane.sandbox import (
    ADMIN_OWNER,
    Snapshot,
    SnapshotState,
    State,
    has_ended,
    how_it_ended,
    new_sandbox_id,
)
from controlplane.store.store import Store
from controlplane.tasks import Background, Slots

log = structlog.get_logger()

REPOSITORY = "sandlot-snapshots"
# Upstream's word for one that a restart found half made.
RECOVERY_FAILED = "snapshot_recovery_failed"
# A container that is being removed is gone within a second, on a loaded machine within some more.
REMOVAL_PATIENCE_S = 30.0
FIRST_RETRY_S, LAST_RETRY_S = 0.05, 1.0
# Each copies what a sandbox has written, as fast as the disk allows. Those of large ones take minutes.
COMMITS_AT_ONCE = 2
MAX_COMMIT_SLOT_S = 60.0
# Of these, the root file system stands still or can be made to.
_SOURCES = frozenset({State.RUNNING, State.PAUSED})


class Snapshots:
    """All snapshots. Every change is in the store before any client sees it."""

    def __init__(
        self,
        *,
        store: Store,
        registry: Registry,
        pauses: Pauses,
        driver: Driver,
        background: Background,
        most: int,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._registry = registry
        self._pauses = pauses
        self._driver = driver
        self._background = background
        self._most = most
        self._now = now
        self._commits = Slots(COMMITS_AT_ONCE, longest_s=MAX_COMMIT_SLOT_S)
        self._removals: dict[str, asyncio.Future[SandlotError | None]] = {}
        self._snapshots = {snapshot.id: snapshot for snapshot in store.snapshots()}
        # Called with a snapshot before and after each change; None where there is none.
        self.on_change: Callable[[Snapshot | None, Snapshot | None], None] = _tell_nobody

    def recover(self) -> None:
        """Settle what an earlier run left half done.

        Call it once, before requests are served, and after the records of sandboxes agree with their containers.
        """
        for snapshot in list(self._snapshots.values()):
            if snapshot.state is SnapshotState.CREATING:
                text = "the server ended while it was made; delete it, and make another one"
                self._settle(snapshot, SnapshotState.FAILED, reason=RECOVERY_FAILED, message=text)
                if snapshot.is_source_running:
                    self._background.start(self._let_go_on(snapshot.sandbox_id), name="snapshot.let_go_on")
            elif snapshot.state is SnapshotState.DELETING:
                self._start_removal(snapshot, replace(snapshot, state=SnapshotState.READY))

    def create(self, sandbox_id: str, name: str, by: Caller = OPERATOR) -> Snapshot:
        """Begin a snapshot of a running or paused sandbox; return it as Creating.

        It belongs to whom its sandbox belongs; one that an administrator makes belongs to the administrator.

        Raises:
            NotFound, Conflict: there is no such sandbox, it is in no state for that, or there are too many snapshots.
            Unsupported: the engine makes no images of containers.
            KeyQuotaExceeded: the caller's key may have no more.
            StoreError: it cannot be written down.
        """
        sandbox = self._registry.get(sandbox_id)
        self._driver.abilities.require(Ability.SNAPSHOTS)
        if sandbox.state not in _SOURCES:
            raise Conflict(
                f"cannot make a snapshot of a sandbox that is {sandbox.state.value}{how_it_ended(sandbox)}",
                code="snapshot.source_state",
            )
        if len(self._snapshots) >= self._most:
            raise Conflict(
                f"there are {len(self._snapshots)} snapshots already, and the server keeps {self._most} "
                "([storage] max_snapshots): delete one",
                code="snapshot.too_many",
            )
        owner = ADMIN_OWNER if by.is_admin else sandbox.owner
        self._check_quota(owner, by)
        now = self._now()
        snapshot_id = new_sandbox_id()
        snapshot = Snapshot(
            id=snapshot_id,
            owner=owner,
            sandbox_id=sandbox_id,
            name=name,
            image=f"{REPOSITORY}:{snapshot_id}",
            env=sandbox.spec.env,
            is_source_running=sandbox.state is State.RUNNING,
            state=SnapshotState.CREATING,
            created_at=now,
            state_changed_at=now,
        )
        self._keep(snapshot)
        self._background.start(self._commit(snapshot, sandbox.container_id), name="snapshot.create")
        return snapshot

    def get(self, snapshot_id: str) -> Snapshot:
        """Return a snapshot. Raises NotFound."""
        try:
            return self._snapshots[snapshot_id]
        except KeyError:
            raise no_such_snapshot(snapshot_id) from None

    def list(self) -> list[Snapshot]:
        """Return all snapshots, newest first."""
        return sorted(self._snapshots.values(), key=lambda snapshot: snapshot.created_at, reverse=True)

    async def delete(self, snapshot_id: str) -> None:
        """Remove a snapshot and its image. Once begun it ends, whether or not the one who asked still waits.

        Sandboxes made from it that have ended are waited for: their containers may still be there. A second delete
        meanwhile waits for the same.

        Raises:
            NotFound, Conflict: there is none, it is being made, or a sandbox lives on it.
            RuntimeFailure: the engine failed; the snapshot stays.
            StoreError: it cannot be written down; the snapshot stays.
        """
        snapshot = self.get(snapshot_id)
        if snapshot.state is SnapshotState.CREATING:
            raise Conflict(f"snapshot {snapshot_id} is still being made: wait until it is", code="snapshot.being_made")
        if (removal := self._removals.get(snapshot_id)) is None:
            self._check_unused(snapshot_id)
            removal = self._start_removal(self._put(snapshot, SnapshotState.DELETING), snapshot)
        if (failed := await asyncio.shield(removal)) is not None:
            raise failed

    # -- inside

    def _start_removal(self, deleting: Snapshot, before: Snapshot) -> asyncio.Future[SandlotError | None]:
        """Remove a snapshot in the background; return what will tell how that ends."""
        outcome: asyncio.Future[SandlotError | None] = asyncio.get_running_loop().create_future()
        self._removals[deleting.id] = outcome

        async def carry_out() -> None:
            try:
                outcome.set_result(await self._try_to_remove(deleting, before))
            finally:
                del self._removals[deleting.id]
                outcome.cancel()

        self._background.start(carry_out(), name="snapshot.remove")
        return outcome

    async def _try_to_remove(self, deleting: Snapshot, before: Snapshot) -> SandlotError | None:
        """Remove a snapshot, or put it back as it was *before* and return why."""
        try:
            await self._remove(deleting)
        except SandlotError as error:
            log.warning("snapshot.remove_failed", snapshot=deleting.id, error=error.message)
            try:
                self._keep(before)
            except StoreError as store_error:
                return store_error
            if isinstance(error, RuntimeFailure):
                return RuntimeFailure(error.message, code="snapshot.remove_failed", public=error.public)
            return error
        return None

    async def _remove(self, snapshot: Snapshot) -> None:
        """Remove the image as soon as no container is made from it, then the record."""
        loop = asyncio.get_running_loop()
        give_up_at, delay_s = loop.time() + REMOVAL_PATIENCE_S, FIRST_RETRY_S
        while True:
            try:
                await self._driver.images.remove(snapshot.image)
            except ImageInUse as error:
                self._check_unused(snapshot.id)
                if loop.time() + delay_s > give_up_at:
                    raise _in_use(snapshot.id, "a container that is not removed yet") from error
            else:
                break
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, LAST_RETRY_S)
        self.on_change(self._snapshots.pop(snapshot.id, None), None)
        self._registry.late_writes.write(snapshot.id, lambda: self._store.delete_snapshot(snapshot.id))

    def _check_quota(self, owner: str, by: Caller) -> None:
        most = by.quotas.snapshots
        if most is not None and sum(each.owner == owner for each in self._snapshots.values()) >= most:
            raise KeyQuotaExceeded(
                f"the key {by.name} has as many snapshots as it may keep: {most}; delete one",
                retry_after_s=RETRY_GUESS_S,
            )

    def _check_unused(self, snapshot_id: str) -> None:
        """Raise Conflict when a sandbox that was made from a snapshot has not ended."""
        for sandbox in self._registry.all():
            if sandbox.snapshot_id == snapshot_id and not has_ended(sandbox):
                # An administrator's sandbox from the snapshot of another owner does not exist for that owner.
                is_own = sandbox.owner == self.get(snapshot_id).owner
                raise _in_use(snapshot_id, f"sandbox {sandbox.id}" if is_own else "a sandbox")

    async def _let_go_on(self, sandbox_id: str) -> None:
        """Resume the source of a snapshot that was being made when the server was killed."""
        sandbox = self._registry.find(sandbox_id)
        if sandbox is None or sandbox.state is not State.PAUSED:
            return
        try:
            await self._pauses.resume(sandbox_id)
        except SandlotError as error:  # its state says that it is paused
            log.warning("snapshot.source_paused", sandbox=sandbox_id, error=error.message)

    async def _commit(self, snapshot: Snapshot, container_id: str) -> None:
        try:
            # The driver pauses it for the time that takes.
            async with self._commits.slot(), self._pauses.held(snapshot.sandbox_id):
                await self._driver.images.commit(container_id, snapshot.image)
        except RuntimeFailure as error:
            # An engine says of a container that goes away no more than that it cannot be used.
            cause = self._how_source_ended(snapshot.sandbox_id) or error.public
            self._settle(snapshot, SnapshotState.FAILED, message=cause)
            log.warning("snapshot.failed", snapshot=snapshot.id, error=error.message)
        else:
            self._settle(snapshot, SnapshotState.READY)

    def _settle(self, snapshot: Snapshot, state: SnapshotState, *, reason: str = "", message: str = "") -> None:
        """Record how the creation of a snapshot ended, even if the store cannot keep it yet."""
        settled = replace(snapshot, state=state, state_changed_at=self._now(), reason=reason, message=message)
        self._replace(settled)
        self._registry.late_writes.write(snapshot.id, lambda: self._store.put_snapshot(settled, has_happened=True))

    def _how_source_ended(self, sandbox_id: str) -> str:
        """Return what became of a sandbox while its snapshot was made, "" if it still lives."""
        try:
            sandbox = self._registry.get(sandbox_id)
        except NotFound:
            return f"sandbox {sandbox_id} was deleted while the snapshot was made"
        if not has_ended(sandbox):
            return ""
        return f"sandbox {sandbox_id} ended while the snapshot was made{how_it_ended(sandbox)}"

    def _put(self, snapshot: Snapshot, state: SnapshotState, reason: str = "", message: str = "") -> Snapshot:
        # A deletion makes room on the disk: it may use what is kept for ends.
        is_end = state is SnapshotState.DELETING
        snapshot = replace(snapshot, state=state, state_changed_at=self._now(), reason=reason, message=message)
        return self._keep(snapshot, is_end=is_end)

    def _keep(self, snapshot: Snapshot, *, is_end: bool = False) -> Snapshot:
        self._store.put_snapshot(snapshot, has_happened=is_end)
        self._registry.late_writes.written(snapshot.id)
        self._replace(snapshot)
        return snapshot

    def _replace(self, snapshot: Snapshot) -> None:
        before = self._snapshots.get(snapshot.id)
        self._snapshots[snapshot.id] = snapshot
        self.on_change(before, snapshot)


def no_such_snapshot(snapshot_id: str) -> NotFound:
    """Return what is said of a snapshot that does not exist, or not for the caller: the same words."""
    return NotFound(f"there is no snapshot {snapshot_id}", code="snapshot.not_found")


def _tell_nobody(_before: Snapshot | None, _after: Snapshot | None) -> None:
    """Stand for a listener to changes."""


def _in_use(snapshot_id: str, by: str) -> Conflict:
    return Conflict(f"{by} was made from snapshot {snapshot_id}: delete that first", code="snapshot.in_use")
