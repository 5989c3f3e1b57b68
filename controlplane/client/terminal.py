"""The user's own terminal: raw mode, its size, the keys that leave a shell, and standard streams without blocking."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import termios
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NamedTuple

READ_BYTES = 32 << 10
# A pipe that `select` calls writable takes this much at once.
WRITE_BYTES = select.PIPE_BUF

CTRL_P, CTRL_Q = 0x10, 0x11


class Keys(NamedTuple):
    """What was typed: the bytes that are meant for the shell, and whether the user leaves."""

    data: bytes
    is_leaving: bool


class Escapes:
    """Finds the keys that leave a shell: Ctrl-P Ctrl-Q, and `~.` at the beginning of a line."""

    def __init__(self) -> None:
        self._held = b""  # the first of two keys, which the shell gets when the second one is another
        self._is_line_begin = True

    def take(self, typed: bytes) -> Keys:
        """Take what was typed."""
        passed = bytearray()
        for number in typed:
            if (self._held, number) in ((b"\x10", CTRL_Q), (b"~", ord("."))):
                return Keys(bytes(passed), is_leaving=True)
            if self._held:
                passed += self._held
                self._is_line_begin = False
                is_tilde, self._held = self._held == b"~", b""
                if is_tilde and number == ord("~"):  # `~~` is one tilde, as with other programs that have this key
                    continue
            if number == CTRL_P or (number == ord("~") and self._is_line_begin):
                self._held = bytes((number,))
                continue
            passed.append(number)
            self._is_line_begin = number in b"\r\n\x03\x04\x15"
        return Keys(bytes(passed), is_leaving=False)


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """Have every key for the block, as it is typed."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)  # what was typed ahead stays
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def window_size(fd: int) -> tuple[int, int]:
    """Return columns and rows of a terminal."""
    try:
        found = os.get_terminal_size(fd)
    except OSError:
        return 80, 24
    return max(1, found.columns), max(1, found.lines)


async def read_input(fd: int) -> AsyncIterator[bytes]:
    """Yield what can be read of a descriptor until its end, without blocking the loop."""
    loop = asyncio.get_running_loop()
    while True:
        await _ready(lambda call: loop.add_reader(fd, call), lambda: loop.remove_reader(fd))
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            continue
        except OSError:  # a terminal that was hung up
            return
        if not data:
            return
        yield data


async def write_output(fd: int, data: bytes) -> None:
    """Write all of *data* to a descriptor, without blocking the loop. Raises OSError."""
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    while view:
        is_watched = await _ready(lambda call: loop.add_writer(fd, call), lambda: loop.remove_writer(fd))
        try:
            view = view[os.write(fd, view[:WRITE_BYTES] if is_watched else view) :]
        except BlockingIOError:
            continue


async def _ready(add: Callable[[Callable[[], None]], None], remove: Callable[[], object]) -> bool:
    """Wait until a descriptor is ready. Return False at once for a regular file, which cannot be watched."""
    ready = asyncio.Event()
    try:
        add(ready.set)
    except PermissionError:
        return False
    try:
        await ready.wait()
    finally:
        remove()
    return True
