"""Messages to the service manager that started the server, such as systemd: sd_notify(3)."""

from __future__ import annotations

import contextlib
import os
import socket

SOCKET_VARIABLE = "NOTIFY_SOCKET"

# The manager reads at once. One that hangs must not hold up the server.
PATIENCE_S = 1.0

# What a message of the server's life means to the manager, beside the text that it shows.
STATES = {"server.started": "READY=1\n", "server.stopping": "STOPPING=1\n"}


def tell_manager(event: str, line: str) -> None:
    """Tell the service manager what happens, as the status of the service. Do nothing if none has asked for it."""
    address = os.environ.get(SOCKET_VARIABLE, "")
    if not address.startswith(("/", "@")):
        return
    name = f"\0{address[1:]}" if address.startswith("@") else address  # @: in the abstract namespace, unix(7)
    message = f"{STATES.get(event, '')}STATUS={' '.join(line.split())}"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE_S)
        manager.sendto(message.encode(), name)
