"""The edge, served over HTTP on this machine: the real application, relay and link, before a registry in memory."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import httpx
import prometheus_client
import uvicorn
from msgspec.structs import replace

from controlplane.api.addresses import base36
from controlplane.api.app import ApiSettings, Kept, make_app
from controlplane.credentials import Credentials, hash_key
from controlplane.errors import Conflict, ImageMissing, InvalidRequest, NotFound, SandlotError
from controlplane.link.directory import Directory
from controlplane.link.link import Link
from controlplane.link.relay import Relay
from controlplane.sandbox import CreateRequest, Limits, Sandbox, SandboxSpec, State
from execd.dispatch import Handler
from execd.wire.messages import Request
from tests.execd_link import control_plane_of

API_KEY = "sandlot_test_key"
SANDBOX_ID = "0123456789abcdef"  # of the one sandbox whose agent `ControlPlaneEnd` links
BEGIN = datetime(2026, 11, 23, 4, 38, 7, 317029, tzinfo=UTC)


class Sandboxes:
    """A registry in memory: what `controlplane.lifecycle.sandboxes.Sandboxes` is to the edge."""

    def __init__(self) -> None:
        self.requests: list[CreateRequest] = []
        self.fails_with: SandlotError | None = None
        self._sandboxes: dict[str, Sandbox] = {}

    async def create(self, request: CreateRequest) -> Sandbox:
        """Remember the request; the first sandbox is the one with an agent."""
        self.requests.append(request)
        if self.fails_with is not None:
            raise self.fails_with
        if request.image == "no/such:image":
            raise ImageMissing(f"the engine has no image {request.image}")
        number = len(self._sandboxes)
        now = BEGIN + timedelta(seconds=number)
        sandbox = Sandbox(
            id=f"{int(SANDBOX_ID, 16) + number:016x}",
            container_id=f"container-{number}",
            requested_image=request.image,
            spec=SandboxSpec(
                image=request.image,
                entrypoint=request.entrypoint,
                env=request.env,
                metadata=request.metadata,
                extensions=request.extensions,
                limits=request.limits or Limits(),
                network=bool(request.network),
                platform=request.platform,
            ),
            state=State.RUNNING,
            created_at=now,
            state_changed_at=now,
            expires_at=None if request.timeout_s is None else now + timedelta(seconds=request.timeout_s),
        )
        self._sandboxes[sandbox.id] = sandbox
        return sandbox

    def get(self, sandbox_id: str) -> Sandbox:
        """Return a sandbox or raise NotFound."""
        try:
            return self._sandboxes[sandbox_id]
        except KeyError:
            raise NotFound(f"there is no sandbox {sandbox_id}") from None

    def list(self) -> list[Sandbox]:
        """Return all, newest first."""
        return list(reversed(self._sandboxes.values()))

    async def delete(self, sandbox_id: str) -> None:
        """Forget a sandbox."""
        self.get(sandbox_id)
        del self._sandboxes[sandbox_id]

    def renew(self, sandbox_id: str, expires_at: datetime) -> Sandbox:
        """Set a deadline."""
        sandbox = self.get(sandbox_id)
        if sandbox.state is not State.RUNNING:
            raise Conflict(f"sandbox {sandbox_id} is {sandbox.state.value}", code="sandbox.not_running")
        if expires_at <= datetime.now(UTC):
            raise InvalidRequest("expiresAt must be in the future", code="sandbox.invalid_expiration")
        return self.put(replace(sandbox, expires_at=expires_at))

    @contextlib.contextmanager
    def in_use(self, sandbox_id: str) -> Iterator[None]:
        """Nothing here ends by itself."""
        yield

    def change_metadata(self, sandbox_id: str, changes: Mapping[str, str | None], *, most: int) -> Sandbox:
        """Merge."""
        sandbox = self.get(sandbox_id)
        merged = {**sandbox.spec.metadata, **changes}
        metadata = {key: value for key, value in merged.items() if value is not None}
        return self.put(replace(sandbox, spec=replace(sandbox.spec, metadata=metadata)))

    async def pause(self, sandbox_id: str) -> Sandbox:
        """As `controlplane.lifecycle.pauses.Pauses`, with its resume below."""
        return self._move(sandbox_id, State.RUNNING, State.PAUSED, "sandbox.bad_state")

    async def resume(self, sandbox_id: str) -> Sandbox:
        """The way back."""
        return self._move(sandbox_id, State.PAUSED, State.RUNNING, "sandbox.not_paused")

    def _move(self, sandbox_id: str, before: State, after: State, code: str) -> Sandbox:
        sandbox = self.get(sandbox_id)
        if sandbox.state is not before:
            raise Conflict(f"it is {sandbox.state.value}", code=code)
        return self.put(replace(sandbox, state=after))

    def put(self, sandbox: Sandbox) -> Sandbox:
        """Replace a sandbox."""
        self._sandboxes[sandbox.id] = sandbox
        return sandbox


class Edge:
    """A running server, and clients for it."""

    def __init__(self, address: str, sandboxes: Sandboxes, directory: Directory, credentials: Credentials) -> None:
        self.address = address  # host:port
        self.url = f"http://{address}"
        self.sandboxes = sandboxes
        self.directory = directory
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
        return httpx.AsyncClient(
            base_url=f"{self.proxy}/44772", headers={"X-EXECD-ACCESS-TOKEN": self.token}, timeout=20
        )


@contextlib.asynccontextmanager
async def serving(
    link: Link | None = None, settings: ApiSettings | None = None, is_ready: Callable[[], bool] = lambda: True
) -> AsyncIterator[Edge]:
    """Serve the edge. With a link, there is a sandbox already, and that is its agent."""
    sandboxes, directory = Sandboxes(), Directory()
    credentials = Credentials([hash_key(API_KEY)], b"secret")
    if link is not None:
        await sandboxes.create(CreateRequest(image="sandlot/python", entrypoint=("sleep", "inf"), timeout_s=600))
        directory.put(link)
    async with Kept() as kept:
        app = make_app(
            sandboxes=sandboxes,  # type: ignore[arg-type]
            pauses=sandboxes,  # type: ignore[arg-type]
            snapshots=None,  # type: ignore[arg-type]
            registry=None,  # type: ignore[arg-type]
            kept=kept,
            relay=Relay(sandboxes.get, directory),
            credentials=credentials,
            settings=settings or ApiSettings(),
            metrics_registry=prometheus_client.CollectorRegistry(),
            is_ready=is_ready,
        )
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(
            app, lifespan="off", log_config=None, access_log=False, ws="websockets-sansio", timeout_graceful_shutdown=1
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        # Not `serve()`: that looks for its end once in 100 ms only, which is most of the time of a small test.
        await server.startup(sockets=[listener])
        try:
            yield Edge("{}:{}".format(*listener.getsockname()), sandboxes, directory, credentials)
        finally:
            await server.shutdown(sockets=[listener])


@contextlib.asynccontextmanager
async def serving_agent(
    handlers: Mapping[type[Request], Handler], settings: ApiSettings | None = None
) -> AsyncIterator[Edge]:
    """Serve the edge before an agent that consists of these handlers."""
    async with control_plane_of(handlers) as end, serving(await end.next_link(), settings) as edge:
        yield edge
