"""A container for one trial of an image, for `sandlot doctor` and `sandlot images check`."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from controlplane.errors import StartFailed
from controlplane.images import publish
from controlplane.lifecycle.resolve import template_for
from controlplane.link.accept import Accept
from controlplane.link.directory import Directory
from controlplane.link.link import Link
from controlplane.pool.provision import LINK_TIMEOUT_S, Provisioner
from controlplane.runtime.docker import seccomp
from controlplane.runtime.docker.driver import DockerDriver
from controlplane.runtime.docker.engine import connect
from controlplane.runtime.events import EventKind
from controlplane.sandbox import Network
from controlplane.settings.sections import Settings
from controlplane.tasks import Background


def existing(path: Path) -> Path:
    """Return the path, or the nearest one above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


@contextlib.asynccontextmanager
async def trial(settings: Settings, image: str) -> AsyncIterator[Link]:
    """Start a container of an image, yield the link to its agent, and remove the container afterwards.

    Raises:
        ImageMissing, StartFailed, RuntimeFailure, LinkLost: see `Provisioner.provision`.
    """
    engine = connect(settings.engine.url)
    try:
        volume = await publish.publish_execd(engine, lambda text: None)
    finally:
        await engine.close()
    async with contextlib.AsyncExitStack() as stack:
        above = existing(Path(settings.paths.run_dir))
        run_dir = stack.enter_context(tempfile.TemporaryDirectory(dir=above, prefix="d"))  # short: sockets' paths are
        directory = Directory()
        accept = Accept(Path(run_dir), directory)
        accept.prepare()
        stack.push_async_callback(accept.aclose)
        driver = await stack.enter_async_context(own_driver(settings, volume))
        background = await stack.enter_async_context(Background())
        background.start(_report_deaths(driver, directory), name="doctor.events")
        provisioner = Provisioner(driver, accept, directory)
        warm = await provisioner.provision(
            template_for(settings, image, Network.allowed(settings.sandbox.allow_network))
        )
        try:
            yield await directory.wait(warm.sandbox_id, timeout_s=LINK_TIMEOUT_S)
        finally:
            await provisioner.discard(warm)


async def _report_deaths(driver: DockerDriver, directory: Directory) -> None:
    """Fail the wait for the agent when its container ends, instead of half a minute later."""
    async with contextlib.aclosing(driver.containers.events()) as events:
        async for event in events:
            if event.kind is EventKind.DIED:
                text = f"the container ended with exit code {event.exit_code}"
                directory.fail(event.sandbox_id, StartFailed(text))


@contextlib.asynccontextmanager
async def own_driver(settings: Settings, volume: str) -> AsyncIterator[DockerDriver]:
    # The instance differs from the server's, so that a running server does not take this container for an orphan.
    driver = DockerDriver(
        connect(settings.engine.url),
        instance=f"doctor-{secrets.token_hex(4)}",
        execd_volume=volume,
        seccomp=seccomp.load(settings.engine.seccomp),
    )
    try:
        yield driver
    finally:
        await driver.aclose()
