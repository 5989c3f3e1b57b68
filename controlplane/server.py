"""The server: a control plane on the Docker engine, with its edge over HTTP, until somebody stops it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version

import msgspec
import structlog
import uvicorn

from controlplane.api.app import ApiSettings, Kept, make_app
from controlplane.composition import compose
from controlplane.config import Settings
from controlplane.errors import ConfigError
from controlplane.lifecycle.sandboxes import Sandboxes
from controlplane.link.peer import is_init_of
from controlplane.metrics import StatisticsCollector, make_registry
from controlplane.pool.pool import Pool
from controlplane.runtime import images
from controlplane.runtime.docker import DockerDriver
from controlplane.runtime.driver import Driver
from controlplane.runtime.engine import connect
from controlplane.sandbox import State

log = structlog.get_logger()

# A client that streams when we stop gets so long to finish.
SHUTDOWN_GRACE_S = 3


class Server(msgspec.Struct, frozen=True):
    """A control plane that runs: what its owner may want of it."""

    address: str  # http://host:port
    made_key: str  # the API key, if this was the first start; shown this once
    pool: Pool
    sandboxes: Sandboxes


@contextlib.asynccontextmanager
async def control_plane(
    settings: Settings, make_driver: Callable[[str], Driver], *, verify: Callable[[int, str], bool] = is_init_of
) -> AsyncIterator[Server]:
    """Run a control plane inside the `async with` block, serving HTTP.

    `make_driver` gets the id of this installation. Leaving the block removes warm containers; sandboxes go on.

    Raises:
        ConfigError: the settings cannot be met here: a port in use, a directory that cannot be written.
        StoreError: what an earlier run wrote down cannot be read.
        RuntimeFailure: the engine does not answer.
    """
    listener = _listen(settings.server.host, settings.server.port)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(contextlib.closing(listener))
        plane = await stack.enter_async_context(compose(settings, make_driver, verify=verify))
        app = make_app(
            sandboxes=plane.sandboxes,
            pauses=plane.pauses,
            snapshots=plane.snapshots,
            registry=plane.registry,
            relay=plane.relay,
            kept=await stack.enter_async_context(Kept()),
            credentials=plane.credentials,
            settings=_api_settings(settings),
            metrics_registry=make_registry(
                StatisticsCollector(plane.sandboxes.statistics, plane.pool.statistics, plane.directory.statistics)
            ),
            is_ready=lambda: plane.recovery.engine_answers,
        )
        # The edge is left first: then nothing is asked any more of what is behind it.
        await stack.enter_async_context(_http(app, listener))
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        yield Server(address=address, made_key=plane.made_key, pool=plane.pool, sandboxes=plane.sandboxes)


async def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Run the server on the Docker engine until SIGINT or SIGTERM. *announce* gets lines for people.

    Raises:
        ConfigError, RuntimeFailure: it cannot start; the message says what to do.
    """
    began = time.monotonic()
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    _raise_open_files()
    async with contextlib.AsyncExitStack() as stack:
        engine = connect(settings.engine.url)
        stack.push_async_callback(engine.close)
        # It takes as long as all the rest; only the first container needs it.
        volume = asyncio.ensure_future(images.publish_execd(engine, announce))
        stack.callback(volume.cancel)

        def make_driver(instance: str) -> Driver:
            return DockerDriver(engine, instance=instance, execd_volume=volume)

        server = await stack.enter_async_context(control_plane(settings, make_driver))
        announce(f"Sandlot {version('sandlot')} listens on {server.address} ({time.monotonic() - began:.2f} s)")
        if server.made_key:
            announce(f"API key, made for this installation: {server.made_key}")
        if not settings.server.api_keys:
            announce(f"API key: kept in {settings.paths.state_dir}/api-key, printed by `sandlot key`")
        await volume
        full = asyncio.ensure_future(server.pool.wait_full())
        stopped = asyncio.ensure_future(stopping.wait())
        await asyncio.wait([full, stopped], return_when=asyncio.FIRST_COMPLETED)
        if full.done():
            warm = server.pool.statistics().warm
            announce(f"ready: {warm} warm sandbox(es) ({time.monotonic() - began:.2f} s); Ctrl-C stops the server")
        full.cancel()
        await stopped
        running = server.sandboxes.statistics().by_state[State.RUNNING]
        announce("stopping" + (f"; {running} sandbox(es) go on, start again to manage them" if running else ""))


def _raise_open_files() -> None:
    """Take as many file descriptors as we may have: shells often give 1024, and a sandbox costs two or more."""
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
        open_metrics=settings.server.open_metrics,
        run_timeout_s=settings.sandbox.timeout_seconds or None,
    )


def _is_news(record: logging.LogRecord) -> bool:
    # uvicorn says this of every WebSocket that was refused with an answer of its own, which is no error.
    return "without completing handshake" not in str(record.msg)


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handling, which would end the process before we have cleaned up."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


@contextlib.asynccontextmanager
async def _http(app: object, listener: socket.socket) -> AsyncIterator[None]:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http="httptools",
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    server = _Uvicorn(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving
