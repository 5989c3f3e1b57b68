"""The TCP sockets of the sandbox, as the kernel lists them: ports at which programs listen, and connections."""

from __future__ import annotations

import socket
from typing import NamedTuple

from execd.wire.messages import MAX_PORTS, ListeningPort

MAX_TABLE_BYTES = 2 << 20  # of one table of the kernel; about 13,000 sockets

_ESTABLISHED, _LISTENING = "01", "0A"  # include/net/tcp_states.h


class Sockets(NamedTuple):
    """The ports, each address once, by number; and the number of established connections."""

    ports: tuple[ListeningPort, ...]
    connections: int


def read_sockets(root: str = "") -> Sockets | None:
    """Return the sockets of this network namespace; None if the kernel does not tell.

    *root* is the directory of /proc.
    """
    tables = [table for name in ("tcp", "tcp6") if (table := _read(f"{root}/proc/net/{name}")) is not None]
    if not tables:
        return None
    ports: set[tuple[int, str]] = set()
    connections = 0
    for line in (line for table in tables for line in table.splitlines()[1:]):
        fields = line.split(None, 4)
        if len(fields) < 5:
            continue  # the last line of a table that is too long
        if fields[3] == _ESTABLISHED:
            connections += 1
        elif fields[3] == _LISTENING and (found := _address(fields[1])) is not None:
            ports.add(found)
    listed = tuple(ListeningPort(port, address) for port, address in sorted(ports))
    return Sockets(listed[:MAX_PORTS], connections)


def _address(text: str) -> tuple[int, str] | None:
    """Return port and address of `0100007F:1F90`: words of four bytes in the machine's order, here little-endian."""
    address, _, port = text.partition(":")
    try:
        raw = bytes.fromhex(address)
        number = int(port, 16)
        swapped = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
        return number, socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, swapped)
    except (ValueError, OSError):
        return None


def _read(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_TABLE_BYTES).decode("ascii", "replace")
    except OSError:
        return None
