"""The ASGI application: its middleware and all of its routes, as lists to be read from top to bottom."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec
import prometheus_client
from starlette.applications import Starlette
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from controlplane.api.access import AccessLog
from controlplane.api.addresses import PortAddresses
from controlplane.api.auth import Authentication, Checks
from controlplane.api.code import Codes
from controlplane.api.commands import Commands
from controlplane.api.contexts import LiveContexts
from controlplane.api.diagnostics import Diagnostics
from controlplane.api.egress import Egress
from controlplane.api.execute import Execution
from controlplane.api.files import Files
from controlplane.api.health import Health
from controlplane.api.isolation import Isolations
from controlplane.api.lifecycle import EGRESS_PORT, EXECD_PORT, Lifecycle
from controlplane.api.metrics import Meters
from controlplane.api.ports import OPERATION as PORT_OPERATION
from controlplane.api.ports import Ports
from controlplane.api.problems import answer_error, answer_http_error, flat
from controlplane.api.resume import EventStreams
from controlplane.api.sessions import Sessions
from controlplane.api.snapshots import Snapshots
from controlplane.api.stream import OPERATION as STREAM_OPERATION
from controlplane.api.stream import Streams
from controlplane.api.stream_messages import ServerMessage
from controlplane.api.tape import KeptRuns
from controlplane.api.terminals import Terminals
from controlplane.api.tickets import Tickets
from controlplane.api.transfer import Transfers
from controlplane.errors import SandlotError
from controlplane.sandbox import Limits

if TYPE_CHECKING:
    from controlplane.lifecycle.pauses import Pauses
    from controlplane.lifecycle.registry import Registry
    from controlplane.lifecycle.sandboxes import Sandboxes
    from controlplane.lifecycle.snapshots import Snapshots as AllSnapshots
    from controlplane.link.relay import Relay


class Kept(contextlib.AsyncExitStack):
    """Runs that outlive their clients' connections for a while; entered before the edge is served, left after it."""

    async def __aenter__(self) -> Self:
        self.events: KeptRuns[bytes] = await self.enter_async_context(KeptRuns())
        self.streams: KeptRuns[ServerMessage] = await self.enter_async_context(KeptRuns())
        return self


ANY = ("GET", "POST", "PUT", "PATCH", "DELETE")


class AnyPath(PathConvertor):
    """The rest of a path. Starlette's own ends at a newline, which a service's path may well have (as %0A)."""

    regex = r"[\s\S]*"


register_url_convertor("path", AnyPath())  # also for the mounts


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the edge needs of the settings."""

    public_address: str = ""  # host[:port] for endpoints; empty: as the client called us
    port_domain: str = ""  # host[:port] under which each port has a host name of its own; empty: localhost alone
    limits: Limits = Limits()  # of a sandbox that asks for none
    run_timeout_s: float | None = None  # of a command or run that names none
    open_metrics: bool = False  # Prometheus' /metrics needs no key


def make_app(
    *,
    sandboxes: Sandboxes,
    pauses: Pauses,
    snapshots: AllSnapshots,
    registry: Registry,
    relay: Relay,
    credentials: Checks,
    settings: ApiSettings,
    kept: Kept,
    metrics_registry: prometheus_client.CollectorRegistry,
    is_ready: Callable[[], bool],
    lifespan: Lifespan[Starlette] | None = None,
) -> ASGIApp:
    """Put the application together."""
    lifecycle = Lifecycle(
        sandboxes,
        pauses,
        credentials,
        limits=settings.limits,
        public_address=settings.public_address,
        port_domain=settings.port_domain,
    )
    saved = Snapshots(snapshots)
    diagnostics = Diagnostics(registry, relay)
    egress = Egress(sandboxes)
    health = Health(relay, metrics_registry, is_ready)
    events = EventStreams(kept.events)
    codes = Codes(relay, events, settings.run_timeout_s)
    streams = Streams(relay, codes, kept.streams, settings.run_timeout_s)
    tickets = Tickets(sandboxes.get)
    ports = Ports(relay, credentials)
    routes = [
        *_port_routes(f"/sandboxes/{{sandbox_id}}/proxy/{EXECD_PORT}/proxy", ports),  # as the official agent has it
        _mount(
            f"/sandboxes/{{sandbox_id}}/proxy/{EXECD_PORT}",
            _execd_routes(sandboxes, relay, health, codes, events, settings),
        ),
        _as_use(sandboxes, _mount(f"/sandboxes/{{sandbox_id}}/proxy/{EGRESS_PORT}", _egress_routes(egress))),
        *_port_routes("/sandboxes/{sandbox_id}/proxy", ports),
        Route("/sandboxes", lifecycle.create, methods=["POST"], name="sandbox.create"),
        Route("/sandboxes", lifecycle.list, methods=["GET"], name="sandbox.list"),
        Route("/sandboxes/{sandbox_id}", lifecycle.get, methods=["GET"], name="sandbox.get"),
        Route("/sandboxes/{sandbox_id}", lifecycle.delete, methods=["DELETE"], name="sandbox.delete"),
        Route("/sandboxes/{sandbox_id}/stop", lifecycle.delete, methods=["POST"], name="sandbox.delete"),
        Route("/sandboxes/{sandbox_id}/contexts", codes.create_context, methods=["POST"], name="sandbox.context"),
        Route("/contexts/execute", Execution(codes).execute, methods=["POST"], name="context.execute"),
        Route("/sandboxes/{sandbox_id}/pause", lifecycle.pause, methods=["POST"], name="sandbox.pause"),
        Route("/sandboxes/{sandbox_id}/resume", lifecycle.resume, methods=["POST"], name="sandbox.resume"),
        Route(
            "/sandboxes/{sandbox_id}/metadata", lifecycle.change_metadata, methods=["PATCH"], name="sandbox.metadata"
        ),
        Route("/sandboxes/{sandbox_id}/renew-expiration", lifecycle.renew, methods=["POST"], name="sandbox.renew"),
        Route("/sandboxes/{sandbox_id}/snapshots", saved.create, methods=["POST"], name="snapshot.create"),
        Route("/snapshots", saved.list, methods=["GET"], name="snapshot.list"),
        Route("/snapshots/{snapshot_id}", saved.get, methods=["GET"], name="snapshot.get"),
        Route("/snapshots/{snapshot_id}", saved.delete, methods=["DELETE"], name="snapshot.delete"),
        Route(
            "/sandboxes/{sandbox_id}/diagnostics/{kind}", diagnostics.read, methods=["GET"], name="sandbox.diagnostics"
        ),
        Route("/sandboxes/{sandbox_id}/endpoints/{port}", lifecycle.endpoint, name="sandbox.endpoint"),
        _as_use(sandboxes, WebSocketRoute("/sandboxes/{sandbox_id}/stream", streams.serve, name=STREAM_OPERATION)),
        Route("/sandboxes/{sandbox_id}/stream/tickets", tickets.issue, methods=["POST"], name="ticket.issue"),
        Route("/sandboxes/{sandbox_id}/networkpolicy", egress.policy, methods=["GET"], name="policy.get"),
        Route("/metrics/events", lifecycle.report, methods=["POST"], name="metrics.report"),
        Route("/health", health.health),
        Route("/version", health.version),
        Route("/metrics", health.metrics),
        *_lifecycle_refusals(),
    ]
    app = Starlette(
        routes=[_mount("/v1", routes), *routes],
        middleware=[
            Middleware(AccessLog),
            Middleware(PortAddresses, domain=settings.port_domain),
            Middleware(Authentication, credentials, tickets, open_metrics=settings.open_metrics),
        ],
        exception_handlers={SandlotError: answer_error, HTTPException: answer_http_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def _execd_routes(
    sandboxes: Sandboxes, relay: Relay, health: Health, codes: Codes, events: EventStreams, settings: ApiSettings
) -> list[BaseRoute]:
    """The execd contract, at port 44772 of a sandbox. Those that are asked for most come first."""
    sessions = Sessions(relay, events, settings.run_timeout_s)
    commands = Commands(relay, sessions, events, settings.run_timeout_s)
    terminals = Terminals(relay)
    contexts = LiveContexts(relay)
    files = Files(relay)
    transfers = Transfers(relay)
    meters = Meters(relay, sandboxes)
    return [
        Route("/command", commands.run, methods=["POST"], name="command.run"),
        Route("/code", codes.run, methods=["POST"], name="code.run"),
        Route("/ping", health.ping, methods=["GET"], name="ping"),
        Route("/command", commands.interrupt, methods=["DELETE"], name="command.interrupt"),
        Route("/command/status/{command_id}", commands.status, methods=["GET"], name="command.status"),
        Route("/command/{command_id}/logs", commands.logs, methods=["GET"], name="command.logs"),
        Route("/code", codes.interrupt, methods=["DELETE"], name="code.interrupt"),
        Route("/code/context", codes.create_context, methods=["POST"], name="context.create"),
        Route("/code/contexts", codes.list_contexts, methods=["GET"], name="context.list"),
        Route("/code/contexts", codes.delete_contexts, methods=["DELETE"], name="context.delete_all"),
        Route("/code/contexts/{context_id}", codes.get_context, methods=["GET"], name="context.get"),
        Route("/code/contexts/{context_id}", codes.delete_context, methods=["DELETE"], name="context.delete"),
        Route("/code/input", codes.answer_input, methods=["POST"], name="code.input"),
        Route("/code/contexts/{context_id}/fork", contexts.fork, methods=["POST"], name="context.fork"),
        Route("/code/contexts/{context_id}/restart", contexts.restart, methods=["POST"], name="context.restart"),
        Route("/code/contexts/{context_id}/complete", contexts.complete, methods=["POST"], name="context.complete"),
        Route("/code/contexts/{context_id}/inspect", contexts.inspect, methods=["POST"], name="context.inspect"),
        Route("/session", sessions.create, methods=["POST"], name="session.create"),
        Route("/session/{session_id}/run", sessions.run, methods=["POST"], name="session.run"),
        Route("/session/{session_id}", sessions.delete, methods=["DELETE"], name="session.delete"),
        _as_use(sandboxes, Route("/runs/{run_id}/events", events.resume, methods=["GET"], name="run.resume")),
        Route("/pty", terminals.create, methods=["POST"], name="pty.create"),
        Route("/pty", terminals.list, methods=["GET"], name="pty.list"),
        Route("/pty/{pty_id}", terminals.get, methods=["GET"], name="pty.get"),
        Route("/pty/{pty_id}", terminals.delete, methods=["DELETE"], name="pty.delete"),
        WebSocketRoute("/pty/{pty_id}/ws", terminals.attach, name="pty.attach"),
        *_file_routes("", files, transfers),
        *_file_routes("/v1/filesystem/{uid}/{gid}", files, transfers),
        Route("/metrics", meters.read, methods=["GET"], name="metrics.read"),
        Route("/metrics/watch", meters.watch, methods=["GET"], name="metrics.watch"),
        *_isolation_routes("/v1/isolated", Isolations(relay, sessions, settings.run_timeout_s)),
        *_file_routes("/v1/isolated/session/{session_id}", files, transfers),
    ]


def _isolation_routes(prefix: str, isolations: Isolations) -> list[BaseRoute]:
    session = f"{prefix}/session/{{session_id}}"
    nothing_kept = refuse(503, "differences of overlays", "NOT_SUPPORTED")
    return [
        Route(f"{prefix}/capabilities", isolations.capabilities, methods=["GET"], name="isolation.read"),
        Route(f"{prefix}/sessions", isolations.list, methods=["GET"], name="isolation.list"),
        Route(f"{prefix}/session", isolations.create, methods=["POST"], name="isolation.create"),
        Route(session, isolations.get, methods=["GET"], name="isolation.get"),
        Route(session, isolations.delete, methods=["DELETE"], name="isolation.delete"),
        Route(f"{session}/run", isolations.run, methods=["POST"], name="isolation.run"),
        Route(f"{session}/runs/{{run_id}}", isolations.status, methods=["GET"], name="isolation.status"),
        Route(f"{session}/runs/{{run_id}}/logs", isolations.logs, methods=["GET"], name="isolation.logs"),
        Route(f"{session}/diff", nothing_kept, methods=["GET"], name="isolation.diff"),
        Route(f"{session}/commit", nothing_kept, methods=["POST"], name="isolation.commit"),
    ]


def _file_routes(prefix: str, files: Files, transfers: Transfers) -> list[BaseRoute]:
    return [
        Route(f"{prefix}/files/upload", transfers.upload, methods=["POST"], name="file.upload"),
        Route(f"{prefix}/files/download", transfers.download, methods=["GET"], name="file.download"),
        Route(f"{prefix}/files/info", files.info, methods=["GET"], name="file.info"),
        Route(f"{prefix}/files/search", files.search, methods=["GET"], name="file.search"),
        Route(f"{prefix}/files", files.remove, methods=["DELETE"], name="file.remove"),
        Route(f"{prefix}/files/mv", files.move, methods=["POST"], name="file.move"),
        Route(f"{prefix}/files/permissions", files.change, methods=["POST"], name="file.change"),
        Route(f"{prefix}/files/replace", files.replace, methods=["POST"], name="file.replace"),
        Route(f"{prefix}/directories/list", files.list, methods=["GET"], name="directory.list"),
        Route(f"{prefix}/directories", files.make_directories, methods=["POST"], name="directory.make"),
        Route(f"{prefix}/directories", files.remove_directories, methods=["DELETE"], name="directory.remove"),
    ]


def _port_routes(path: str, ports: Ports) -> list[BaseRoute]:
    paths = (f"{path}/{{port}}", f"{path}/{{port}}/{{rest:path}}")
    return [kind(each, ports, name=PORT_OPERATION) for each in paths for kind in (Route, WebSocketRoute)]


def _egress_routes(egress: Egress) -> list[BaseRoute]:
    """The egress contract, at port 18080 of a sandbox."""
    vault = "the credential vault"
    no_vault = refuse(404, vault)
    return [
        Route("/policy", egress.policy, methods=["GET"], name="egress.policy"),
        Route("/policy", _NO_POLICY_CHANGE, methods=["POST", "PUT", "PATCH", "DELETE"], name="egress.change"),
        Route("/credential-vault", no_vault, methods=["GET", "PATCH", "DELETE"], name="vault.refuse"),
        Route("/credential-vault", refuse(400, vault), methods=["POST"], name="vault.create"),
        Route("/credential-vault/{rest:path}", no_vault, methods=ANY, name="vault.refuse"),
    ]


def _lifecycle_refusals() -> list[BaseRoute]:
    """What the lifecycle contract has and this server has not (yet): each with a status that its clients expect."""
    sandbox = "/sandboxes/{sandbox_id}"
    no_templates = refuse(501, "templates", "FSB::API_NOT_SUPPORTED")
    no_pools = refuse(501, "pools over the API", "KUBERNETES::POOL_NOT_SUPPORTED")
    return [
        Route(f"{sandbox}/networkpolicy", _NO_POLICY_CHANGE, methods=["PUT", "PATCH", "DELETE"], name="policy.change"),
        Route("/templates", no_templates, methods=ANY, name="template.refuse"),
        Route("/templates/{rest:path}", no_templates, methods=ANY, name="template.refuse"),
        Route("/pools", no_pools, methods=ANY, name="pool.refuse"),
        Route("/pools/{rest:path}", no_pools, methods=ANY, name="pool.refuse"),
    ]


def refuse(
    status: int, what: str, code: str = "SANDBOX::API_NOT_SUPPORTED"
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that says that this server does not do that."""

    async def refusal(_: Request) -> Response:
        return flat(status, code, f"{what}: this server does not support that yet")

    return refusal


_NO_POLICY_CHANGE = refuse(400, "changing the egress policy")


AnyRoute = TypeVar("AnyRoute", Route, WebSocketRoute, Mount)


def _as_use(sandboxes: Sandboxes, route: AnyRoute) -> AnyRoute:
    """Have a route to a sandbox count as use of it, for as long as the client is connected.

    For those that ask its agent nothing, or not all the time. Of the others the relay knows.
    """
    inner = route.app

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with sandboxes.in_use(scope["path_params"]["sandbox_id"]):
            await inner(scope, receive, send)

    route.app = app
    return route


def _mount(path: str, routes: Sequence[BaseRoute]) -> Mount:
    # A framework's redirect to the path with a slash at its end would be a page that no client of ours expects.
    return Mount(path, Router(routes, redirect_slashes=False))
