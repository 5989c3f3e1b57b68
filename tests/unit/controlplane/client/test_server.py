"""What the client of the API takes from a server that is none, or is hostile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from controlplane.client import server as module
from controlplane.client.answers import NoAnswer, Refused
from controlplane.client.server import Server

KEY = "the-key-of-the-test"


class Stranger(NamedTuple):
    """A server that gives one answer, whatever it is asked."""

    address: str
    asked: list[bytes]


@pytest.fixture
def stranger(request: pytest.FixtureRequest) -> Iterator[Stranger]:
    """A server with the answer of the test's parameter; it repeats its last part until the client leaves."""
    head, endless = request.param
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(65536))
                    try:
                        connection.sendall(head)
                        while endless:
                            connection.sendall(endless)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Stranger(f"http://127.0.0.1:{listener.getsockname()[1]}", asked)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"


@pytest.mark.parametrize("stranger", [(OK + b"[", b"1," * 4096)], indirect=True)
def test_an_answer_without_end(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    """So much of it is read, and it is no answer."""
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 100_000)
    with pytest.raises(NoAnswer):
        Server(stranger.address, KEY).ask("GET", "/v1/sandboxes")


@pytest.mark.parametrize("stranger", [(OK + b"data: [", b"1," * 4096)], indirect=True)
def test_an_event_without_end(stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EVENT_BYTES", 100_000)
    with pytest.raises(NoAnswer):
        list(Server(stranger.address, KEY).events("/v1/sandboxes/x/activity"))


@pytest.mark.parametrize(
    "stranger", [(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/elsewhere\r\n\r\n", b"")], indirect=True
)
def test_a_redirect_does_not_carry_the_key_away(stranger: Stranger) -> None:
    with pytest.raises(Refused, match="302"):
        Server(stranger.address, KEY).ask("GET", "/v1/sandboxes")
    assert len(stranger.asked) == 1


@pytest.mark.parametrize("stranger", [(b"220 mail.example ESMTP\r\n", b""), (b"", b"")], indirect=True)
def test_what_is_no_server(stranger: Stranger) -> None:
    with pytest.raises(NoAnswer, match="does not answer as a Sandlot server does"):
        Server(stranger.address, KEY).ask("GET", "/v1/sandboxes")
    assert not Server(stranger.address, KEY).answers()
