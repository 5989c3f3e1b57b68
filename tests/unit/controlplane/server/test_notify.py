"""What the service manager hears: when the server serves, what it is doing, and that it stops."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.server.notify import SOCKET_VARIABLE, tell_manager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A manager's socket, whose address the server finds in its environment."""
    named = f"@sandlot-{secrets.token_hex(8)}" if request.param == "abstract" else f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(named.replace("@", "\0"))
        listening.settimeout(0)
        monkeypatch.setenv(SOCKET_VARIABLE, named)
        yield listening


def test_what_the_manager_hears(manager: socket.socket) -> None:
    """READY only when sandboxes can start; a status is one line, because a line ends a message's field."""
    tell_manager("server.listening", "Sandlot listens")
    tell_manager("server.started", "Sandlot listens")
    tell_manager("server.not_ready", "not ready: one\ntwo\nREADY=1")
    tell_manager("server.stopping", "stopping")
    heard = [manager.recv(4096).decode() for _ in range(4)]
    assert heard == [
        "STATUS=Sandlot listens",
        "READY=1\nSTATUS=Sandlot listens",
        "STATUS=not ready: one two READY=1",
        "STOPPING=1\nSTATUS=stopping",
    ]


@pytest.mark.parametrize("address", ["", "relative", "/no/such/socket", "@nobody"])
def test_nobody_listens(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable, a bad one, or a manager that has gone: the server goes on."""
    monkeypatch.setenv(SOCKET_VARIABLE, address)
    tell_manager("server.listening", "Sandlot listens")


def test_a_manager_that_hangs(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its full queue holds the server up for no longer than the patience."""
    monkeypatch.setattr("controlplane.server.notify.PATIENCE_S", 0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.connect(manager.getsockname())
        other.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while other.send(b"x"):
                pass
    tell_manager("server.ready", "ready")
    heard = set()
    with contextlib.suppress(BlockingIOError):
        while True:
            heard.add(manager.recv(4096))
    assert heard == {b"x"}
