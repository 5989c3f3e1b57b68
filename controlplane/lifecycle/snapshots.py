"""Snapshots: what a sandbox has written, kept as an image from which others start."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import structlog
from msgspec.structs import replace

from controlplane.errors import Conflict, NotFound, RuntimeFailure, SandlotError
from controlplane.lifecycle.pauses import Pauses
from controlplane.lifecycle.registry import Registry, utc_now
from controlplane.runtime.driver import Driver
from controlplane.sandbox import Snapshot, SnapshotState, State, new_sandbox_id
from controlplane.store import Store
from controlplane.tasks import Background

log = structlog.get_logger()

REPOSITORY = "sandlot-snapshots"
_IN_USE = 409  # the engine's status for an image with containers
# Of these, the root file system stands still or can be made to.
_SOURCES = frozenset({State.RUNNING, State.PAUSED})


class Snapshots:
    """Makes, finds and removes them. Every change is in the store before anybody sees it."""

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
        self._snapshots = {snapshot.id: snapshot for snapshot in store.snapshots()}

    def recover(self) -> None:
        """Settle what an earlier run left half done. Call it once, before requests are served. Raises StoreError."""
        for snapshot in list(self._snapshots.values()):
            if snapshot.state is SnapshotState.CREATING:
                self._put(snapshot, SnapshotState.FAILED, "INTERRUPTED", "the server ended while it was made")
            elif snapshot.state is SnapshotState.DELETING:
                self._background.start(self._finish_removal(snapshot), name="snapshot.remove")

    def create(self, sandbox_id: str, name: str) -> Snapshot:
        """Begin a snapshot of a running or paused sandbox; return it as Creating.

        Raises:
            NotFound, Conflict: there is no such sandbox, it is in no state for that, or there are too many snapshots.
            StoreError: it cannot be written down.
        """
        sandbox = self._registry.get(sandbox_id)
        if sandbox.state not in _SOURCES:
            raise Conflict(
                f"cannot make a snapshot of a sandbox that is {sandbox.state.value}", code="snapshot.source_state"
            )
        if len(self._snapshots) >= self._most:
            raise Conflict(
                f"there are {len(self._snapshots)} snapshots already, and the server keeps {self._most} "
                "([storage] max_snapshots): delete one",
                code="snapshot.too_many",
            )
        now = self._now()
        snapshot_id = new_sandbox_id()
        snapshot = Snapshot(
            id=snapshot_id,
            sandbox_id=sandbox_id,
            name=name,
            image=f"{REPOSITORY}:{snapshot_id}",
            env=sandbox.spec.env,
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
            raise NotFound(f"there is no snapshot {snapshot_id}", code="snapshot.not_found") from None

    def list(self) -> list[Snapshot]:
        """Return all snapshots, newest first."""
        return sorted(self._snapshots.values(), key=lambda snapshot: snapshot.created_at, reverse=True)

    async def delete(self, snapshot_id: str) -> None:
        """Remove a snapshot and its image.

        Raises:
            NotFound, Conflict: there is none, it is being made, or a sandbox lives on it.
            RuntimeFailure: the engine failed; the snapshot stays.
        """
        snapshot = self.get(snapshot_id)
        if snapshot.state is SnapshotState.CREATING:
            raise Conflict(f"snapshot {snapshot_id} is still being made", code="snapshot.not_ready")
        deleting = self._put(snapshot, SnapshotState.DELETING)
        try:
            await self._remove(deleting)
        except RuntimeFailure as error:
            if self._snapshots.get(snapshot_id) is deleting:
                self._keep(snapshot)
            if error.fields.get("status") == _IN_USE:
                raise Conflict(f"a sandbox was made from snapshot {snapshot_id}", code="snapshot.in_use") from error
            raise RuntimeFailure(error.message, code="snapshot.remove_failed") from error

    # -- inside

    async def _commit(self, snapshot: Snapshot, container_id: str) -> None:
        try:
            with self._pauses.held(snapshot.sandbox_id):  # the engine pauses it for the time that takes
                await self._driver.commit(container_id, snapshot.image)
            self._put(snapshot, SnapshotState.READY)
        except RuntimeFailure as error:
            self._put(snapshot, SnapshotState.FAILED, "COMMIT_FAILED", error.message)
            log.warning("snapshot.failed", snapshot=snapshot.id, error=error.message)

    async def _finish_removal(self, snapshot: Snapshot) -> None:
        try:
            await self._remove(snapshot)
        except SandlotError as error:  # the next start tries again
            log.warning("snapshot.remove_failed", snapshot=snapshot.id, error=error.message)

    async def _remove(self, snapshot: Snapshot) -> None:
        await self._driver.remove_image(snapshot.image)
        self._store.delete_snapshot(snapshot.id)
        self._snapshots.pop(snapshot.id, None)

    def _put(self, snapshot: Snapshot, state: SnapshotState, reason: str = "", message: str = "") -> Snapshot:
        return self._keep(replace(snapshot, state=state, state_changed_at=self._now(), reason=reason, message=message))

    def _keep(self, snapshot: Snapshot) -> Snapshot:
        self._store.put_snapshot(snapshot)
        self._snapshots[snapshot.id] = snapshot
        return snapshot
