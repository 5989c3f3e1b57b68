"""What the server adds to activities: states that only it knows, and records of what ended sandboxes have told."""

from __future__ import annotations

import asyncio
import contextlib
import time

import structlog

from controlplane.activity.activities import Activities
from controlplane.activity.records import MAX_RECORD_BYTES, Records, RecordView
from controlplane.errors import SandlotError
from controlplane.sandbox import Sandbox

log = structlog.get_logger()

READ_TIMEOUT_S = 5.0  # so long may reading out delay the end of a sandbox


class Keeping:
    """Notes states of sandboxes, and reads activities out where records are kept."""

    def __init__(self, activities: Activities, records: Records | None) -> None:
        self.records = records
        self._activities = activities
        self._still: set[str] = set()  # sandboxes that were paused: their agents do not answer

    async def before_pause(self, sandbox: Sandbox) -> None:
        """Note that a sandbox will stand still, and keep a record: it may end without going on. Never raises."""
        if await self._activities.note(sandbox.id, "pausing"):
            await self._keep(sandbox)
        self._still.add(sandbox.id)

    async def after_resume(self, sandbox_id: str) -> None:
        """Note that a sandbox goes on. Never raises."""
        self._still.discard(sandbox_id)
        await self._activities.note(sandbox_id, "resumed")

    async def before_end(self, sandbox: Sandbox) -> None:
        """Note the end of a sandbox and keep its record, if there are readers and its agent answers. Never raises."""
        if sandbox.id in self._still:
            self._still.discard(sandbox.id)
            return
        is_read = self.records is not None or self._activities.is_watched(sandbox.id)
        if is_read and await self._activities.note(sandbox.id, "ending", sandbox.reason):
            await self._keep(sandbox)

    async def _keep(self, sandbox: Sandbox) -> None:
        if self.records is None:
            return
        with contextlib.suppress(SandlotError, TimeoutError):
            async with asyncio.timeout(READ_TIMEOUT_S):
                page = await self._activities.read_out(sandbox.id, MAX_RECORD_BYTES)
            if not page.entries:
                return
            head = RecordView(
                sandbox=sandbox.id,
                owner=sandbox.owner,
                image=sandbox.requested_image,
                created_at=round(sandbox.created_at.timestamp(), 3),
                kept_at=round(time.time(), 3),
                state=sandbox.state.value,
                reason=sandbox.reason,
                keep=page.keep,
                first=page.first,
                last=page.last,
            )
            await self.records.write(head, [entry.view for entry in page.entries])
