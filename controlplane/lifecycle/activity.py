"""Use of sandboxes: it puts off their end, and its absence ends them, where they were created with such an extension.

Every request to a sandbox comes through here, by whatever door: commands, code, files, terminals, ports. One that goes
on, like a terminal, is use for as long as it goes on. Programs in the sandbox are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from controlplane.link.directory import Directory
from controlplane.sandbox import Sandbox, State

# As the contract names it: every use puts the deadline off, to so many seconds from then.
RENEWAL_KEY = "access.renew.extend.seconds"
# Ours: without use for so many seconds, the sandbox ends.
IDLE_KEY = "access.idle.timeout.seconds"

# One stream is always open: on it, execd will say how the entrypoint ended.
_STREAMS_OF_OURS = 1


class Activity:
    """When each sandbox was used last. A server that starts takes all of them as used right then."""

    def __init__(self, directory: Directory, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock
        self._start = clock()
        self._used: dict[str, float] = {}

    def touch(self, sandbox_id: str) -> None:
        """A client uses a sandbox now."""
        self._used[sandbox_id] = self._clock()

    def last(self, sandbox: Sandbox) -> float:
        """Return when it was used last, in Unix seconds; now, while a request goes on."""
        link = self._directory.get(sandbox.id)
        if link is not None and link.statistics().streams > _STREAMS_OF_OURS:
            return self._clock()
        return self._used.get(sandbox.id, max(self._start, sandbox.created_at.timestamp()))

    def forget(self, sandbox_id: str) -> None:
        """Drop a sandbox. Idempotent."""
        self._used.pop(sandbox_id, None)


def due(sandbox: Sandbox, last_use: float, now: float) -> float | None:
    """Return when a sandbox is to end, in Unix seconds; None for never.

    That is its deadline or the end of its idle time, whichever is sooner. One that does not run is not idle: nobody can
    use it.
    """
    moments = [] if sandbox.expires_at is None else [sandbox.expires_at.timestamp()]
    if (idle := sandbox.spec.extensions.get(IDLE_KEY)) is not None:
        moments.append((last_use if sandbox.state is State.RUNNING else now) + int(idle))
    return min(moments, default=None)


def renewed(sandbox: Sandbox, last_use: float) -> float | None:
    """Return until when its last use keeps a sandbox; None where it was not created with that extension."""
    renewal = sandbox.spec.extensions.get(RENEWAL_KEY)
    return None if renewal is None else last_use + int(renewal)
