"""The server: a control plane on the Docker engine, with its edge over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec
import structlog

from controlplane import logs
from controlplane.access.sign_ins import Links
from controlplane.api.app import ApiSettings, Operator, make_app
from controlplane.api.console.sign_in import link_url
from controlplane.api.edge.auth import PAGES
from controlplane.api.edge.origins import by_name
from controlplane.api.server.schema import CheckView
from controlplane.attack.report import Gate
from controlplane.errors import ConfigError, SandlotError
from controlplane.images import publish
from controlplane.images.build import BuildStep
from controlplane.images.first_start import Builds, is_same_image
from controlplane.lifecycle.events.bus import Bus
from controlplane.lifecycle.events.news import ImageNews
from controlplane.lifecycle.sandboxes import Sandboxes
from controlplane.link.peer import is_init_of
from controlplane.listener.serve import ListenerSettings, serving
from controlplane.pool.pool import Pool
from controlplane.runtime.docker import seccomp
from controlplane.runtime.docker.driver import DockerDriver
from controlplane.runtime.docker.engine import connect
from controlplane.runtime.driver import Driver
from controlplane.sandbox import State
from controlplane.server.composition import compose
from controlplane.server.doctor.checks import findings
from controlplane.server.metrics import make_registry, running_containers
from controlplane.server.notify import tell_manager
from controlplane.server.traces import tracing
from controlplane.settings.sections import Settings
from controlplane.tasks import Background
from controlplane.telemetry.lag import watch_lag
from controlplane.telemetry.load import Loads
from execd.wire.discreet import Discreet

log = structlog.get_logger()

# At the server's stop, a streaming client has this time to finish.
SHUTDOWN_GRACE_S = 3

# The console's link that a start prints: a first start takes minutes, and the reader may be away.
FIRST_LINK_S = 3600.0

# At a first start, the pool has the CPU to itself for this time, before the build of the other images.
FIRST_FILL_S = 60


class Server(Discreet, msgspec.Struct, frozen=True):
    """A running control plane, as its owner sees it."""

    address: str  # http://host:port
    made_key: str  # the API key if this start created it; shown this once
    pool: Pool
    sandboxes: Sandboxes
    links: Links
    first_key_id: str  # of the first administrators' key: with it, the console's first link signs in
    bus: Bus


@contextlib.asynccontextmanager
async def control_plane(
    settings: Settings, make_driver: Callable[[str], Driver], *, verify: Callable[[int, str], bool] = is_init_of
) -> AsyncIterator[Server]:
    """Run a control plane inside the `async with` block, serving HTTP.

    `make_driver` gets the id of this installation. The end of the block removes warm containers; sandboxes continue.

    Raises:
        ConfigError: this machine does not fit the settings: a port is in use, or a directory cannot be written.
        StoreError: the store of an earlier run cannot be read.
        RuntimeFailure: the engine does not answer.
    """
    listener = _listen(settings.server.host, settings.server.port)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(contextlib.closing(listener))
        tracer = await stack.enter_async_context(tracing(settings.traces))
        plane = await stack.enter_async_context(compose(settings, make_driver, verify=verify, tracer=tracer))
        loads = Loads(plane.driver.containers, partial(running_containers, plane.registry))
        background = await stack.enter_async_context(Background())
        background.start(loads.watch_forever(), name="metrics.load")
        background.start(watch_lag(plane.metrics.loop_lag), name="metrics.lag")
        app = make_app(
            sandboxes=plane.sandboxes,
            pauses=plane.pauses,
            snapshots=plane.snapshots,
            registry=plane.registry,
            relay=plane.relay,
            activities=plane.activities,
            records=plane.records,
            credentials=plane.credentials,
            access=plane.access,
            settings=_api_settings(settings),
            metrics=plane.metrics,
            tracer=tracer,
            metrics_registry=make_registry(plane, loads, Path(settings.paths.state_dir)),
            is_ready=lambda: plane.recovery.engine_answers,
            why_not_ready=_why_not_ready(settings, plane.pool),
            operator=Operator(
                bus=plane.events.bus,
                pools=plane.events.pools,
                settings=settings,
                driver=plane.driver,
                check=partial(_check, settings),
            ),
        )
        # The edge ends first: after that, no request reaches the objects behind it.
        await stack.enter_async_context(serving(app, listener, _listener_settings(settings), grace_s=SHUTDOWN_GRACE_S))
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        yield Server(
            address=address,
            made_key=plane.made_key,
            pool=plane.pool,
            sandboxes=plane.sandboxes,
            links=plane.access.links,
            first_key_id=plane.access.keys.list()[0].id,
            bus=plane.events.bus,
        )


def _why_not_ready(settings: Settings, pool: Pool) -> Callable[[], str]:
    """Return a function that returns why the server is not ready, or ""."""
    if not settings.security.ready_needs_attack:
        return pool.why_not_ready
    gate = Gate(Path(settings.paths.state_dir), version("sandlot"))
    return lambda: pool.why_not_ready() or gate.why_not_ready()


async def _check(settings: Settings) -> list[CheckView]:
    return [
        CheckView(
            name=finding.check,
            ok=not finding.cure,
            message=finding.text,
            cure=finding.cure,
            is_advice=finding.is_advice,
            skipped=finding.skipped,
        )
        async for finding in findings(settings)
    ]


async def serve(settings: Settings, announce: Callable[[str], None], *, show_key: bool, build: bool = False) -> None:
    """Run the server on the Docker engine until SIGINT or SIGTERM.

    *announce* gets lines for people; if logs are JSON, the same is logged as events. With *show_key*, the lines contain
    a key that this start has created; the key is never logged.

    With *build*, the images of the warm pools are built first, and the other images while the server already serves.

    Raises:
        ConfigError, RuntimeFailure: the server cannot start; the message says what to do.
    """
    began = time.monotonic()

    def tell(event: str, line: str, **fields: object) -> None:
        announce(line)
        tell_manager(event, line)
        if logs.is_json(settings.logs):
            log.info(event, **fields)

    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    _raise_open_files()
    profiles = seccomp.load(settings.engine.seccomp)
    async with contextlib.AsyncExitStack() as stack:
        engine = connect(settings.engine.url)
        stack.push_async_callback(engine.close)
        builds = Builds(engine, Path(settings.paths.images_dir), announce) if build else None
        if builds is not None and not await _ends_before(builds.begin(_pool_images(settings)), stopping):
            return
        # This takes as long as all the rest, and only the first container needs it.
        volume = asyncio.ensure_future(publish.publish_execd(engine, announce))
        stack.callback(volume.cancel)

        def make_driver(instance: str) -> Driver:
            not_yet = builds.reason if builds else lambda _: ""
            return DockerDriver(
                engine,
                instance=instance,
                execd_volume=volume,
                seccomp=profiles,
                disk_limit_bytes=settings.sandbox.disk_limit * 1024,
                not_yet=not_yet,
            )

        server = await stack.enter_async_context(control_plane(settings, make_driver))
        seconds = round(time.monotonic() - began, 2)
        release = version("sandlot")
        listens = f"Sandlot {release} listens on {server.address} ({seconds:.2f} s)"
        tell("server.listening", listens, version=release, address=server.address, seconds=seconds)
        if server.made_key and show_key:
            announce(f"API key, created for this installation: {server.made_key}")
        if not settings.server.api_keys:
            announce(f"API key: kept in {settings.paths.state_dir}/api-key, printed by `sandlot key`")
        announce(console_line(settings, server, show_link=show_key))
        await volume
        tell_manager("server.started", listens)
        if builds is not None:
            background = await stack.enter_async_context(Background())
            background.start(_finish(builds, server.pool, server.bus, announce), name="images.build")
        readiness = asyncio.ensure_future(_tell_readiness(server.pool, tell, began))
        stack.callback(readiness.cancel)
        stopped = asyncio.ensure_future(stopping.wait())
        await asyncio.wait([readiness, stopped], return_when=asyncio.FIRST_COMPLETED)
        if readiness.done():
            readiness.result()
        await stopped
        running = server.sandboxes.statistics().by_state[State.RUNNING]
        rest = f"; {running} sandbox(es) continue; start the server again to manage them" if running else ""
        tell("server.stopping", f"stopping{rest}", running=running)


def console_line(settings: Settings, server: Server, *, show_link: bool) -> str:
    """Return the line that leads a person to the console, with a link that signs in if a person reads the line."""
    if why_off := _why_no_console(settings):
        return f"Console: off; {why_off}"
    local = by_name(server.address)
    if not show_link:
        return f"Console: {local}{PAGES}/; `sandlot console` prints a link that signs in"
    code, _ = server.links.make(server.first_key_id, FIRST_LINK_S)
    return f"Console: {link_url(local, code)} (signs in once, within {FIRST_LINK_S / 60:.0f} minutes)"


async def _tell_readiness(pool: Pool, tell: Callable[..., None], began: float) -> None:
    """Wait until the pool is full, and announce that. Announce each reason why the pool cannot be filled, once."""
    told = ""
    while True:
        pool.changed.clear()
        if pool.is_full:
            break
        trouble = pool.trouble()
        if trouble and trouble != told:
            tell("server.not_ready", f"not ready: {trouble}; the server tries again", reason=trouble)
            told = trouble
        await pool.changed.wait()
    seconds = round(time.monotonic() - began, 2)
    warm = pool.statistics().warm
    tell(
        "server.ready",
        f"ready: {warm} warm sandbox(es) ({seconds:.2f} s); Ctrl-C stops the server",
        warm=warm,
        seconds=seconds,
    )


def _pool_images(settings: Settings) -> list[str]:
    names = [settings.sandbox.image, *(pool.image for pool in settings.pools)]
    return [settings.resolve_image(name) for name in names]


async def _ends_before(work: Coroutine[object, object, None], stopping: asyncio.Event) -> bool:
    """Return whether *work* ends before the server is stopped; if not, cancel it. Raise what *work* raises."""
    working = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stopping.wait())
    await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if working.done():
        working.result()
        return True
    working.cancel()
    await asyncio.wait([working])
    return False


async def _finish(builds: Builds, pool: Pool, bus: Bus, announce: Callable[[str], None]) -> None:
    """Build the other images, and replace the warm containers of images that were incomplete until now."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(pool.wait_full(), FIRST_FILL_S)
    changed: list[str] = []
    try:
        await builds.finish(changed.append, partial(_tell_build, bus))
    except SandlotError as error:
        announce(f"{error.message}\nimages: some could not be built; `sandlot images` tries again")
    else:
        announce(f"images: all are built ({len(changed)} of them now)")
    pool.renew(lambda image: any(is_same_image(image, tag) for tag in changed))


