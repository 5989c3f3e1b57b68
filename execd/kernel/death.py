"""What is reported when a run is over: its receipt, its cause, and how the runner ended if that was the end of both."""

from __future__ import annotations

import signal
import time
from typing import Any, NamedTuple

from execd.kernel.run import Run
from execd.kernel.runner.channel import RunDone
from execd.kernel.runner.process import Ending, Runner
from execd.kernel.usage import Usage
from execd.process.limits import KILLED_CODE, Limits
from execd.process.parents import parent_of
from execd.wire.messages import ContextDone

MAX_REASON_CHARS = 1000  # of the reason why a context is gone


class Gone(Exception):
    """The runner cannot be used any more. The message says why."""


class Death(NamedTuple):
    """How a runner ended."""

    cause: str  # killed, protocol, exit, signal, oom
    exit_code: int  # as shells report it


class Tally:
    """What the present run has used, and which limits of the container were met since it began."""

    def __init__(self, limits: Limits) -> None:
        """Begin to watch the limits. *limits* counts them."""
        self._limits = limits
        self._hits_before = limits.hits()
        self._usage = Usage(0)
        self._began = time.monotonic()

    def watch(self, runner: Runner, code_pid: int) -> None:
        """Measure the process that runs the code: *code_pid*, if that is a child of the runner's process."""
        is_child = bool(code_pid) and parent_of(code_pid) == runner.pid
        self._usage = Usage(code_pid if is_child else runner.code_pid)

    def begin(self) -> None:
        """Begin with a new run."""
        self._hits_before = self._limits.hits()
        self._usage.begin()
        self._began = time.monotonic()

    def limits_met(self) -> tuple[str, ...]:
        """Return the names of the limits that were met since the run began."""
        return self._limits.hits().since(self._hits_before)

    def receipt(self, run: Run, done: RunDone) -> ContextDone:
        """Return the receipt of a run whose end the runner has reported."""
        return self._receipt(
            run,
            self._cause_of(run, done),
            peak_bytes=done.peak_memory_bytes,
            execution_count=done.count,
            exit_code=done.exit_code,
        )

    def last_receipt(self, run: Run, gone: Gone, runner: Runner, death: Death) -> ContextDone:
        """Return the receipt of a run that ended because the runner is gone."""
        # The usage of the runner's whole life counts only if the runner's process ran the code, and not a child of it.
        is_known = self._usage.pid == runner.pid and runner.ended.done()
        life = runner.ended.result() if is_known else Ending(0)
        return self._receipt(
            run,
            "timeout" if run.timed_out else "died",
            life_s=life.cpu_s,
            peak_bytes=life.peak_memory_bytes,
            message=str(gone)[:MAX_REASON_CHARS],
            died_of=death.cause,
            exit_code=death.exit_code,
        )

    def death_of(self, runner: Runner, *, is_killed: bool) -> Death:
        """Return how a runner ended. *is_killed* tells whether execd has killed the runner."""
        if is_killed:
            return Death("killed", KILLED_CODE)
        if not runner.ended.done():
            return Death("protocol", 0)
        code = runner.ended.result().code
        if code >= 0:
            return Death("exit", code)
        is_oom = code == -signal.SIGKILL and "memory" in self.limits_met()
        return Death("oom" if is_oom else "signal", 128 - code)

    def _cause_of(self, run: Run, done: RunDone) -> str:
        if done.status == "ok":
            return "ok"
        if run.timed_out:
            return "timeout"
        # A program that the code ran was killed, and the code ended with it.
        if done.exit_code == KILLED_CODE and "memory" in self.limits_met():
            return "oom"
        return "interrupted" if run.interrupted else done.status

    def _receipt(self, run: Run, cause: str, *, life_s: float = 0.0, peak_bytes: int = 0, **more: Any) -> ContextDone:
        return ContextDone(
            cause,
            wall_s=time.monotonic() - self._began,
            cpu_s=self._usage.cpu_s(life_s),
            peak_memory_bytes=max(self._usage.peak_memory_bytes(), peak_bytes),
            output_bytes=run.output_bytes,
            limits_hit=self.limits_met(),
            notice=run.notice,
            **more,
        )


def describe(runner: Runner, death: Death) -> str:
    """Return the reason why a context is gone, in words for its client."""
    if not runner.ended.done():
        return "its process is gone, or has closed the channel to execd"
    suffix = ": the sandbox was out of memory" if death.cause == "oom" else ""
    return f"its process {runner.ended.result()}{suffix}"
