"""The reaper: one handler for SIGCHLD, and one callback for each child."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import resource

log = logging.getLogger("execd")


class Exit(NamedTuple):
    """How a child ended."""

    exit_code: int  # 128 + the signal's number if a signal ended the child, as shells report it
    signal: int  # 0: the child exited
    cpu_s: float  # user and system time of the child, and of the children that it waited for
    peak_memory_bytes: int  # of the largest of those processes; at least the size of execd, which exec inherits


LOST = Exit(exit_code=255, signal=0, cpu_s=0.0, peak_memory_bytes=0)  # other code in this process took the status


class Reaper:
    """Waits for children. Create one inside the running event loop.

    As PID 1 it also reaps every orphan of the container. Anywhere else it waits only for the pids that it was given,
    and takes no status from other parts of the same process.
    """

    def __init__(self, *, orphans: bool | None = None) -> None:
        """Begin to wait.

        *orphans*: whether to reap all children, also those that nobody watches. None: if this is PID 1.
        """
        self._orphans = os.getpid() == 1 if orphans is None else orphans
        self._callbacks: dict[int, Callable[[Exit], None]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGCHLD, self.reap)

    def watch(self, pid: int, callback: Callable[[Exit], None]) -> None:
        """Call *callback* once when this child has ended; from the event loop, never from inside this call.

        Call this before the event loop runs again after the spawn. Otherwise PID 1 may have reaped the child as an
        orphan, and the callback gets LOST.
        """
        # The child may have ended before this call, and its SIGCHLD may have been handled.
        exited = _wait(pid)
        if exited is None:
            self._callbacks[pid] = callback
        else:
            self._loop.call_soon(callback, exited)

    def wait(self, pid: int) -> asyncio.Future[Exit]:
        """Return a future of how this child ends. See `watch`. Cancelling stops the wait, not the child."""
        ended: asyncio.Future[Exit] = self._loop.create_future()
        self.watch(pid, lambda exited: None if ended.done() else ended.set_result(exited))
        return ended

    def reap(self) -> None:
        """Take the status of every child that has ended by now, and call the callbacks."""
        if not self._orphans:
            for pid in list(self._callbacks):
                exited = _wait(pid)
                if exited is not None:
                    self._dispatch(pid, exited)
            return
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._dispatch(pid, _exit(status, usage))

    def close(self) -> None:
        """Stop. No callback is called any more."""
        self._loop.remove_signal_handler(signal.SIGCHLD)
        self._callbacks.clear()

    def _dispatch(self, pid: int, exited: Exit) -> None:
        callback = self._callbacks.pop(pid, None)
        if callback is None:
            return  # an orphan
        try:
            callback(exited)
        except Exception:
            # Other children have ended too: go on with them.
            log.exception("the handler of the end of process %d failed", pid)


def _wait(pid: int) -> Exit | None:
    try:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
    except ChildProcessError:
        return LOST
    return _exit(status, usage) if ended else None


def _exit(status: int, usage: resource.struct_rusage) -> Exit:
    code = os.waitstatus_to_exitcode(status)
    number = -code if code < 0 else 0
    return Exit(
        exit_code=128 + number if number else code,
        signal=number,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_memory_bytes=usage.ru_maxrss * 1024,
    )
