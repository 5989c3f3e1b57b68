"""Protection of this process from every other process of the sandbox."""

from __future__ import annotations

import _ctypes
import os

_SET_DUMPABLE = 4  # see prctl(2)


def forbid_tracing() -> None:
    """Forbid other processes to trace this process, and to read or write its memory, descriptors and files in /proc.

    The kernel then refuses root as well, because no process of a sandbox has CAP_SYS_PTRACE over the host's user
    namespace. A program that is executed later may be traced again. The files of this process in /proc belong to root
    from now on, so open those that execd has to write before this call.

    Raises:
        OSError: The kernel refuses. A process that serves a sandbox must not go on.
    """
    # Without the package around it: the package takes a megabyte, this module 64 KiB.
    prctl = _ctypes.dlsym(_ctypes.dlopen(None, os.RTLD_NOW), "prctl")  # type: ignore[arg-type]  # None: the program itself
    if _ctypes.call_function(prctl, (_SET_DUMPABLE, 0, 0, 0, 0)) != 0:
        raise OSError("prctl(PR_SET_DUMPABLE) failed: other processes could take over this process")
