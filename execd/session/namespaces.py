"""System calls on namespaces, for which this Python has no functions.

They are for processes other than execd: a call changes its caller, and ctypes takes a megabyte.
"""

from __future__ import annotations

import ctypes
import fcntl
import os

NEW_USER = 0x10000000
NEW_MOUNT = 0x00020000

MS_BIND = 4096
MS_REC = 16384

_JOINED = ("pid", "net", "ipc", "uts", "mnt")  # a pid namespace takes effect in children
_NS_GET_USERNS = 0xB701  # see ioctl_ns(2)
_CAPABILITY_VERSION_3 = 0x20080522  # see capset(2)

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Call unshare(2). Raises OSError."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Call mount(2). Raises OSError."""
    arguments = (os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _check(_libc.mount(*arguments), f"mount {kind or source} on {target}")


def join(pid: int) -> None:
    """Enter all namespaces of a process. Raises OSError."""
    paths = {name: f"/proc/{pid}/ns/{name}" for name in (*_JOINED, "user")}
    found = {name: os.open(path, os.O_RDONLY) for name, path in paths.items() if os.path.exists(path)}
    # First enter the user namespace that owns the others, which gives the right to enter them. The process itself may
    # be in a user namespace below it.
    owner = fcntl.ioctl(found["mnt"], _NS_GET_USERNS)
    _enter(owner)
    for name in _JOINED:
        if name in found and not _are_same(found[name], f"/proc/self/ns/{name}"):
            _enter(found[name])
    if not os.path.sameopenfile(owner, found["user"]):
        _enter(found["user"])
    for fd in (owner, *found.values()):
        os.close(fd)


def give_up_capabilities() -> None:
    """Give up all capabilities. Raises OSError."""
    header, nothing = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _check(_libc.capset(header, nothing), "capset")


def map_ourselves() -> None:
    """Map the present user and group to themselves in a new user namespace. Raises OSError."""
    for name, text in (
        ("setgroups", "deny"),  # required before a group may be mapped
        ("uid_map", f"{_ids[0]} {_ids[0]} 1"),
        ("gid_map", f"{_ids[1]} {_ids[1]} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


_ids = (os.geteuid(), os.getegid())  # read before a new namespace hides them


def _are_same(fd: int, path: str) -> bool:
    return os.path.samestat(os.fstat(fd), os.stat(path))


def _enter(fd: int) -> None:
    _check(_libc.setns(fd, 0), "setns")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
