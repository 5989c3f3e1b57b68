"""`sandlot doctor`: each thing that has to be right on this machine, checked, with the cure for each that is not."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import msgspec

from controlplane.config import Settings
from controlplane.errors import ImageMissing, SandlotError, StartFailed
from controlplane.lifecycle.sandboxes import template_for
from controlplane.link.accept import Accept
from controlplane.link.directory import Directory
from controlplane.link.link import Link
from controlplane.provision import LINK_TIMEOUT_S, Provisioner
from controlplane.runtime import images
from controlplane.runtime.docker import DockerDriver
from controlplane.runtime.driver import EventKind
from controlplane.runtime.engine import connect
from controlplane.tasks import Background

MIN_FREE_DISK_BYTES = 2 << 30  # images take 1.5 GB, and sandboxes write into the same place
MIN_OPEN_FILES = 4096  # a sandbox costs the server four, a request two


class Finding(msgspec.Struct, frozen=True):
    """What one check found; `cure` is empty when all is well, or when it could not be made."""

    check: str
    text: str
    cure: str = ""
    skipped: bool = False


class _Trouble(Exception):
    """A check failed: what is wrong, and what to do."""

    def __init__(self, text: str, cure: str) -> None:
        super().__init__(text)
        self.text = text
        self.cure = cure


async def examine(settings: Settings, announce: Callable[[str], None]) -> int:
    """Make all checks, printing each; return 0 when all is well, else 1."""
    failures = 0
    async for finding in findings(settings):
        verdict = "FAIL" if finding.cure else "--" if finding.skipped else "ok"
        announce(f"{verdict:5}{finding.check:12}{finding.text}")
        if finding.cure:
            failures += 1
            announce(f"{'':17}→ {finding.cure}")
    announce("all is well" if not failures else f"{failures} check(s) failed")
    return 1 if failures else 0


async def findings(settings: Settings) -> AsyncIterator[Finding]:
    """Yield the finding of each check, in the order in which things build on each other.

    Nothing is changed on this machine, but for a container that is started and removed again.
    """
    for name, check in (
        ("address", _check_address),
        ("directories", _check_directories),
        ("limits", _check_limits),
        ("disk", _check_disk),
    ):
        with _explained(name) as found:
            found.append(Finding(name, check(settings)))
        yield found[0]
    engine_checks: tuple[tuple[str, Callable[[Settings], Awaitable[str]]], ...] = (
        ("engine", _check_engine),
        ("images", _check_images),
        ("sandbox", _check_sandbox),
    )
    for name, wait_for in engine_checks:
        with _explained(name) as found:
            found.append(Finding(name, await wait_for(settings)))
        yield found[0]
        if name == "engine" and found[0].cure:
            for other, _ in engine_checks[1:]:
                yield Finding(other, "not checked: needs the engine", skipped=True)
            return


@contextlib.contextmanager
def _explained(name: str) -> Iterator[list[Finding]]:
    """Give a list for the check's finding; put what went wrong into it."""
    found: list[Finding] = []
    try:
        yield found
    except _Trouble as trouble:
        found.append(Finding(name, trouble.text, trouble.cure))
    except SandlotError as error:
        found.append(Finding(name, error.message, "`make engine`, `make images`, then `sandlot doctor` again"))
    except OSError as error:
        found.append(Finding(name, str(error), "see what the system says; then `sandlot doctor` again"))


def _check_address(settings: Settings) -> str:
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _server_runs(settings):
            return f"{host}:{port} is taken, and a Sandlot server runs"
        raise _Trouble(f"{host}:{port}: {error.strerror}", "choose another [server] port (--port) or host") from error
    return f"{host}:{port} is free"


