"""Uses of sandboxes, and how long sandboxes last.

Every request to a sandbox is a use, whichever endpoint it comes through: commands, code, files, terminals, ports, the
native stream, the egress policy. Resuming a sandbox is a use as well. A request that goes on, like a terminal or a
connected console, is a use until it ends. A program in the sandbox is no use.

A use puts the deadline of a sandbox off, and the absence of uses ends a sandbox, where the sandbox was created with the
extension for that.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import structlog
from msgspec.structs import replace

from controlplane.errors import Field, InvalidRequest, StoreError
from controlplane.lifecycle.deadlines import Deadlines
from controlplane.lifecycle.records.registry import Registry, utc_now
from controlplane.link.directory import Directory
from controlplane.sandbox import EXPIRED, IDLE, LONGEST_S, Sandbox, State, Status

log = structlog.get_logger()

# The contract's name: every use sets the deadline to so many seconds after the use.
RENEWAL_KEY = "access.renew.extend.seconds"
# Our name: the sandbox ends after so many seconds without a use.
IDLE_KEY = "access.idle.timeout.seconds"

# A use that puts a deadline off by less than this is not written down.
RENEWAL_STEP_S = 10.0
# One stream is always open: execd will say on that stream how the entrypoint ended.
_STREAMS_OF_OURS = 1


class Uses:
    """When each sandbox was used last, when sandboxes are due to end, and explicit renewals.

    Args:
        max_lifetime_s: The longest lifetime of a sandbox that the settings allow; 0 is no bound.
        clock: Unix time, s.
    """

    def __init__(
        self,
        registry: Registry,
        deadlines: Deadlines,
        directory: Directory,
        *,
        max_lifetime_s: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._deadlines = deadlines
        self._max_lifetime_s = max_lifetime_s
        self._clock = clock
        self._last = LastUses(directory, clock)

    # -- what clients do

    def on_use(self, sandbox_id: str) -> None:
        """Note that a client uses a sandbox. Costs next to nothing where no extension asks for it."""
        sandbox = self._registry.find(sandbox_id)
        if sandbox is None or not sandbox.spec.extensions or sandbox.state is not State.RUNNING:
            return
        self._last.touch(sandbox_id)
        try:
            self._renew_by_use(sandbox)
        except StoreError as error:  # the use itself goes on; the next use tries again
            log.warning("sandbox.renew_failed", sandbox=sandbox_id, error=error.message)

    @contextlib.contextmanager
    def in_use(self, sandbox_id: str) -> Iterator[None]:
        """Hold a sandbox, if it exists, in use by a connected client inside of the block."""
        self.on_use(sandbox_id)
        try:
            with self._last.connected(sandbox_id):
                yield
        finally:
            self.on_use(sandbox_id)

    def lifetime(self, timeout_s: int | None) -> timedelta | None:
        """Return how long a sandbox lasts that is asked for with this timeout; None for ever.

        Raises:
            InvalidRequest: the timeout is not positive, or is longer than a sandbox may last.
        """
        if timeout_s is None:
            return timedelta(seconds=self._max_lifetime_s) if self._max_lifetime_s else None
        if timeout_s <= 0:
            raise InvalidRequest("timeout must be more than 0 s", code="sandbox.invalid_expiration")
        self._check_lifetime(timeout_s)
        return timedelta(seconds=timeout_s)

    def renew(self, sandbox_id: str, expires_at: datetime) -> Sandbox:
        """Set a new deadline, later or sooner than the present one.

        Raises:
            NotFound, Conflict: there is no such sandbox, or it has ended.
            InvalidRequest: that moment has passed, or is later than a sandbox may last.
        """
        sandbox = self._registry.get_lasting(sandbox_id)
        if expires_at <= utc_now():
            raise InvalidRequest("must be in the future", code="sandbox.invalid_expiration", field=Field.EXPIRES_AT)
        self._check_lifetime((expires_at - sandbox.created_at).total_seconds())
        sandbox = self._registry.put(replace(sandbox, expires_at=expires_at))
        self._registry.journal.note(sandbox_id, "Renewed", f"until {expires_at:%Y-%m-%dT%H:%M:%SZ}")
        self._last.settle(sandbox_id)
        self.schedule(sandbox)
        return sandbox

    # -- when sandboxes end

    def schedule(self, sandbox: Sandbox) -> None:
        """Set when to look whether a sandbox is to end."""
        now = self._clock()
        look = due_to_look(sandbox, due(sandbox, self._last.use(sandbox), now), now)
        if look is None:
            self._deadlines.drop(sandbox.id)
        else:
            self._deadlines.set(sandbox.id, look)

    def why_over(self, sandbox: Sandbox, now: float) -> Status | None:
        """Return why a sandbox has to end now; None if it has not, and then set when to look again.

        Raises:
            StoreError: the sandbox goes on, and that cannot be written down.
        """
        sandbox = self._renew_by_use(sandbox)
        moment = due(sandbox, self._last.use(sandbox), now)
        if moment is None or moment > now:
            self.schedule(sandbox)
            return None
        if sandbox.expires_at is not None and sandbox.expires_at.timestamp() <= now:
            return Status(EXPIRED, "the sandbox reached its expiry")
        return Status(IDLE, "the sandbox was idle for as long as it may be")

    def forget(self, sandbox_id: str) -> None:
        """Drop a sandbox, but not its deadline. Idempotent."""
        self._last.forget(sandbox_id)

    # -- inside

    def _check_lifetime(self, seconds: float) -> None:
        """Check the bound of creates and renewals on the lifetime. Raises InvalidRequest."""
        longest = self._max_lifetime_s or LONGEST_S
        if seconds > longest:
            setting = " ([sandbox] max_lifetime)" if self._max_lifetime_s else ""
            raise InvalidRequest(
                f"a sandbox may last at most {longest} s from its creation on this server{setting}; renewals count",
                code="sandbox.invalid_expiration",
            )

    def _renew_by_use(self, sandbox: Sandbox) -> Sandbox:
        """Put the deadline off where the sandbox was created with that extension. Raises StoreError."""
        if sandbox.state is not State.RUNNING:
            return sandbox  # a connection to a paused sandbox does not count as use
        until = renewed(sandbox, self._last.renewing_use(sandbox))
        if until is not None and self._max_lifetime_s:
            until = min(until, sandbox.created_at.timestamp() + self._max_lifetime_s)
        if until is None or sandbox.expires_at is None or until < sandbox.expires_at.timestamp() + RENEWAL_STEP_S:
            return sandbox
        return self._registry.put(replace(sandbox, expires_at=datetime.fromtimestamp(until, UTC)))


class LastUses:
    """When each sandbox was used last since this server started. None of that is written down.

    There are two clocks, because a restart must not end a sandbox that nobody could use meanwhile, and must not put a
    deadline off either. The idle time of all sandboxes begins anew, and deadlines stay as they were written down.
    """

    def __init__(self, directory: Directory, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock
        self._start = clock()
        self._used: dict[str, float] = {}
        self._renewing: dict[str, float] = {}  # the same, but only uses after the last explicit renewal
        self._connected: Counter[str] = Counter()

    def touch(self, sandbox_id: str) -> None:
        """Note that a client uses a sandbox now."""
        self._used[sandbox_id] = self._renewing[sandbox_id] = self._clock()

    @contextlib.contextmanager
    def connected(self, sandbox_id: str) -> Iterator[None]:
        """Hold the sandbox in use by a connected client inside of the block, even if the client requests nothing."""
        self._connected[sandbox_id] += 1
        try:
            yield
        finally:
            self._connected[sandbox_id] -= 1
            if not self._connected[sandbox_id]:
                del self._connected[sandbox_id]

    def use(self, sandbox: Sandbox) -> float:
        """Return the Unix time since when a sandbox is idle: now, while a request goes on or a client is connected."""
        if self._is_going_on(sandbox.id):
            return self._clock()
        return self._used.get(sandbox.id, max(self._start, sandbox.created_at.timestamp()))

    def renewing_use(self, sandbox: Sandbox) -> float | None:
        """Return the last use after the creation, the last explicit renewal and our start; None without such a use."""
        return self._clock() if self._is_going_on(sandbox.id) else self._renewing.get(sandbox.id)

    def settle(self, sandbox_id: str) -> None:
        """Note an explicit deadline: earlier uses do not change that deadline any more."""
        self._renewing.pop(sandbox_id, None)

    def forget(self, sandbox_id: str) -> None:
        """Drop a sandbox. Idempotent."""
        self._used.pop(sandbox_id, None)
        self._renewing.pop(sandbox_id, None)

    def _is_going_on(self, sandbox_id: str) -> bool:
        link = self._directory.get(sandbox_id)
        counts = None if link is None else link.statistics()
        has_requests = counts is not None and counts.streams - counts.watches > _STREAMS_OF_OURS
        return has_requests or sandbox_id in self._connected


def due(sandbox: Sandbox, last_use: float, now: float) -> float | None:
    """Return when a sandbox is to end, in Unix seconds; None for never.

    A sandbox ends at its deadline or at the end of its idle time, whichever is sooner. A sandbox that does not run is
    not idle, because nobody can use it.
    """
    moments = [] if sandbox.expires_at is None else [sandbox.expires_at.timestamp()]
    if (idle := sandbox.spec.extensions.get(IDLE_KEY)) is not None:
        moments.append((last_use if sandbox.state is State.RUNNING else now) + int(idle))
    return min(moments, default=None)


def renewed(sandbox: Sandbox, last_use: float | None) -> float | None:
    """Return the deadline that the last use gives a sandbox; None without a use, or without the extension."""
    renewal = sandbox.spec.extensions.get(RENEWAL_KEY)
    return None if renewal is None or last_use is None else last_use + int(renewal)


def due_to_look(sandbox: Sandbox, due: float | None, now: float) -> float | None:
    """Return when to look at a sandbox that is to end at *due*: at the latest then, None for never.

    A use that goes on puts the deadline off, which is written down halfway. A server that is killed then has half of
    the time left to start again, and so have the clients to come back.
    """
    renewal = sandbox.spec.extensions.get(RENEWAL_KEY)
    return due if due is None or renewal is None else min(due, now + int(renewal) / 2)
