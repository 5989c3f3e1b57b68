"""Endings of sandboxes: an end is written down first, then the container is removed in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog
from msgspec.structs import replace

from controlplane.errors import Conflict, NotFound, SandlotError, StoreError
from controlplane.lifecycle.deadlines import Deadlines
from controlplane.lifecycle.records.registry import Registry, utc_now
from controlplane.lifecycle.records.states import CLAIMED, LIVE, Event
from controlplane.lifecycle.uses import Uses
from controlplane.pool.provision import Provisioner
from controlplane.runtime.driver import Volumes
from controlplane.sandbox import CREATE_FAILED, DELETED, EXPIRED, IDLE, Sandbox, State
from controlplane.tasks import Background
from controlplane.telemetry.metrics import Metrics

log = structlog.get_logger()

# The caller of a create that failed gets the answer when nothing is left, or after this if the engine hangs.
UNDO_TIMEOUT_S = 10.0
# Clients can ask for so long about a sandbox that ended by itself.
FINISHED_RETENTION = timedelta(minutes=10)
# Reasons for which a sandbox is forgotten as soon as its container is gone: nobody asks about the sandbox any more.
_FORGOTTEN = frozenset({DELETED, EXPIRED, IDLE, CREATE_FAILED})
# An agent is not trusted: so much of what an agent says goes into a status.
MAX_CAUSE_CHARS = 500


class Endings:
    """Ends sandboxes, whatever the reason, and removes their containers and records."""

    def __init__(
        self,
        registry: Registry,
        deadlines: Deadlines,
        uses: Uses,
        provisioner: Provisioner,
        volumes: Volumes,
        background: Background,
        metrics: Metrics | None = None,
        before_end: Callable[[Sandbox], Awaitable[None]] | None = None,
    ) -> None:
        """Create the endings. *before_end* is called before the container of an ended sandbox is removed."""
        self._metrics = metrics or Metrics()
        self._registry = registry
        self._deadlines = deadlines
        self._uses = uses
        self._provisioner = provisioner
        self._volumes = volumes
        self._background = background
        self._before_end = before_end
        self._removals: dict[str, asyncio.Task[None]] = {}
        self.expired = 0  # sandboxes that reached a deadline since the start

    # -- for a reason of ours or of a client

    async def delete(self, sandbox_id: str) -> None:
        """End a sandbox for a client. From then on nobody finds the sandbox, whatever is asked of it.

        Returns when the end is written down; the container is removed in the background. Where the end cannot be
        written down, this returns when the container is removed.

        Raises:
            NotFound: there is no such sandbox (any more).
            StoreError: the end could neither be written down nor carried out yet. Both are tried again.
        """
        sandbox = self._registry.get(sandbox_id)
        if sandbox.state is State.TERMINATED:
            self._registry.forget(sandbox_id)
            self._deadlines.drop(sandbox_id)
        elif sandbox.state is State.STOPPING:  # it ended by itself; the removal under way forgets it now
            self._registry.settle(replace(sandbox, reason=DELETED, message=""))
            await self._carry_out_unwritten(sandbox_id)
        else:
            self.stop(sandbox_id, reason=DELETED)
            await self._carry_out_unwritten(sandbox_id)

    def expire(self, sandbox_id: str, now: float) -> None:
        """End a sandbox whose deadline has passed, unless a use put it off.

        Raises:
            StoreError: the end could not be written down. Call this again later.
        """
        sandbox = self._registry.find(sandbox_id)
        if sandbox is None or sandbox.state is State.STOPPING:
            return
        if sandbox.state not in LIVE:
            self._registry.forget(sandbox_id)
        elif (why := self._uses.why_over(sandbox, now)) is not None:
            self.stop(sandbox_id, reason=why.reason, message=why.message)
            self.expired += 1
            self._check_end(sandbox_id)

    async def undo(self, sandbox: Sandbox) -> None:
        """End a sandbox whose creation failed. Returns when nothing is left of it, or after `UNDO_TIMEOUT_S`.

        The removal goes on in the background, so that a second cancellation cannot stop it.
        """
        try:
            self.stop(sandbox.id, reason=CREATE_FAILED)
        except NotFound:  # not written down: then nobody but us knows the container
            self.remove(sandbox)
        except Conflict:
            pass  # deleted meanwhile: the removal is under way
        if (removal := self._removals.get(sandbox.id)) is not None:
            await asyncio.wait([removal], timeout=UNDO_TIMEOUT_S)

    def stop(self, sandbox_id: str, *, reason: str, message: str = "") -> None:
        """End a sandbox on purpose. Raises NotFound, Conflict: it cannot end any more."""
        self._end(sandbox_id, Event.STOP, reason, message)
        self._deadlines.drop(sandbox_id)
        log.info("sandbox.stopping", sandbox=sandbox_id, reason=reason)

    # -- by themselves

    def fail(self, sandbox_id: str, reason: str, message: str, *, said: str = "") -> None:
        """End a sandbox that failed, if it is claimed. What it *said* is for its owner, not for the server's log."""
        sandbox = self._registry.find(sandbox_id)
        # The creator of a sandbox that is being made gets the error; a sandbox that is being removed is meant to end.
        if sandbox is None or sandbox.state not in CLAIMED:
            return
        message = message[:MAX_CAUSE_CHARS]
        self._end(sandbox_id, Event.FAIL, reason, f"{message}; it said: {said}" if said else message)
        self._remember(sandbox_id, utc_now())
        log.warning("sandbox.failed", sandbox=sandbox_id, reason=reason, message=message)

    # -- after a restart

    def take_over(self, sandbox: Sandbox) -> None:
        """Set the deadline of a sandbox of an earlier run."""
        if sandbox.state in LIVE:
            self._registry.journal.note(sandbox.id, "Recovered", "the server was started anew")
            self._uses.schedule(sandbox)
        else:
            self._remember(sandbox.id, sandbox.state_changed_at)

    def remove(self, sandbox: Sandbox) -> None:
        """Remove the container of an ended sandbox in the background. Harmless while that goes on already."""
        running = self._removals.get(sandbox.id)
        if running is not None and not running.done():
            return  # it looks at the record again when the container is gone
        task = self._background.start(self._remove(sandbox), name="sandbox.remove")
        self._removals[sandbox.id] = task
        task.add_done_callback(lambda _: self._forget_removal(sandbox.id, task))

    # -- inside

    async def _carry_out_unwritten(self, sandbox_id: str) -> None:
        """Return when an end is written down or carried out, so that a later start knows of it. Raises StoreError."""
        removal = self._removals.get(sandbox_id)
        if removal is not None and self._registry.late_writes.is_late(sandbox_id):
            await asyncio.wait([removal], timeout=UNDO_TIMEOUT_S)
        self._check_end(sandbox_id)

    def _check_end(self, sandbox_id: str) -> None:
        """Raise StoreError when only this process knows of an end."""
        if self._registry.find(sandbox_id) is not None and self._registry.late_writes.is_late(sandbox_id):
            raise StoreError(
                f"the end of sandbox {sandbox_id} cannot be written down, and its container is not removed yet; both "
                "are tried again"
            )

    def _end(self, sandbox_id: str, event: Event, reason: str, message: str) -> None:
        """Write an end down and start the removal of the container. Raises NotFound, Conflict: it cannot end now."""
        ended = self._registry.advance(sandbox_id, event, reason=reason, message=message)
        self._metrics.ended(sandbox_id, reason, (ended.state_changed_at - ended.created_at).total_seconds())
        self.remove(ended)

    def _remember(self, sandbox_id: str, since: datetime) -> None:
        """Set when to forget a sandbox that has ended: when nobody will ask about it any more."""
        self._uses.forget(sandbox_id)
        self._deadlines.set(sandbox_id, (since + FINISHED_RETENTION).timestamp())

    def _forget_removal(self, sandbox_id: str, task: asyncio.Task[None]) -> None:
        if self._removals.get(sandbox_id) is task:
            del self._removals[sandbox_id]

    async def _remove(self, sandbox: Sandbox) -> None:
        """Remove the container, then the record, unless clients may ask about a sandbox that ended by itself."""
        try:
            if self._before_end is not None:
                await self._before_end(sandbox)
            await self._provisioner.remove(sandbox.id, sandbox.container_id)
            # The sandbox may have been the last user of a volume that another sandbox made.
            if any(volume.volume_name for volume in sandbox.spec.volumes):
                await self._volumes.remove_unused()
            self._removed(sandbox.id)
        except SandlotError as error:
            # The record stays as it is, and the sweep tries again.
            log.warning("sandbox.remove_failed", sandbox=sandbox.id, error=error.message)

    def _removed(self, sandbox_id: str) -> None:
        present = self._registry.find(sandbox_id)
        if present is None:
            return
        if present.state is State.STOPPING and present.reason in _FORGOTTEN:
            self._registry.forget(sandbox_id)
            self._uses.forget(sandbox_id)
        elif present.state is State.STOPPING:
            self._registry.advance(sandbox_id, Event.GONE, reason=present.reason, message=present.message)
            self._remember(sandbox_id, utc_now())
