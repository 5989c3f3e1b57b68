"""The copies of a context: one fork, after which the two processes are independent."""

from __future__ import annotations

import os
import socket
import threading

from IPython.core import async_helpers

from sandlot_python.channel import Channel, Interrupts


class NotForkable(Exception):
    """This process cannot be copied now. The message says why."""


def check_forkable() -> None:
    """Check that nothing runs beside the code of runs: a copy would not have it. Raises NotForkable."""
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if others:
        raise NotForkable(f"it has other threads: {', '.join(others[:5])}")
    if native_threads() > 1:
        end_pools()
        if (count := native_threads()) > 1:
            raise NotForkable(f"it has {count - 1} other thread(s), started by native code")
    loop = async_helpers._asyncio_event_loop
    if loop is None:
        return
    import asyncio

    if tasks := asyncio.all_tasks(loop):
        raise NotForkable(f"it has {len(tasks)} task(s) that go on when code awaits")


def fork() -> int:
    """Fork. Return the copy's process id, and 0 in the copy. The copy is an orphan from the start: execd waits for it.

    Raises:
        OSError: Another process cannot be started.
    """
    reading, writing = os.pipe()
    try:
        between = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        raise
    if between:
        os.close(writing)
        pid = _read_all(reading)
        os.close(reading)
        os.waitpid(between, 0)
        if not pid:
            raise ChildProcessError("another process cannot be started")
        return int(pid)
    try:
        os.close(reading)
        pid = os.fork()
    except BaseException:
        os._exit(1)
    if pid:
        os.write(writing, b"%d" % pid)
        os._exit(0)
    os.close(writing)
    return 0


def take_over(fds: list[int], interrupts: Interrupts) -> Channel:
    """Make channel, stdin, stdout and stderr of a new process its own, and give it a session."""
    os.setsid()
    channel_fd, *streams = fds
    for target, fd in enumerate(streams):
        os.dup2(fd, target)
        os.close(fd)
    return Channel(socket.socket(fileno=channel_fd), interrupts)


def forget_loop() -> None:
    """Give a copy an event loop of its own. The old loop stays untouched, because the original uses its epoll."""
    _old_loops.append(async_helpers._asyncio_event_loop)
    async_helpers._asyncio_event_loop = None


# An old loop that is collected would close itself, and remove the original's descriptors from the epoll.
_old_loops: list[object] = []


def native_threads() -> int:
    """Return the number of threads of this process, as the kernel counts them."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def end_pools() -> None:
    """Fork once. This ends the threads of libraries that prepare for forks, such as OpenBLAS; they start again."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _read_all(fd: int) -> bytes:
    data = b""
    while piece := os.read(fd, 64):
        data += piece
    return data
