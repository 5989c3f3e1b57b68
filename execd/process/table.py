"""All processes of the sandbox by id: the living ones, and a bounded number of those that ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from execd.environment import Launch
from execd.errors import ExecdError
from execd.process.limits import KILL_FILES, Limits
from execd.process.pipes import Sink
from execd.process.process import GRACE_S, Process
from execd.process.reap import Reaper
from execd.process.spawn import MERGED, NULL, PIPE, spawn

KEPT_PROCESSES = 1000  # ended ones, for late readers
KEPT_OUTPUT_BYTES = 64 << 20  # of all ended ones together


class ProcessTable:
    """Starts processes and remembers them."""

    def __init__(
        self,
        reaper: Reaper,
        *,
        kept_processes: int = KEPT_PROCESSES,
        kept_output_bytes: int = KEPT_OUTPUT_BYTES,
        kill_files: tuple[str, ...] = KILL_FILES,
    ) -> None:
        """Make an empty one. The limits are for ended processes only; the oldest ends are forgotten first."""
        self._reaper = reaper
        self._limits = Limits(kill_files)
        self._kept_processes = kept_processes
        self._kept_output_bytes = kept_output_bytes
        self._processes: dict[str, Process] = {}  # in the order of their start
        self._ended: dict[str, Process] = {}  # in the order of their end

    def start(
        self,
        process_id: str,
        argv: Sequence[str],
        launch: Launch,
        *,
        command: str,
        executable: str | None = None,
        sink: Sink | None = None,
        stdin: bool = False,
    ) -> Process:
        """Start a process. Its output waits in the pipes until `Process.resume()`.

        Args:
            sink: takes stdout and stderr apart as they come; None merges them and keeps them.
            stdin: whether it gets a pipe; else /dev/null.

        Raises:
            ExecdError: `process.duplicate`, or what `spawn` raises. Nothing is left behind.
        """
        if not process_id:
            raise ExecdError("request.invalid", "a process needs an id")
        if process_id in self._processes:
            raise ExecdError("process.duplicate", f"there is a process {process_id} already")
        child = spawn(
            argv, launch, stdin=PIPE if stdin else NULL, stderr=PIPE if sink else MERGED, executable=executable
        )
        process = Process(process_id, command, child, reaper=self._reaper, limits=self._limits, sink=sink)
        self._processes[process_id] = process
        process.on_end(lambda _: self._remember(process))
        return process

    def get(self, process_id: str) -> Process:
        """Return a process.

        Raises:
            ExecdError: `process.not_found`, there is none with this id (any more).
        """
        process = self._processes.get(process_id)
        if process is None:
            raise ExecdError("process.not_found", f"there is no process {process_id}")
        return process

    def all(self) -> list[Process]:
        """Return all, in the order of their start."""
        return list(self._processes.values())

    def forget(self, process: Process) -> None:
        """Drop an ended process, and its output."""
        self._ended.pop(process.id, None)
        self._processes.pop(process.id, None)

    async def shutdown(self) -> None:
        """End all process groups, TERM first, KILL after GRACE_S, and close their pipes.

        For PID 1 on SIGTERM, so that stopping a container is quick: returns as soon as all processes have ended, and
        after GRACE_S at the latest. What their groups leave behind dies with PID 1.
        """
        alive = [process for process in self._processes.values() if process.alive]
        for process in alive:
            process.stop("killed")
        waits = [asyncio.ensure_future(process.wait()) for process in alive]
        if waits:
            _, late = await asyncio.wait(waits, timeout=GRACE_S)
            for wait in late:
                wait.cancel()
        for process in self._processes.values():
            if process.alive:
                process.kill()
            process.close()

    def _remember(self, process: Process) -> None:
        self._ended[process.id] = process
        if len(self._ended) > self._kept_processes:
            self.forget(next(iter(self._ended.values())))
        if process.output is not None:
            kept = sum(ended.output.kept_bytes for ended in self._ended.values() if ended.output is not None)
            while kept > self._kept_output_bytes:
                oldest = next(ended for ended in self._ended.values() if ended.output is not None)
                kept -= oldest.output.kept_bytes if oldest.output else 0
                self.forget(oldest)
