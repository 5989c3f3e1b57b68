"""Locks on what is being changed: two changes of one file follow each other, whichever process makes them.

Several processes change a file: execd, and its deputies for other users and for isolated sessions. So a lock has two
parts. Between the requests of one process it is an asyncio.Lock. Between processes it is a lock on one byte of a file
in memory, which each process has opened for itself (open file description locks, fcntl(2)). The byte's offset is the
key: a checksum of what is locked. Two things with the same key only wait for each other.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import AsyncIterator, Iterable
from weakref import WeakValueDictionary

# The longest wait for a lock of another process. User code that has taken over a lock must not stop the others for
# ever.
PATIENCE_S = 60.0
_RETRY_S = 0.002
_MOST_RETRY_S = 0.05
_FILES = 1 << 32  # keys of files follow those of names, so that all locks are taken in one order


class Locks:
    """The locks of one process. `share()` gives another process access to the same locks."""

    def __init__(self, descriptor: int = -1) -> None:
        """Take the descriptor from `share()` of another process. -1: create the locks when they are first needed."""
        self._descriptor = descriptor if descriptor >= 0 else os.memfd_create("locks", os.MFD_CLOEXEC)
        self._locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    def share(self) -> int:
        """Return a new descriptor for another process. The caller closes it. Raises OSError."""
        # A duplicate would be the same open file description, whose locks do not exclude each other.
        return os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDWR | os.O_CLOEXEC)

    @contextlib.asynccontextmanager
    async def hold(self, keys: Iterable[int]) -> AsyncIterator[None]:
        """Hold the locks of some keys while the block runs.

        Raises:
            OSError: EBUSY: another process has held one of them for too long.
        """
        async with contextlib.AsyncExitStack() as stack:
            for key in sorted(set(keys)):  # always in one order, so that no two requests wait for each other
                await stack.enter_async_context(self._hold(key))
            yield

    @contextlib.asynccontextmanager
    async def hold_file(self, directory: int, name: str) -> AsyncIterator[None]:
        """Let nobody else change a file while the block runs.

        *name* is its name in an open directory. Its other names are locked as well.
        """
        async with self.hold([name_key(os.fstat(directory), name)]):
            try:
                found = os.stat(name, dir_fd=directory)
            except OSError:
                yield
                return
            async with self.hold([_FILES + _checksum(found, "")]):
                yield

    @contextlib.asynccontextmanager
    async def _hold(self, key: int) -> AsyncIterator[None]:
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            await self._take(key)
            try:
                yield
            finally:
                self._set(fcntl.F_UNLCK, key)

    async def _take(self, key: int) -> None:
        wait_s, give_up_at = _RETRY_S, time.monotonic() + PATIENCE_S
        while True:
            try:
                self._set(fcntl.F_WRLCK, key)
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    raise OSError(errno.EBUSY, "another process is changing it; try again later") from None
            else:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _MOST_RETRY_S)

    def _set(self, kind: int, key: int) -> None:
        # struct flock of Linux with 64 bits. The process id of these locks is 0.
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, key, 1, 0))


def name_key(directory: os.stat_result, name: str) -> int:
    """Return the key of a name in a directory."""
    return _checksum(directory, name)


def path_key(path: str) -> int:
    """Return the key of an absolute path, as far as its directories exist. Symlinks are not followed."""
    parent, name = os.path.split(path)
    while True:
        try:
            return name_key(os.stat(parent), name)
        except OSError:
            if parent == "/":
                raise
            parent, above = os.path.split(parent)
            name = f"{above}/{name}"


def _checksum(found: os.stat_result, name: str) -> int:
    return binascii.crc32(b"%d:%d:%s" % (found.st_dev, found.st_ino, os.fsencode(name)))
