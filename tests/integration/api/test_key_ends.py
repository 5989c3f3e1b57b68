"""What a key has open ends with the key, whatever it is: streams, terminals, ports, the native stream."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from controlplane.access.connections import KeyConnections
from controlplane.access.key import Key, Quotas
from controlplane.access.keys import Keys
from tests.support.agent.live_agent import LiveAgent
from tests.support.server.access import fixed_access
from tests.support.server.api_server import API_KEY, SANDBOX_ID, Edge, serving

PATIENCE_S = 20.0


class Server:
    """A server with a real agent, and a key that may use its sandbox."""

    def __init__(self, edge: Edge, keys: Keys, key: Key, text: str) -> None:
        self.edge = edge
        self.headers = {"OPEN-SANDBOX-API-KEY": text}
        self._keys = keys
        self._key = key

    def withdraw(self) -> None:
        """End the key."""
        self._keys.withdraw(self._key.id)

    async def processes(self) -> str:
        """What runs beside the agent."""
        async with self.edge.execd() as client:
            answer = await client.post("/command", json={"command": "ps -e -o args | grep '[s]leep 98765' || true"})
            return answer.text


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    connections = KeyConnections()
    keys = Keys({"key-1": API_KEY}, on_narrowed=connections.end)
    access = replace(fixed_access({}), keys=keys, connections=connections)
    key, text = keys.create("bot", (f"sandbox:{SANDBOX_ID}",), Quotas())
    async with LiveAgent() as agent, serving(agent.link, access=access) as edge:
        yield Server(edge, keys, key, text)


async def until_closed(socket: ClientConnection) -> int:
    """Read a WebSocket to its end; return the code with which it was closed."""
    async with asyncio.timeout(PATIENCE_S):
        try:
            while True:
                await socket.recv()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 0


@pytest.mark.attack(
    "edge",
    "a command that never ends, a terminal and a stream go on after their key was withdrawn",
    "they end at once, with the processes that their clients waited for",
)
async def test_streams_end_with_their_key(server: Server) -> None:
    """Events break off and the command ends; sockets are closed with 1008. The log has no crash."""
    url = f"{server.edge.url}/v1/sandboxes/{SANDBOX_ID}"
    base, sockets = f"{url}/proxy/44772", url.replace("http", "ws")
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(headers=server.headers, timeout=PATIENCE_S))
        terminal = (await client.post(f"{base}/pty")).json()["session_id"]
        opened = [
            await stack.enter_async_context(connect(place, additional_headers=server.headers, proxy=None))
            for place in (f"{sockets}/stream", f"{sockets}/proxy/44772/pty/{terminal}/ws")
        ]
        stream = client.stream("POST", f"{base}/command", json={"command": "echo begun; exec sleep 98765"})
        response = await stack.enter_async_context(stream)
        pieces = response.aiter_raw()
        while b"begun" not in await anext(pieces):
            pass
        assert "sleep 98765" in await server.processes()
        with capture_logs() as logged:
            server.withdraw()
            assert [await until_closed(socket) for socket in opened] == [1008, 1008]
            with pytest.raises(httpx.RemoteProtocolError):
                await read_on(pieces)
            assert (await client.get(f"{base}/ping")).status_code == 401
        assert "request.crashed" not in {event["event"] for event in logged}
    async with asyncio.timeout(PATIENCE_S):
        while "sleep 98765" in await server.processes():  # noqa: ASYNC110 - a process has no event
            await asyncio.sleep(0.05)


async def read_on(pieces: AsyncIterator[bytes]) -> None:
    """Read an answer to its end."""
    async for _ in pieces:
        pass


async def test_an_answer_that_breaks_off_on_purpose_is_no_error_in_the_log(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The audit log and the access log tell what happened."""
    base = f"{server.edge.url}/v1/sandboxes/{SANDBOX_ID}/proxy/44772"
    async with httpx.AsyncClient(headers=server.headers, timeout=PATIENCE_S) as client:
        with caplog.at_level(logging.ERROR):
            async with client.stream("GET", f"{base}/metrics/watch") as response:
                pieces = response.aiter_raw()
                await anext(pieces)
                server.withdraw()
                with pytest.raises(httpx.RemoteProtocolError):
                    await read_on(pieces)
        assert caplog.records == []
