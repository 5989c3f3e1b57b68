"""The peer of a Unix socket, as the kernel identifies it."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7), SO_PEERCRED)


def peer_pid(connection: socket.socket) -> int:
    """Return the id of the process that connected, in the server's pid namespace; 0 if it has none there."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return 0
    pid: int = _CREDENTIALS.unpack(raw)[0]
    return pid


def is_init_of(pid: int, container_id: str, proc: Path = Path("/proc")) -> bool:
    """Return whether *pid* is process 1 of that container.

    Any process in a sandbox can reach the socket. Only execd is process 1 there, so user code cannot pose as execd.
    """
    if pid <= 0 or not container_id:
        return False
    try:
        status = _status(proc, pid)
        # In a namespace that user code has created inside, another process is number 1 as well; but the parent of
        # that process is in the container, while execd's parent is the engine.
        return (
            status.get("NSpid", ["0"])[-1] == "1"
            and len(status["NSpid"]) > 1
            and _is_inside(proc, pid, container_id)
            and not _is_inside(proc, int(status["PPid"][0]), container_id)
        )
    except (OSError, KeyError, ValueError, IndexError):
        return False


def _status(proc: Path, pid: int) -> dict[str, list[str]]:
    lines = (proc / str(pid) / "status").read_text(errors="replace").splitlines()
    return {name: text.split() for name, _, text in (line.partition(":") for line in lines)}


def _is_inside(proc: Path, pid: int, container_id: str) -> bool:
    return pid > 0 and container_id in (proc / str(pid) / "cgroup").read_text(errors="replace")
