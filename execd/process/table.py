"""All processes of the sandbox by id: the living ones, and a bounded number of ended ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from execd.errors import ExecdError
from execd.launch.environment import Launch
from execd.process.limits import KILL_FILES, Limits
from execd.process.output import Output
from execd.process.pipes import Sink
from execd.process.process import GRACE_S, Process, Witnesses, no_witness
from execd.process.reap import Reaper
from execd.process.spawn import MERGED, NULL, PIPE, spawn
from execd.wire.messages import MAX_COMMAND_CHARS, ProcessExited, ProcessState

KEPT_PROCESSES = 1000  # ended ones, for clients that ask late
KEPT_OUTPUT_BYTES = 64 << 20  # of all ended processes together
KEPT_FAILURES = 100  # starts that failed
NOT_STARTED_CODE = 127  # the exit status of a shell that cannot start a program


class FailedStart:
    """A process that could not be started. Its client has an id already, and may ask what became of the process."""

    def __init__(self, process_id: str, command: str, reason: str) -> None:
        self.id = process_id
        self.output = Output()
        self.output.append(reason.encode() + b"\n")
        self._command = command[:MAX_COMMAND_CHARS]
        self._at = time.time()

    def state(self, output_start: int = 0, output_end: int | None = None) -> ProcessState:
        """Return the state that a shell would report of a program that it cannot start."""
        return ProcessState(
            id=self.id,
            command=self._command,
            pid=0,
            started_at=self._at,
            finished_at=self._at,
            exited=ProcessExited("exit", NOT_STARTED_CODE, output_bytes=self.output.end),
            output_start=output_start,
            output_end=self.output.end if output_end is None else output_end,
        )

    def signal(self, number: int, kill_after_s: float | None = None) -> None:
        """Do nothing: there is no process."""


class ProcessTable:
    """Starts processes and remembers them."""

    def __init__(
        self,
        reaper: Reaper,
        *,
        kept_processes: int = KEPT_PROCESSES,
        kept_output_bytes: int = KEPT_OUTPUT_BYTES,
        kill_files: tuple[str, ...] = KILL_FILES,
        witnesses: Witnesses = no_witness,
    ) -> None:
        """Create an empty table. The limits apply to ended processes only; the table forgets the oldest ends first.

        *witnesses* are asked about processes whose output is kept.
        """
        self._reaper = reaper
        self._limits = Limits(kill_files)
        self._witnesses = witnesses
        self._kept_processes = kept_processes
        self._kept_output_bytes = kept_output_bytes
        self._processes: dict[str, Process] = {}  # in the order of their start
        self._ended: dict[str, Process] = {}  # in the order of their end
        self._failed: dict[str, FailedStart] = {}  # the oldest first

    def start(
        self,
        process_id: str,
        argv: Sequence[str],
        launch: Launch,
        *,
        command: str,
        executable: str | None = None,
        pass_fds: Sequence[int] = (),
        sink: Sink | None = None,
        stdin: bool = False,
    ) -> Process:
        """Start a process. Its output waits in the pipes until `Process.resume()`.

        Args:
            sink: Takes stdout and stderr separately, as they come. None: both are merged and kept.
            stdin: Whether the process gets a pipe as its stdin. If not, it gets /dev/null.

        Raises:
            ExecdError: `process.duplicate`, or what `spawn` raises. Nothing is left behind.
        """
        if not process_id:
            raise ExecdError("request.invalid", "a process needs an id")
        if process_id in self._processes:
            raise ExecdError("process.duplicate", f"process {process_id} exists already")
        child = spawn(
            argv,
            launch,
            stdin=PIPE if stdin else NULL,
            stderr=PIPE if sink else MERGED,
            pass_fds=pass_fds,
            executable=executable,
        )
        witness = None if sink else self._witnesses(process_id, child.pid)
        process = Process(
            process_id, command, child, reaper=self._reaper, limits=self._limits, sink=sink, witness=witness
        )
        self._processes[process_id] = process
        process.on_end(lambda _: self._remember(process))
        return process

    def get(self, process_id: str) -> Process:
        """Return a process.

        Raises:
            ExecdError: `process.not_found`: no process has this id, or it was forgotten.
        """
        process = self._processes.get(process_id)
        if process is None:
            raise ExecdError("process.not_found", f"process {process_id} does not exist")
        return process

    def find(self, process_id: str) -> Process | FailedStart:
        """Return a process, or the record of a process that could not be started.

        Raises:
            ExecdError: `process.not_found`: no process has this id, or it was forgotten.
        """
        if process_id in self._failed and process_id not in self._processes:
            return self._failed[process_id]
        return self.get(process_id)

    def remember_failure(self, process_id: str, command: str, reason: str) -> None:
        """Remember why a process could not be started."""
        self._failed[process_id] = FailedStart(process_id, command, reason)
        if len(self._failed) > KEPT_FAILURES:
            del self._failed[next(iter(self._failed))]

    def all(self) -> list[Process]:
        """Return all processes, in the order of their start."""
        return list(self._processes.values())

    def forget(self, process: Process) -> None:
        """Drop an ended process and its output."""
        self._ended.pop(process.id, None)
        self._processes.pop(process.id, None)

    async def shutdown(self) -> None:
        """End all process groups, TERM first and KILL after GRACE_S, and close their pipes.

        PID 1 calls this on SIGTERM. To stop a container quickly, the call returns as soon as all processes have ended,
        and after GRACE_S at the latest. What the process groups leave behind dies with PID 1.
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
