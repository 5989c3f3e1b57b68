"""The edge, served over HTTP on this machine: the real application, relay, link and lifecycle, over a fake engine."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta

import httpx
import prometheus_client
from msgspec.structs import replace

from controlplane.access.control import AccessControl
from controlplane.access.credentials import Credentials
from controlplane.access.scopes import OPERATOR, Caller
from controlplane.activity.activities import Activities
from controlplane.api.activity.entries import entry_view
from controlplane.api.app import ApiSettings, make_app
from controlplane.api.edge.addresses import base36
from controlplane.errors import SandlotError
from controlplane.lifecycle.creation import Creation
from controlplane.lifecycle.pauses import Pauses
from controlplane.lifecycle.room.capacity import Capacity
from controlplane.lifecycle.sandboxes import Sandboxes
from controlplane.link.link import Link
from controlplane.link.traced_relay import relay_with
from controlplane.listener.serve import ListenerSettings, make_server
from controlplane.runtime.driver import ContainerSpec, ContainerState
from controlplane.sandbox import CreateRequest, Limits, Network, Sandbox, SandboxSpec, State
from controlplane.settings.sections import SandboxSettings
from controlplane.telemetry.metrics import Metrics
from controlplane.telemetry.tracing import SILENT, Tracer
from execd.dispatch import Handler
from execd.wire.messages import Request
from tests.support.agent.execd_link import control_plane_of
from tests.support.server.access import fixed_access
from tests.support.server.application import operator_of
from tests.support.server.parts import Parts, parts

API_KEY = "sandlot_test_key"
PATIENCE_S = 60.0  # the machine may be loaded
SANDBOX_ID = "0123456789abcdef"  # of the one sandbox whose agent `ControlPlaneEnd` links


BEGIN = datetime(2026, 11, 23, 4, 38, 7, 317029, tzinfo=UTC)  # when the first sandbox was created


class InstantCreation(Creation):
    """Creation on the fake engine without a pool: each request becomes a running sandbox, whose container runs nothing.

    The first sandbox has the id SANDBOX_ID. `fails_with` is raised when set.
    """

    def __init__(self, parts: Parts) -> None:
        self.requests: list[CreateRequest] = []
        self.fails_with: SandlotError | None = None
        self.created = self.failed = 0
        self._parts = parts

    async def create(self, request: CreateRequest, by: Caller = OPERATOR) -> Sandbox:
        """Remember the request and write the sandbox down."""
        self.requests.append(request)
        if self.fails_with is not None:
            raise self.fails_with
        number = self.created
        self.created += 1
        sandbox_id = f"{int(SANDBOX_ID, 16) + number:016x}"
        container_id = await self._start(sandbox_id, request.image)
        now = BEGIN + timedelta(seconds=number)
        return self._parts.registry.put(
            Sandbox(
                id=sandbox_id,
                owner=by.owner,
                container_id=container_id,
                requested_image=request.image,
                spec=SandboxSpec(
                    image=request.image,
                    entrypoint=request.entrypoint,
                    env=request.env,
                    metadata=request.metadata,
                    extensions=request.extensions,
                    limits=request.limits or Limits(),
                    network=request.network or Network.NONE,
                    platform=request.platform,
                    pool=request.pool,
                ),
                state=State.RUNNING,
                created_at=now,
                state_changed_at=now,
                expires_at=None if request.timeout_s is None else now + timedelta(seconds=request.timeout_s),
            )
        )

    async def _start(self, sandbox_id: str, image: str) -> str:
        """Make a container that the engine takes for running; return its id."""
        driver = self._parts.driver
        if image != "no/such:image":
            driver.engine.images.add(image)
        spec = ContainerSpec(
            sandbox_id=sandbox_id,
            image=image,
            socket_dir=str(self._parts.home),
            limits=Limits(),
            network=Network.NONE,
        )
        container_id = await driver.containers.create(spec)
        container = driver.engine.find(container_id)
        container.told = replace(container.told, state=ContainerState.RUNNING)
        return container_id


class Edge:
    """A running server, and clients for it."""

    def __init__(
        self,
        address: str,
        sandboxes: Sandboxes,
        creation: InstantCreation,
        parts: Parts,
        credentials: Credentials,
        metrics: Metrics,
    ) -> None:
        self.metrics = metrics
        self.address = address  # host:port
        self.url = f"http://{address}"
        self.sandboxes = sandboxes
        self.creation = creation
        self.registry = parts.registry
        self.directory = parts.directory
        self.credentials = credentials
        self.token = credentials.sandbox_token(SANDBOX_ID)
        self.proxy = f"{self.url}/v1/sandboxes/{SANDBOX_ID}/proxy"

    def client(self, **headers: str) -> httpx.AsyncClient:
        """Return a client with the API key, for the lifecycle API."""
        return httpx.AsyncClient(base_url=f"{self.url}/v1", headers={"OPEN-SANDBOX-API-KEY": API_KEY} | headers)

    def sign(self, port: int, expires: int) -> tuple[str, str]:
        """Return the time as addresses write it, and the signature, for a port of the sandbox."""
        moment = base36(expires)
        return moment, self.credentials.sign(SANDBOX_ID, str(port), moment)

    def execd(self) -> httpx.AsyncClient:
        """Return a client with the sandbox's token, for its execd endpoint."""
        headers = {"X-EXECD-ACCESS-TOKEN": self.token}
        return httpx.AsyncClient(base_url=f"{self.proxy}/44772", headers=headers, timeout=PATIENCE_S)


