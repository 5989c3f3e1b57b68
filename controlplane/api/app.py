"""The ASGI application: the objects that serve the operations, and the middleware before them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import prometheus_client
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Lifespan

from controlplane.access.control import AccessControl
from controlplane.api.activity.activity import ActivityReading
from controlplane.api.activity.records import RecordReading
from controlplane.api.console.pages import Root, page_route
from controlplane.api.console.sign_in import SignInEndpoints
from controlplane.api.edge.access_log import AccessLog
from controlplane.api.edge.addresses import PortAddresses
from controlplane.api.edge.audit import AuditLog
from controlplane.api.edge.auth import Authentication, Checks
from controlplane.api.edge.browsers import Cors, Pages
from controlplane.api.edge.guard import Guard
from controlplane.api.edge.problems import answer_error, answer_http_error
from controlplane.api.edge.tickets import Tickets
from controlplane.api.egress.policy import Egress
from controlplane.api.execd.code import Codes
from controlplane.api.execd.commands import Commands
from controlplane.api.execd.contexts import LiveContexts
from controlplane.api.execd.files import Files
from controlplane.api.execd.isolation import Isolations
from controlplane.api.execd.resume import Resumption
from controlplane.api.execd.sessions import Sessions
from controlplane.api.execd.terminals import Terminals
from controlplane.api.execd.transfer import Transfers
from controlplane.api.execd.usage import Meters
from controlplane.api.lifecycle.diagnostics import Diagnostics
from controlplane.api.lifecycle.execute import Execution
from controlplane.api.lifecycle.health import Health
from controlplane.api.lifecycle.keys import KeyAdministration
from controlplane.api.lifecycle.sandboxes import EndpointTokens, Lifecycle
from controlplane.api.lifecycle.snapshots import Snapshots
from controlplane.api.ports.forward import Ports
from controlplane.api.ports.sandbox_tokens import SandboxTokens
from controlplane.api.routes import OPERATIONS, Routes, mount
from controlplane.api.runs.runs import Runs
from controlplane.api.server.events import Events
from controlplane.api.server.information import Information
from controlplane.api.server.log import Log
from controlplane.api.server.report import Check, Reports
from controlplane.api.server.specs import Specs
from controlplane.api.server.stock import Images, Volumes
from controlplane.api.stream.socket import Streams
from controlplane.console.files import DIST, PageFiles
from controlplane.errors import SandlotError
from controlplane.lifecycle.events.bus import Bus
from controlplane.lifecycle.events.news import PoolNews
from controlplane.logs import TAIL
from controlplane.runtime.driver import Driver
from controlplane.sandbox import Limits
from controlplane.settings.sections import Settings
from controlplane.telemetry.metrics import Metrics
from controlplane.telemetry.tracing import SILENT, Tracer
from execd.wire.discreet import Discreet

if TYPE_CHECKING:
    from controlplane.activity.activities import Activities
    from controlplane.activity.records import Records
    from controlplane.lifecycle.pauses import Pauses
    from controlplane.lifecycle.records.registry import Registry
    from controlplane.lifecycle.sandboxes import Sandboxes
    from controlplane.lifecycle.snapshots import Snapshots as AllSnapshots
    from controlplane.link.relay import Relay


class ApiSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the edge needs of the settings."""

    public_address: str = ""  # host[:port] for endpoints; empty: as the client called us
    port_domain: str = ""  # host[:port] under which each port has a host name of its own; empty: localhost alone
    endpoint_tokens: EndpointTokens = "auto"  # where endpoints carry the sandbox's token
    allowed_origins: tuple[str, ...] = ("*",)  # of web pages that may call us
    isolate_pages: bool = True  # pages at path addresses get an origin of their own
    limits: Limits = Limits()  # of a sandbox that asks for none
    run_timeout_s: float | None = None  # of a command or run that names none
    open_metrics: bool = False  # Prometheus' /metrics needs no key
    console_is_off: str = ""  # why the console is not served; "": it is
    console_dist: Path = DIST  # the console's built pages


