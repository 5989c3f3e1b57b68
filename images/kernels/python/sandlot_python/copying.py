"""A context copies itself: one fork, after which each of the two goes its own way."""

from __future__ import annotations

import asyncio
import os
import socket
import threading

from IPython.core import async_helpers

from sandlot_python.channel import Channel, Interrupts


class NotForkable(Exception):
    """This process cannot be copied now; the message says why."""


def check_forkable() -> None:
    """Raises NotForkable: something goes on beside the code of runs, which a copy would not have."""
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if others:
        raise NotForkable(f"it has other threads: {', '.join(others[:5])}")
    if native_threads() > 1:
        end_pools()
        if (count := native_threads()) > 1:
            raise NotForkable(f"it has {count - 1} other thread(s), started by native code")
    loop = async_helpers._asyncio_event_loop
    if loop is not None and (tasks := asyncio.all_tasks(loop)):
        raise NotForkable(f"it has {len(tasks)} task(s) that go on when code awaits")


def fork() -> int:
    """Return the copy's process id, and 0 in the copy. It is an orphan from birth: execd waits for it, not we.

    Raises:
        OSError: there is no room for another process.
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
            raise ChildProcessError("there is no room for another process")
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
    """In a new process: make channel, stdin, stdout and stderr its own, and its session too."""
    os.setsid()
    channel_fd, *streams = fds
    for target, fd in enumerate(streams):
        os.dup2(fd, target)
        os.close(fd)
    return Channel(socket.socket(fileno=channel_fd), interrupts)


def forget_loop() -> None:
    """In a copy: have an event loop of its own. The old one stays untouched: its epoll is the original's as well."""
    _old_loops.append(async_helpers._asyncio_event_loop)
    async_helpers._asyncio_event_loop = None


_old_loops: list[object] = []  # collected, one would close itself, and take the original's descriptors out of the epoll


def native_threads() -> int:
    """Return how many threads this process has, as the kernel sees it."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def end_pools() -> None:
    """Fork once: that ends the threads of libraries which prepare for forks, as OpenBLAS does; they start again."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _read_all(fd: int) -> bytes:
    data = b""
    while piece := os.read(fd, 64):
        data += piece
    return data
