"""One process: its life from spawn to end, and the cause of its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Protocol

from execd.errors import ExecdError
from execd.process.limits import KILLED_CODE, Limits
from execd.process.output import Output
from execd.process.pipes import InputPipe, OutputPipes, Sink, keep_in, nowhere
from execd.process.reap import Exit, Reaper
from execd.process.spawn import Child
from execd.wire.frames import Channel
from execd.wire.messages import MAX_COMMAND_CHARS, ProcessExited, ProcessState

log = logging.getLogger("execd")

GRACE_S = 2.0  # between TERM and KILL

_DEADLY = (signal.SIGTERM, signal.SIGKILL)


class Witness(Protocol):
    """What a process tells its output and its end to, where no client reads them as they come."""

    def output(self, data: bytes, channel: int = ..., /) -> None:
        """Take a piece of output. *channel* is one of wire's; stdout if that is not said."""

    def ended(self, exited: ProcessExited) -> None:
        """Take the end."""


# Returns the witness of a process by its id, which is also told its number; None: it has none.
Witnesses = Callable[[str, int], Witness | None]


def no_witness(_process_id: str, _pid: int) -> None:
    """Return no witness."""


class Process:
    """A process that was spawned. The object is kept while a client may ask about the process.

    The process does not depend on the request that started it. Reading begins with `resume()`.
    """

    def __init__(
        self,
        process_id: str,
        command: str,
        child: Child,
        *,
        reaper: Reaper,
        limits: Limits,
        sink: Sink | None,
        witness: Witness | None = None,
    ) -> None:
        """Take over a fresh child. Call this before the event loop runs again.

        Args:
            sink: Takes the output as it comes. None: the output is kept in `output`, and told to the witness.
            witness: Is also told of the end.
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
            sink = late_sink = keep_in(self.output, None if witness is None else witness.output)
        pipes = {child.stdout: Channel.STDOUT, child.stderr: Channel.STDERR}
        self._pipes = OutputPipes({fd: pipes[fd] for fd in pipes if fd >= 0}, sink, late_sink=late_sink)
        # How the process itself ended; `exited` is set when its output has been delivered.
        self._end: Exit | None = None
        self.notice = ""  # for the receipt
        self._cause = ""  # timeout, killed or link_lost, if execd ended the process
        self._told_to_die = False  # whether a client has sent a deadly signal
        self._timeout: asyncio.TimerHandle | None = None
        self._kill: asyncio.TimerHandle | None = None
        self._group_gone = False
        self._on_end: list[Callable[[ProcessExited], None]] = [] if witness is None else [witness.ended]
        reaper.watch(child.pid, self._reaped)

    @property
    def alive(self) -> bool:
        """Whether the process itself, the leader of its group, has not ended yet."""
        return self._end is None

    def state(self, output_start: int = 0, output_end: int | None = None) -> ProcessState:
        """Return the state of the process, for the control plane."""
        return ProcessState(
            id=self.id,
            command=self.command,
            pid=self.pid,
            started_at=self.started_at,
            finished_at=self.finished_at,
            exited=self.exited,
            output_start=output_start,
            output_end=output_end if output_end is not None else self.output.end if self.output else 0,
        )

    def resume(self) -> None:
        """Start or continue to read the output."""
        self._pipes.resume()

    def on_end(self, callback: Callable[[ProcessExited], None]) -> None:
        """Call *callback* once it is known how the process ended; at once if it is known already."""
        if self.exited is None:
            self._on_end.append(callback)
        else:
            callback(self.exited)

    async def wait(self) -> ProcessExited:
        """Return how the process ended. Cancelling stops the wait, not the process."""
        ended: asyncio.Future[ProcessExited] = self._loop.create_future()
        self.on_end(lambda exited: None if ended.done() else ended.set_result(exited))
        return await ended

    # -- how a process is ended

    def limit(self, timeout_s: float) -> None:
        """End the process *timeout_s* seconds from now, unless it ends earlier."""
        self._timeout = self._loop.call_later(timeout_s, self._timed_out)

    def abandon(self, cause: str) -> None:
        """End the process and drop its output: the client that started it is gone."""
        self._pipes.discard()
        self.stop(cause)

    def stop(self, cause: str) -> None:
        """End the process group: TERM first, KILL after GRACE_S. Do nothing if the process itself has ended."""
        if self.alive:
            self._cause = self._cause or cause
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # a stopped process would not notice TERM
            self._kill_after(GRACE_S)

    def signal(self, number: int, kill_after_s: float | None = None) -> None:
        """Send a signal to the process group, or to what is left of it if the process itself has ended.

        Args:
            kill_after_s: Send KILL after so many seconds, to everything that is left of the group then.

        Raises:
            ExecdError: `request.invalid`: the number is not a signal, the time is negative, or the kernel does not
                permit execd to signal the group.
        """
        if not 1 <= number < signal.NSIG:
            raise ExecdError("request.invalid", f"{number} is not a signal")
        if kill_after_s is not None and not kill_after_s >= 0:
            raise ExecdError("request.invalid", f"kill_after_s is {kill_after_s}: it must not be negative")
        if not self._signal(number):
            raise ExecdError("request.invalid", f"execd may not signal process {self.id}, which runs as another user")
        self._told_to_die = self._told_to_die or number in _DEADLY
        if kill_after_s is not None:
            self._kill_after(kill_after_s)

    def kill(self) -> None:
        """Send KILL to the process group now."""
        self._told_to_die = True
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Close the pipes and stop the timers."""
        self.stdin.close()
        self._pipes.close()
        for timer in (self._timeout, self._kill):
            if timer is not None:
                timer.cancel()

    # -- inside

    def _signal(self, number: int) -> bool:
        if self._group_gone:
            return True
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            # Remembered once the process is reaped: from then on another process may get the number.
            self._group_gone = not self.alive
        except PermissionError:
            log.warning("execd may not send the process group of %s signal %d", self.id, number)
            return False
        return True

    def _kill_after(self, delay_s: float) -> None:
        if self._kill is None or self._kill.when() > self._loop.time() + delay_s:
            if self._kill is not None:
                self._kill.cancel()
            # Not cancelled when the process ends: the rest of the group may have ignored TERM.
            self._kill = self._loop.call_later(delay_s, self.kill)

    def _timed_out(self) -> None:
        self._reaper.reap()  # the process may have ended by itself in this very moment
        self.stop("timeout")

    def _reaped(self, end: Exit) -> None:
        self._end = end
        finished_at, wall_s = time.time(), self._loop.time() - self._started
        cause = self._cause_of(end)
        if self._timeout is not None:
            self._timeout.cancel()
        self._signal(0)  # find out whether anything is left of the group
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
            notice=self.notice,
        )
        callbacks, self._on_end = self._on_end, []
        for callback in callbacks:
            callback(self.exited)