def _server_runs(settings: Settings) -> bool:
    """Whether a server has our state directory."""
    try:
        with open(Path(settings.paths.state_dir) / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass  # no server has ever run there
    return False


def _check_directories(settings: Settings) -> str:
    for key in ("state_dir", "run_dir"):
        path = Path(getattr(settings.paths, key))
        here = _existing(path)
        try:
            # Not made here: the server makes them, for itself alone.
            with tempfile.TemporaryFile(dir=here):
                pass
        except OSError as error:
            raise _Trouble(
                f"{here}: {error.strerror}", f"make it writable for uid {os.geteuid()}, or set [paths] {key}"
            ) from error
    return f"{settings.paths.state_dir} and {settings.paths.run_dir} can be written"


def _existing(path: Path) -> Path:
    """Return the path, or the nearest one above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _check_limits(settings: Settings) -> str:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # the server takes all it may have
    if hard < MIN_OPEN_FILES:
        raise _Trouble(f"only {hard} open files allowed", "`ulimit -Hn 65536` as root, or LimitNOFILE=65536 in systemd")
    return f"{hard} open files"


def _check_disk(settings: Settings) -> str:
    place = _existing(Path(settings.paths.state_dir))
    free = shutil.disk_usage(place).free
    if free < MIN_FREE_DISK_BYTES:
        raise _Trouble(
            f"{free / 1e9:.1f} GB free in {place}", "free some space; `docker system df` shows what images take"
        )
    return f"{free / 1e9:.0f} GB free in {place}"


async def _check_engine(settings: Settings) -> str:
    async with _driver(settings, volume="") as driver:
        info = await driver.describe()
    if info.rootless:
        raise _Trouble(
            f"{info.name} {info.version} is rootless", "limits need a rootful engine, or cgroup v2 delegation"
        )
    if not info.seccomp:
        raise _Trouble("the engine has no seccomp profile", "start it with its default seccomp profile")
    if info.unenforced:
        raise _Trouble(
            f"the engine ignores limits on {', '.join(info.unenforced)}",
            "enable those cgroup controllers (on Debian: the kernel parameters cgroup_enable=memory swapaccount=1)",
        )
    memory = f"{info.memory_bytes / 2**30:.0f} GiB"
    return f"{info.name} {info.version}, {info.cpus} cores, {memory}, cgroup v{info.cgroup_version}"


async def _check_images(settings: Settings) -> str:
    engine = connect(settings.engine.url)
    try:
        statuses = await images.image_status(engine, Path(settings.paths.images_dir))
    finally:
        await engine.close()
    for state in ("missing", "outdated"):
        if names := [status.tag for status in statuses if status.state == state]:
            raise _Trouble(f"{state}: {', '.join(names)}", "`make images`")
    return ", ".join(status.tag for status in statuses)


async def _check_sandbox(settings: Settings) -> str:
    """The whole way: a container starts, and its agent connects through a socket directory like the server's."""
    image = settings.resolve_image(settings.sandbox.image)
    began = time.monotonic()
    try:
        async with trial(settings, image):
            took = time.monotonic() - began
    except ImageMissing as error:
        raise _Trouble(f"{image}: {error.message}", "`make images`, or another [sandbox] image") from error
    except SandlotError as error:
        raise _Trouble(
            f"{image}: {error.message}",
            "is [paths] run_dir on the engine's own host? (an engine in a virtual machine sees other files)",
        ) from error
    return f"{image} started and its agent connected in {took * 1000:.0f} ms"


@contextlib.asynccontextmanager
async def trial(settings: Settings, image: str) -> AsyncIterator[Link]:
    """Start a container of an image beside all servers; yields the link to its agent. It is gone afterwards.

    Raises:
        ImageMissing, StartFailed, RuntimeFailure, LinkLost: as of `Provisioner.provision`.
    """
    engine = connect(settings.engine.url)
    try:
        volume = await images.publish_execd(engine, lambda text: None)
    finally:
        await engine.close()
    async with contextlib.AsyncExitStack() as stack:
        above = _existing(Path(settings.paths.run_dir))
        run_dir = stack.enter_context(tempfile.TemporaryDirectory(dir=above, prefix="d"))  # short: sockets' paths are
        directory = Directory()
        accept = Accept(Path(run_dir), directory)
        accept.prepare()
        stack.push_async_callback(accept.aclose)
        driver = await stack.enter_async_context(_driver(settings, volume))
        background = await stack.enter_async_context(Background())
        background.start(_report_deaths(driver, directory), name="doctor.events")
        provisioner = Provisioner(driver, accept, directory)
        warm = await provisioner.provision(template_for(settings, image, settings.sandbox.allow_network))
        try:
            yield await directory.wait(warm.sandbox_id, timeout_s=LINK_TIMEOUT_S)
        finally:
            await provisioner.discard(warm)


async def _report_deaths(driver: DockerDriver, directory: Directory) -> None:
    """Let whoever waits for the agent hear that its container has ended, instead of half a minute later."""
    async with contextlib.aclosing(driver.events()) as events:
        async for event in events:
            if event.kind is EventKind.DIED:
                text = f"the container ended with exit code {event.exit_code}"
                directory.fail(event.sandbox_id, StartFailed(text))


@contextlib.asynccontextmanager
async def _driver(settings: Settings, volume: str) -> AsyncIterator[DockerDriver]:
    # Another instance than the server's, so that a server that runs does not take our container for an orphan.
    driver = DockerDriver(connect(settings.engine.url), instance=f"doctor-{secrets.token_hex(4)}", execd_volume=volume)
    try:
        yield driver
    finally:
        await driver.aclose()
