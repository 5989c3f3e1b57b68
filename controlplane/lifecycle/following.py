"""What links, the engine and the watch of the disk report of sandboxes, and what follows from that."""

from __future__ import annotations

import structlog

from controlplane.errors import StartFailed
from controlplane.lifecycle.creation import Creation
from controlplane.lifecycle.endings import Endings
from controlplane.lifecycle.entrypoints import Entrypoints
from controlplane.lifecycle.records.registry import Registry
from controlplane.lifecycle.records.states import CLAIMED
from controlplane.link.directory import Directory
from controlplane.link.link import Link
from controlplane.pool.pool import Pool
from controlplane.runtime.driver import Container
from controlplane.runtime.events import EventKind, RuntimeEvent
from controlplane.sandbox import DISK_LIMIT, EXITED_ERROR, PROTOCOL_VIOLATION, VANISHED

log = structlog.get_logger()


class Following:
    """A listener for events, which passes them to the container's creator, the pool, or its sandbox."""

    def __init__(
        self,
        registry: Registry,
        directory: Directory,
        pool: Pool,
        creation: Creation,
        entrypoints: Entrypoints,
        endings: Endings,
    ) -> None:
        self._registry = registry
        self._directory = directory
        self._pool = pool
        self._creation = creation
        self._entrypoints = entrypoints
        self._endings = endings

    def on_link(self, link: Link) -> None:
        """Follow the entrypoint of a claimed sandbox again: its link was lost and came back."""
        sandbox = self._registry.find(link.sandbox_id)
        if sandbox is not None and sandbox.state in CLAIMED:
            self._entrypoints.follow_again(sandbox, link)

    def on_violation(self, sandbox_id: str, text: str) -> None:
        """End a container whose agent broke the protocol."""
        self._lost(sandbox_id, PROTOCOL_VIOLATION, f"its agent broke the protocol: {text}")

    def on_overfilled(self, sandbox_id: str, text: str) -> None:
        """End a sandbox that takes too much of the disk."""
        self._lost(sandbox_id, DISK_LIMIT, text)

    def on_engine_event(self, event: RuntimeEvent) -> None:
        """Note an event of the engine, or end the sandbox of a container that has ended."""
        if event.kind is EventKind.OOM:
            log.info("sandbox.oom", sandbox=event.sandbox_id)
            if self._registry.find(event.sandbox_id) is not None:
                self._registry.journal.note(event.sandbox_id, "OutOfMemory", "the kernel ended a process of it")
        elif event.kind is EventKind.DIED:
            self._lost(event.sandbox_id, EXITED_ERROR, f"the container ended with exit code {event.exit_code}")
        elif event.kind is EventKind.REMOVED:
            self._lost(event.sandbox_id, VANISHED, "the container was removed, and not by us")

    def on_vanished(self, sandbox_id: str, container: Container | None) -> None:
        """End a sandbox whose container has ended, or is not known to the engine any more (None)."""
        if container is None:
            self._endings.fail(sandbox_id, VANISHED, "the engine does not know its container any more")
        else:
            cause = " (out of memory)" if container.oom_killed else ""
            text = f"the container ended with exit code {container.exit_code}{cause}"
            self._endings.fail(sandbox_id, EXITED_ERROR, text)

    def _lost(self, sandbox_id: str, reason: str, text: str) -> None:
        """Tell the creator, the pool or the sandbox of a container that the container has ended, or must end."""
        ended = StartFailed(text)
        self._directory.fail(sandbox_id, ended)
        if not self._creation.lost(sandbox_id, ended) and not self._pool.lost(sandbox_id):
            self._endings.fail(sandbox_id, reason, text)