def _tell_build(bus: Bus, step: BuildStep) -> None:
    bus.publish(ImageNews(name=step.tag, event=step.event, step=step.step, message=step.message))


def _raise_open_files() -> None:
    """Raise the limit of file descriptors to the hard limit: shells often set 1024, and a sandbox costs four."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another [server] port (--port) or host"
        ) from error


def _api_settings(settings: Settings) -> ApiSettings:
    return ApiSettings(
        limits=settings.sandbox.limits,
        public_address=settings.server.public_address,
        port_domain=settings.server.port_domain,
        endpoint_tokens=settings.server.endpoint_tokens,
        allowed_origins=settings.server.allowed_origins,
        isolate_pages=settings.server.isolate_pages,
        open_metrics=settings.server.open_metrics,
        console_is_off=_why_no_console(settings),
        run_timeout_s=settings.sandbox.timeout_seconds or None,
    )


def _why_no_console(settings: Settings) -> str:
    if not settings.console.enabled:
        return "[console] enabled = false"
    if not settings.server.isolate_pages:
        return "[server] isolate_pages = false, so pages of sandboxes would have the rights of who signs in"
    return ""


def _listener_settings(settings: Settings) -> ListenerSettings:
    return ListenerSettings(
        max_connections=settings.server.max_connections,
        max_connections_per_address=settings.server.max_connections_per_address,
        trusted_proxies=settings.server.trusted_proxies,
    )