class Operator(Discreet, msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a server that the operations for its operators show."""

    bus: Bus
    pools: Callable[[], Sequence[PoolNews]]  # the states of the warm pools
    settings: Settings
    driver: Driver
    check: Check  # the checks of `sandlot doctor`


def make_app(
    *,
    sandboxes: Sandboxes,
    pauses: Pauses,
    snapshots: AllSnapshots,
    registry: Registry,
    relay: Relay,
    activities: Activities,
    records: Records | None = None,
    credentials: Checks,
    access: AccessControl,
    settings: ApiSettings,
    metrics: Metrics | None = None,
    tracer: Tracer = SILENT,
    metrics_registry: prometheus_client.CollectorRegistry,
    is_ready: Callable[[], bool],
    why_not_ready: Callable[[], str] = str,
    operator: Operator,
    lifespan: Lifespan[Starlette] | None = None,
) -> ASGIApp:
    """Put the application together.

    *is_ready* tells whether the engine answers, *why_not_ready* what keeps the warm pool from its work; "" is nothing.
    *operator* has what the operations of the server itself show.
    """
    lifecycle = Lifecycle(
        sandboxes,
        pauses,
        credentials,
        limits=settings.limits,
        public_address=settings.public_address,
        port_domain=settings.port_domain,
        endpoint_tokens=settings.endpoint_tokens,
    )
    metrics = metrics or Metrics()
    runs = Runs(relay, settings.run_timeout_s, metrics, tracer)
    audit = AuditLog(access.audit, metrics=metrics)
    tickets = Tickets(sandboxes.get)
    ports = Ports(relay, SandboxTokens(credentials, sandboxes.ids), access.keys, metrics)
    guard = Guard(sandboxes, snapshots)
    endpoints = (
        *_endpoints_of_execd(sandboxes, relay, runs),
        *(lifecycle, Execution(runs, guard), Snapshots(snapshots), Diagnostics(registry, relay)),
        *(Egress(sandboxes), Streams(relay, runs, activities, audit, tracer), tickets, ports),
        *(ActivityReading(activities, sandboxes), RecordReading(records)),
        *_endpoints_of_server(operator, sandboxes, tickets, is_ready, why_not_ready),
        *(audit, KeyAdministration(access.keys, sandboxes), Health(metrics_registry, is_ready, why_not_ready)),
        *(SignInEndpoints(access, why_off=settings.console_is_off), Root(has_console=not settings.console_is_off)),
    )
    # Before the routes: what lies below `/console` is a page, and the operations of that name are below `/v1` alone.
    pages = [] if settings.console_is_off else [page_route(PageFiles(settings.console_dist))]
    routes = Routes(endpoints, guard, sandboxes.in_use, tracer).make(OPERATIONS)
    app = Starlette(
        routes=[mount("/v1", routes), *pages, *routes],
        middleware=[
            Middleware(AccessLog, audit=audit, metrics=metrics),
            Middleware(PortAddresses, domain=settings.port_domain),
            Middleware(Cors, origins=settings.allowed_origins, isolate_pages=settings.isolate_pages),
            Middleware(
                *(Authentication, credentials, access, tickets),
                operations=OPERATIONS,
                open_metrics=settings.open_metrics,
                console=not settings.console_is_off,
            ),
            Middleware(Pages, domain=settings.port_domain, isolate=settings.isolate_pages),
        ],
        exception_handlers={SandlotError: answer_error, HTTPException: answer_http_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def _endpoints_of_server(
    operator: Operator,
    sandboxes: Sandboxes,
    tickets: Tickets,
    is_ready: Callable[[], bool],
    why_not_ready: Callable[[], str],
) -> tuple[object, ...]:
    """Return the objects that serve the operations of the server itself."""
    settings, driver = operator.settings, operator.driver
    information = Information(
        *(settings, driver, sandboxes), answers=is_ready, why_not_ready=why_not_ready, pools=operator.pools
    )
    return (
        *(Events(operator.bus, tickets), information, Reports(operator.check), Log(TAIL), Specs()),
        *(Images(settings, driver, sandboxes, operator.bus), Volumes(driver, sandboxes)),
    )


def _endpoints_of_execd(sandboxes: Sandboxes, relay: Relay, runs: Runs) -> tuple[object, ...]:
    """Return the objects that serve the execd contract."""
    return (
        *(Commands(relay, runs), Codes(relay, runs), Sessions(relay, runs), Resumption(relay, runs)),
        *(LiveContexts(relay), Terminals(relay), Files(relay), Transfers(relay), Meters(relay, sandboxes)),
        Isolations(relay, runs),
    )