@contextlib.asynccontextmanager
async def serving(
    link: Link | None = None,
    settings: ApiSettings | None = None,
    is_ready: Callable[[], bool] = lambda: True,
    why_not_ready: Callable[[], str] = str,
    access: AccessControl | None = None,
    listener_settings: ListenerSettings | None = None,
    tracer: Tracer = SILENT,
) -> AsyncIterator[Edge]:
    """Serve the edge. With a link, there is a sandbox already, and that is its agent."""
    async with parts() as made:
        creation = InstantCreation(made)
        sandboxes = Sandboxes(made.registry, Capacity(SandboxSettings(), list), creation, made.uses, made.endings)
        credentials, metrics = Credentials(b"secret"), Metrics()
        if link is not None:
            await sandboxes.create(CreateRequest(image="sandlot/python", entrypoint=("sleep", "inf"), timeout_s=600))
            creation.requests.clear()
            made.directory.put(link)
        app = make_app(
            sandboxes=sandboxes,
            pauses=Pauses(made.registry, made.driver, made.background),
            snapshots=None,  # type: ignore[arg-type]  # snapshots need a whole control plane
            registry=made.registry,
            relay=relay_with(tracer)(sandboxes.get, made.directory),
            activities=Activities(made.directory, lambda _: link is not None, entry_view, made.background),
            credentials=credentials,
            access=access or fixed_access({"key-1": API_KEY}),
            settings=settings or ApiSettings(),
            metrics=metrics,
            tracer=tracer,
            metrics_registry=prometheus_client.CollectorRegistry(),
            is_ready=is_ready,
            why_not_ready=why_not_ready,
            operator=operator_of(driver=made.driver),
        )
        listener = socket.create_server(("127.0.0.1", 0))
        server = make_server(app, listener_settings or ListenerSettings(), grace_s=1)
        # Not `serve()`: that looks for its end once in 100 ms only, which is most of the time of a small test.
        await server.startup(sockets=[listener])
        try:
            yield Edge("{}:{}".format(*listener.getsockname()), sandboxes, creation, made, credentials, metrics)
        finally:
            await server.shutdown(sockets=[listener])


@contextlib.asynccontextmanager
async def serving_agent(
    handlers: Mapping[type[Request], Handler],
    settings: ApiSettings | None = None,
    access: AccessControl | None = None,
) -> AsyncIterator[Edge]:
    """Serve the edge before an agent that consists of these handlers."""
    async with control_plane_of(handlers) as end, serving(await end.next_link(), settings, access=access) as edge:
        yield edge
