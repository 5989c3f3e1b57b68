"""The application before a control plane of the tests, with or without a socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import prometheus_client
from starlette.types import ASGIApp
from websockets.asyncio.client import ClientConnection, connect

from controlplane.access.key import Quotas
from controlplane.access.scopes import Caller, caller_of_key
from controlplane.api.app import ApiSettings, Operator, make_app
from controlplane.api.server.messages import encode
from controlplane.api.server.schema import CheckView
from controlplane.lifecycle.events.bus import Bus
from controlplane.listener.serve import ListenerSettings, make_server
from controlplane.server.composition import ControlPlane
from controlplane.settings.sections import Settings
from tests.support.fakes.driver import FakeDriver
from tests.support.fakes.engine import FakeEngine
from tests.support.server.control_plane import PATIENCE_S, Home


@contextlib.asynccontextmanager
async def served(plane: ControlPlane) -> AsyncIterator[str]:
    """Serve *plane* over HTTP; yield its host and port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(application(plane), ListenerSettings(), grace_s=1)
    await server.startup(sockets=[listener])
    try:
        yield "{}:{}".format(*listener.getsockname())
    finally:
        await server.shutdown(sockets=[listener])


def application(plane: ControlPlane) -> ASGIApp:
    """Return the application of *plane*, with the settings that the API has by default."""
    return make_app(
        sandboxes=plane.sandboxes,
        pauses=plane.pauses,
        snapshots=plane.snapshots,
        registry=plane.registry,
        relay=plane.relay,
        activities=plane.activities,
        records=plane.records,
        credentials=plane.credentials,
        access=plane.access,
        settings=ApiSettings(),
        metrics_registry=prometheus_client.CollectorRegistry(),
        is_ready=lambda: True,
        operator=operator_of(
            bus=plane.events.bus, pools=plane.events.pools, driver=plane.driver, settings=plane.settings
        ),
    )


async def _check() -> list[CheckView]:
    usual = {"is_advice": False, "skipped": False}
    return [
        CheckView(name="disk", ok=True, message="9 GB free", cure="", **usual),
        CheckView(name="images", ok=False, message="missing: sandlot/go", cure="`make images`", **usual),
    ]


def operator_of(**changes: Any) -> Operator:
    """Return a server's parts, on an engine in memory and with two checks, one of which fails."""
    return Operator(
        **{
            "bus": Bus(encode),
            "pools": list,
            "settings": Settings(),
            "driver": FakeDriver(FakeEngine()),
            "check": _check,
            **changes,
        }
    )


Said = dict[str, Any]


class Ears:
    """One client of the events."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def next(self) -> Said:
        """Return the next message, whatever it is."""
        async with asyncio.timeout(PATIENCE_S):
            said: Said = json.loads(await self.socket.recv())
            return said

    async def until(self, kind: str, **fields: object) -> Said:
        """Return the next message of a kind with these fields; drop what comes before."""
        while True:
            said = await self.next()
            if said["type"] == kind and fields.items() <= said.items():
                return said


@contextlib.asynccontextmanager
async def listen_at(address: str, key: str = "", query: str = "") -> AsyncIterator[Ears]:
    """Listen to the events of a server, after the hello."""
    headers = {"OPEN-SANDBOX-API-KEY": key} if key else {}
    url = f"ws://{address}/v1/events{query}"
    async with connect(url, additional_headers=headers, proxy=None, open_timeout=PATIENCE_S) as socket_:
        ears = Ears(socket_)
        assert (await ears.next())["type"] == "hello"
        yield ears


class World:
    """A server, and keys for it."""

    def __init__(self, home: Home, plane: ControlPlane, address: str, stack: contextlib.AsyncExitStack) -> None:
        self.home = home
        self.plane = plane
        self.address = address
        self._stack = stack
        self.admin = self.key("root", "admin")

    def key(self, name: str, *scopes: str) -> str:
        """Make a key; return its text."""
        return self.plane.access.keys.create(name, scopes, Quotas())[1]

    def caller(self, name: str) -> Caller:
        """Return the caller that a key stands for."""
        return caller_of_key(self.plane.access.keys.find(name))

    def client(self, key: str) -> httpx.AsyncClient:
        """Return a client with that key."""
        headers = {"OPEN-SANDBOX-API-KEY": key}
        return httpx.AsyncClient(base_url=f"http://{self.address}/v1", headers=headers, timeout=PATIENCE_S)

    async def listen(self, key: str = "", query: str = "") -> Ears:
        """Connect, and hear the hello."""
        return await self._stack.enter_async_context(listen_at(self.address, key, query))
