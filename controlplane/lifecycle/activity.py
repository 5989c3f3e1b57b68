"""Use of sandboxes: it puts off their end, and its absence ends them, where they were created with such an extension.

Every request to a sandbox comes through here, by whatever door: commands, code, files, terminals, ports, the native
stream, the egress policy; and so does resuming it. What goes on, like a terminal or a connected console, is use for as
long as it goes on. Programs in the sandbox are not.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator

from controlplane.link.directory import Directory
from controlplane.sandbox import Sandbox, State

# As the contract names it: every use puts the deadline off, to so many seconds from then.
RENEWAL_KEY = "access.renew.extend.seconds"
# Ours: without use for so many seconds, the sandbox ends.
IDLE_KEY = "access.idle.timeout.seconds"

# One stream is always open: on it, execd will say how the entrypoint ended.
_STREAMS_OF_OURS = 1


class Activity:
    """When each sandbox was used last, since this server started: nothing of it is written down.

    Two clocks, because a restart must not end what nobody could use meanwhile, and must not put off a deadline either:
    the idle time of all sandboxes begins anew, and deadlines stay as they were written down.
    """

    def __init__(self, directory: Directory, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock
        self._start = clock()
        self._used: dict[str, float] = {}
        self._renewing: dict[str, float] = {}  # the same, but only uses after the last explicit renewal
        self._connected: Counter[str] = Counter()

    def touch(self, sandbox_id: str) -> None:
        """A client uses a sandbox now."""
        self._used[sandbox_id] = self._renewing[sandbox_id] = self._clock()

    @contextlib.contextmanager
    def connected(self, sandbox_id: str) -> Iterator[None]:
        """Inside, a client is connected: it uses the sandbox, whether or not it asks anything of it."""
        self._connected[sandbox_id] += 1
        try:
            yield
        finally:
            self._connected[sandbox_id] -= 1
            if not self._connected[sandbox_id]:
                del self._connected[sandbox_id]

    def last(self, sandbox: Sandbox) -> float:
        """Return since when it is idle, in Unix seconds; now, while a request goes on or a client is connected."""
        if self._is_going_on(sandbox.id):
            return self._clock()
        return self._used.get(sandbox.id, max(self._start, sandbox.created_at.timestamp()))

    def last_renewing(self, sandbox: Sandbox) -> float | None:
        """Return when it was used last, if that was after its creation, its last explicit renewal and our start."""
        return self._clock() if self._is_going_on(sandbox.id) else self._renewing.get(sandbox.id)

    def settle(self, sandbox_id: str) -> None:
        """Its deadline was set explicitly: what was before does not change that any more."""
        self._renewing.pop(sandbox_id, None)

    def forget(self, sandbox_id: str) -> None:
        """Drop a sandbox. Idempotent."""
        self._used.pop(sandbox_id, None)
        self._renewing.pop(sandbox_id, None)

    def _is_going_on(self, sandbox_id: str) -> bool:
        link = self._directory.get(sandbox_id)
        has_requests = link is not None and link.statistics().streams > _STREAMS_OF_OURS
        return has_requests or sandbox_id in self._connected


def due(sandbox: Sandbox, last_use: float, now: float) -> float | None:
    """Return when a sandbox is to end, in Unix seconds; None for never.

    That is its deadline or the end of its idle time, whichever is sooner. One that does not run is not idle: nobody can
    use it.
    """
    moments = [] if sandbox.expires_at is None else [sandbox.expires_at.timestamp()]
    if (idle := sandbox.spec.extensions.get(IDLE_KEY)) is not None:
        moments.append((last_use if sandbox.state is State.RUNNING else now) + int(idle))
    return min(moments, default=None)


def renewed(sandbox: Sandbox, last_use: float | None) -> float | None:
    """Return until when its last use keeps a sandbox; None where it does not, or was not created to be kept by use."""
    renewal = sandbox.spec.extensions.get(RENEWAL_KEY)
    return None if renewal is None or last_use is None else last_use + int(renewal)


def due_to_look(sandbox: Sandbox, due: float | None, now: float) -> float | None:
    """Return when to look at a sandbox that is to end at *due*: at the latest then, None for never.

    What puts its deadline off by going on is written down halfway: a server that is killed then has half of the time
    left to start again, and clients to come back.
    """
    renewal = sandbox.spec.extensions.get(RENEWAL_KEY)
    return due if due is None or renewal is None else min(due, now + int(renewal) / 2)
