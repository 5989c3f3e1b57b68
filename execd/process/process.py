"""One process: from its spawn to its end, and the cause of that."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable

from execd.errors import ExecdError
from execd.process.limits import KILLED_CODE, Limits
from execd.process.output import Output
from execd.process.pipes import InputPipe, OutputPipes, Sink, keep_in, nowhere
from execd.process.reap import Exit, Reaper
from execd.process.spawn import Child
from execd.wire.frames import Channel
from execd.wire.messages import ProcessExited, ProcessState

log = logging.getLogger("execd")

GRACE_S = 2.0  # between TERM and KILL
MAX_COMMAND_CHARS = 8 * 1024  # a script may have megabytes, and a thousand ended processes are remembered

_DEADLY = (signal.SIGTERM, signal.SIGKILL)


class Process:
    """A process that was spawned, and what is known of it as long as somebody may ask.

    It lives on its own: whoever started it may go away. Reading begins with `resume()`.
    """

    def __init__(
        self, process_id: str, command: str, child: Child, *, reaper: Reaper, limits: Limits, sink: Sink | None
    ) -> None:
        """Take a fresh child over; call it before the event loop runs again.

        Args:
            sink: takes the output as it comes; None keeps it, in `output`.
        """
        self.id = process_id
        self.command = command[:MAX_COMMAND_CHARS]
        self.pid = child.pid
        self.started_at = time.time()
        self.finished_at: float | None = None
        self.exited: ProcessExited | None = None
        self.output: Output | None = None
        self.stdin = InputPipe(child.stdin)
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._reaper = reaper
        self._limits = limits
        self._hits_before = limits.hits()
        late_sink: Sink = nowhere
        if sink is None:
            self.output = Output()
            sink = late_sink = keep_in(self.output)
        pipes = {child.stdout: Channel.STDOUT, child.stderr: Channel.STDERR}
        self._pipes = OutputPipes({fd: pipes[fd] for fd in pipes if fd >= 0}, sink, late_sink=late_sink)
        self._end: Exit | None = None  # of the process itself; `exited` follows when its output has been delivered
        self._cause = ""  # timeout, killed or link_lost, when we ended it
        self._told_to_die = False  # by a signal from outside
        self._timeout: asyncio.TimerHandle | None = None
        self._kill: asyncio.TimerHandle | None = None
        self._group_gone = False
        self._on_end: list[Callable[[ProcessExited], None]] = []
        reaper.watch(child.pid, self._reaped)

    @property
    def alive(self) -> bool:
        """Whether the process itself, the leader of its group, has not ended yet."""
        return self._end is None

    def state(self, output_start: int = 0) -> ProcessState:
        """Return what the table knows of it."""
        return ProcessState(
            id=self.id,
            command=self.command,
            pid=self.pid,
            started_at=self.started_at,
            finished_at=self.finished_at,
            exited=self.exited,
            output_start=output_start,
            output_end=self.output.end if self.output else 0,
        )

    def resume(self) -> None:
        """Read its output (on)."""
        self._pipes.resume()

    def on_end(self, callback: Callable[[ProcessExited], None]) -> None:
        """Call *callback* once when it is known how it ended; at once when it is."""
        if self.exited is None:
            self._on_end.append(callback)
        else:
            callback(self.exited)

    async def wait(self) -> ProcessExited:
        """Return how it ended. Cancelling stops the wait, not the process."""
        ended: asyncio.Future[ProcessExited] = self._loop.create_future()
        self.on_end(lambda exited: None if ended.done() else ended.set_result(exited))
        return await ended

    # -- ending it ----------------------------------------

    def limit(self, timeout_s: float) -> None:
        """End it *timeout_s* seconds from now, if it lives so long."""
        self._timeout = self._loop.call_later(timeout_s, self._timed_out)

    def abandon(self, cause: str) -> None:
        """Whoever started it is gone: end it, and drop its output."""
        self._pipes.discard()
        self.stop(cause)

    def stop(self, cause: str) -> None:
        """End the process group, TERM first and KILL after GRACE_S. A process that has ended leaves its children."""
        if self.alive:
            self._cause = self._cause or cause
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # one that is stopped could not hear TERM
            self._kill_after(GRACE_S)

    def signal(self, number: int, kill_after_s: float | None = None) -> None:
        """Send a signal to the process group, also to what is left of it when the process itself has ended.

        Args:
            kill_after_s: KILL follows after so many seconds, to all that is left of the group then.

        Raises:
            ExecdError: `request.invalid`, for a number that is no signal, a bad time, or a group we may not signal.
        """
        if not 1 <= number < signal.NSIG:
            raise ExecdError("request.invalid", f"{number} is not a signal")
        if kill_after_s is not None and not kill_after_s >= 0:
            raise ExecdError("request.invalid", f"kill after {kill_after_s} s")
        if not self._signal(number):
            raise ExecdError("request.invalid", f"not allowed to signal process {self.id}, which runs as another user")
        self._told_to_die = self._told_to_die or number in _DEADLY
        if kill_after_s is not None:
            self._kill_after(kill_after_s)

    def kill(self) -> None:
        """Send KILL to the process group now."""
        self._told_to_die = True
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of its pipes and timers."""
        self.stdin.close()
        self._pipes.close()
        for timer in (self._timeout, self._kill):
            if timer is not None:
                timer.cancel()

    # -- inside ----------------------------------------

    def _signal(self, number: int) -> bool:
        if self._group_gone:
            return True
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            # Remembered once the process is reaped: from then on the number may come to belong to somebody else.
            self._group_gone = not self.alive
        except PermissionError:
            log.warning("process %s: not allowed to send signal %d to its group", self.id, number)
            return False
        return True

    def _kill_after(self, delay_s: float) -> None:
        if self._kill is None or self._kill.when() > self._loop.time() + delay_s:
            if self._kill is not None:
                self._kill.cancel()
            # Not cancelled when the process ends: the rest of the group may have ignored TERM.
            self._kill = self._loop.call_later(delay_s, self.kill)

    def _timed_out(self) -> None:
        self._reaper.reap()  # it may have ended by itself in this very moment
        self.stop("timeout")

    def _reaped(self, end: Exit) -> None:
        self._end = end
        finished_at, wall_s = time.time(), self._loop.time() - self._started
        cause = self._cause_of(end)
        if self._timeout is not None:
            self._timeout.cancel()
        self._signal(0)  # is anything left of the group?
        if self._group_gone and self._kill is not None:
            self._kill.cancel()
        self.stdin.close()
        self._pipes.drain(lambda: self._drained(cause, end, finished_at, wall_s))

    def _cause_of(self, end: Exit) -> str:
        if self._cause:
            return self._cause
        if end.signal in _DEADLY and self._told_to_die:
            return "killed"
        if end.exit_code == KILLED_CODE and "memory" in self._limits.hits().since(self._hits_before):
            return "oom"
        return "signal" if end.signal else "exit"

    def _drained(self, cause: str, end: Exit, finished_at: float, wall_s: float) -> None:
        self.finished_at = finished_at
        self.exited = ProcessExited(
            cause=cause,
            exit_code=end.exit_code,
            signal=end.signal,
            cpu_s=end.cpu_s,
            wall_s=wall_s,
            peak_memory_bytes=end.peak_memory_bytes,
            output_bytes=self._pipes.total_bytes,
            limits_hit=self._limits.hits().since(self._hits_before),
        )
        callbacks, self._on_end = self._on_end, []
        for callback in callbacks:
            callback(self.exited)
