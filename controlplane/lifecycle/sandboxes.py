"""What clients may do with sandboxes: the façade before creation, uses and endings, below HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from datetime import datetime

import msgspec
from msgspec.structs import replace

from controlplane.access.scopes import OPERATOR, Caller
from controlplane.errors import InvalidRequest
from controlplane.lifecycle.creation import Creation
from controlplane.lifecycle.endings import Endings
from controlplane.lifecycle.records.registry import Registry
from controlplane.lifecycle.room.capacity import Capacity
from controlplane.lifecycle.uses import Uses
from controlplane.sandbox import CreateRequest, Sandbox, State


class SandboxStatistics(msgspec.Struct, frozen=True):
    """A snapshot: sandboxes by state, and what happened since the start."""

    by_state: dict[State, int]
    created: int
    failed_creates: int
    expired: int


class Sandboxes:
    """Create, get, list, delete and renew sandboxes."""

    def __init__(
        self, registry: Registry, capacity: Capacity, creation: Creation, uses: Uses, endings: Endings
    ) -> None:
        self._registry = registry
        self.capacity = capacity
        self._creation = creation
        self._uses = uses
        self._endings = endings

    async def create(self, request: CreateRequest, by: Caller = OPERATOR) -> Sandbox:
        """Create a sandbox of a caller and return it running. Errors as in `Creation.create`."""
        return await self._creation.create(request, by)

    def get(self, sandbox_id: str) -> Sandbox:
        """Return a sandbox. Raises NotFound."""
        return self._registry.get(sandbox_id)

    def ids(self) -> Collection[str]:
        """Return the ids of all sandboxes, also of those that are being removed."""
        return self._registry.ids()

    def list(self) -> list[Sandbox]:
        """Return all sandboxes, newest first."""
        return self._registry.visible()

    async def delete(self, sandbox_id: str) -> None:
        """End a sandbox. Errors as in `Endings.delete`."""
        await self._endings.delete(sandbox_id)

    def renew(self, sandbox_id: str, expires_at: datetime) -> Sandbox:
        """Set a new deadline, later or sooner than the present one. Errors as in `Uses.renew`."""
        return self._uses.renew(sandbox_id, expires_at)

    def in_use(self, sandbox_id: str) -> contextlib.AbstractContextManager[None]:
        """Hold a sandbox, if it exists, in use by a connected client inside of the block."""
        return self._uses.in_use(sandbox_id)

    def change_metadata(self, sandbox_id: str, changes: Mapping[str, str | None], *, most: int) -> Sandbox:
        """Set metadata, or drop what is None, and leave the rest: writers lose nothing of each other's.

        Raises:
            NotFound, Conflict: there is no such sandbox, or it has ended.
            InvalidRequest: it would have more than *most* entries.
        """
        sandbox = self._registry.get_lasting(sandbox_id)
        merged = {**sandbox.spec.metadata, **changes}
        metadata = {key: value for key, value in merged.items() if value is not None}
        if len(metadata) > most:
            raise InvalidRequest(f"metadata: would have more than {most} entries", code="sandbox.invalid_metadata")
        return self._registry.put(replace(sandbox, spec=replace(sandbox.spec, metadata=metadata)))

    def statistics(self) -> SandboxStatistics:
        """Return counts."""
        return SandboxStatistics(
            by_state=self._registry.count(),
            created=self._creation.created,
            failed_creates=self._creation.failed,
            expired=self._endings.expired,
        )
