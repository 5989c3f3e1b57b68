"""The application before a control plane of the tests, with or without a socket."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import prometheus_client
from starlette.types import ASGIApp

from controlplane.api.app import ApiSettings, Operator, make_app
from controlplane.api.server.messages import encode
from controlplane.api.server.schema import CheckView
from controlplane.lifecycle.events.bus import Bus
from controlplane.listener.serve import ListenerSettings, make_server
from controlplane.server.composition import ControlPlane
from controlplane.settings.sections import Settings
from tests.support.fakes.driver import FakeDriver
from tests.support.fakes.engine import FakeEngine


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
        operator=operator_of(bus=plane.events.bus, pools=plane.events.pools, driver=plane.driver),
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
