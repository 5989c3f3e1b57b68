"""Idle connections are closed by the client and not by the server: the request that comes in that moment would fail."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from controlplane.listener import bounds
from controlplane.listener.serve import ListenerSettings, serving

ASK = """
import inspect
from opensandbox.config import ConnectionConfig, ConnectionConfigSync

for config in (ConnectionConfig, ConnectionConfigSync):
    for way in (config.new_owned_transport, config.with_transport_if_missing):
        if "keepalive_expiry" in inspect.signature(way).parameters:
            print(inspect.signature(way).parameters["keepalive_expiry"].default)
"""


def test_the_official_clients_close_first(sdk: Path) -> None:
    """By their own word."""
    done = subprocess.run([sdk, "-c", ASK], capture_output=True, text=True, check=True)
    expiries = [float(line) for line in done.stdout.split()]
    assert expiries
    assert max(expiries) < bounds.IDLE_S


@pytest.mark.parametrize("idle_s", [1, 1000])
async def test_an_idle_connection_is_closed_in_the_end(idle_s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor of the server's is not for ever; with the bound lifted it would be."""
    monkeypatch.setattr("controlplane.listener.http.IDLE_S", idle_s)

    async def answer(_: object) -> Response:
        return Response("x")

    listening = socket.create_server(("127.0.0.1", 0))
    async with serving(Starlette(routes=[Route("/", answer)]), listening, ListenerSettings(), grace_s=1):
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\nx")
        ended = asyncio.ensure_future(reader.read())
        await asyncio.wait([ended], timeout=10 if idle_s == 1 else 1.5)
        assert ended.done() is (idle_s == 1)
        writer.close()
        await asyncio.wait([ended])
    listening.close()
