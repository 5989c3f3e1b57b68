"""`sandlot doctor`: the checks of this machine, with a cure for each failure."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import msgspec

from controlplane.attack import age
from controlplane.attack.advisories import Standing
from controlplane.cli.trial import existing, own_driver, trial
from controlplane.errors import ImageMissing, SandlotError
from controlplane.images import build
from controlplane.link.accept import UNSEEN
from controlplane.runtime.abilities import LIMITS, NETWORKS, Abilities, Ability
from controlplane.runtime.docker.engine import connect
from controlplane.sandbox import Network, VolumeKind
from controlplane.settings.sections import Settings

MIN_FREE_DISK_BYTES = 5 << 30  # images and their stages take 4 GB, and sandboxes write to the same disk
MIN_OPEN_FILES = 4096  # a sandbox costs the server four, a request two


class Finding(msgspec.Struct, frozen=True):
    """The result of one check. `cure` is empty if the check passed or was skipped.

    Advice is no failure: the problem may have been fixed already, which the check cannot see.
    """

    check: str
    text: str
    cure: str = ""
    skipped: bool = False
    is_advice: bool = False


class _Trouble(Exception):
    """A failed check, with the problem and the cure."""

    def __init__(self, text: str, cure: str) -> None:
        super().__init__(text)
        self.text = text
        self.cure = cure


async def examine(settings: Settings, announce: Callable[[str], None]) -> int:
    """Run all checks and print each. Return 0 if all pass, else 1."""
    failures = 0
    async for finding in findings(settings):
        announce(f"{_verdict(finding):5}{finding.check:12}{finding.text}")
        if finding.cure:
            failures += not finding.is_advice
            announce(f"{'':17}→ {finding.cure}")
    announce("all is well" if not failures else f"{failures} check(s) failed")
    return 1 if failures else 0


def _verdict(finding: Finding) -> str:
    if finding.cure:
        return "warn" if finding.is_advice else "FAIL"
    return "--" if finding.skipped else "ok"


async def findings(settings: Settings) -> AsyncIterator[Finding]:
    """Yield the finding of each check; later checks depend on earlier ones.

    The checks change nothing on this machine, except that they start a container and remove it again.
    """
    for name, check in (
        ("address", _check_address),
        ("directories", _check_directories),
        ("limits", _check_limits),
        ("disk", _check_disk),
        *((("host paths", _check_host_paths),) if settings.storage.allowed_host_paths else ()),
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
    with _explained("age") as found:
        found.extend(await _look_at_age(settings))
    for finding in found:
        yield finding


@contextlib.contextmanager
def _explained(name: str) -> Iterator[list[Finding]]:
    """Yield a list for the findings of a check, and add the failure of the check to it."""
    found: list[Finding] = []
    try:
        yield found
    except _Trouble as trouble:
        found.append(Finding(name, trouble.text, trouble.cure))
    except SandlotError as error:
        found.append(Finding(name, error.message, "`make engine`, `make images`, then `sandlot doctor` again"))
    except OSError as error:
        found.append(Finding(name, str(error), "fix this error of the system, then run `sandlot doctor` again"))


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
    """Return whether a server uses the state directory of these settings."""
    try:
        with open(Path(settings.paths.state_dir) / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass  # no server has ever used the directory
    return False


def _check_directories(settings: Settings) -> str:
    for key in ("state_dir", "run_dir"):
        path = Path(getattr(settings.paths, key))
        here = existing(path)
        try:
            # The server itself creates the directories, for its own user only.
            with tempfile.TemporaryFile(dir=here):
                pass
        except OSError as error:
            raise _Trouble(
                f"{here}: {error.strerror}", f"make it writable for uid {os.geteuid()}, or set [paths] {key}"
            ) from error
    return f"{settings.paths.state_dir} and {settings.paths.run_dir} can be written"


def _check_limits(settings: Settings) -> str:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # the server raises its limit to this one
    if hard < MIN_OPEN_FILES:
        raise _Trouble(f"only {hard} open files allowed", "`ulimit -Hn 65536` as root, or LimitNOFILE=65536 in systemd")
    return f"{hard} open files"


def _check_disk(settings: Settings) -> str:
    place = existing(Path(settings.paths.state_dir))
    free = shutil.disk_usage(place).free
    if free < MIN_FREE_DISK_BYTES:
        raise _Trouble(
            f"{free / 1e9:.1f} GB free in {place}", "free some space; `docker system df` shows what images take"
        )
    return f"{free / 1e9:.0f} GB free in {place}"


def _check_host_paths(settings: Settings) -> str:
    """Check that users of this machine cannot run set-user-ID programs that a sandbox leaves in a host path."""
    for path in settings.storage.allowed_host_paths:
        place = Path(path)
        is_harmless = os.statvfs(place).f_flag & os.ST_NOSUID
        if not is_harmless and all(above.stat().st_mode & stat.S_IXOTH for above in (place, *place.parents)):
            raise _Trouble(
                f"sandboxes can leave set-user-ID programs in {path}, and every user of this machine can run them",
                f"mount the file system of {path} with nosuid,nodev, or close it to others: `chmod o-x {path}`",
            )
    return "no user of this machine can run set-user-ID programs that sandboxes leave there"


async def _check_engine(settings: Settings) -> str:
    async with own_driver(settings, volume="") as driver:
        info = await driver.describe()
        abilities = driver.abilities
    if info.rootless:
        raise _Trouble(
            f"{info.name} {info.version} is rootless", "limits need a rootful engine, or cgroup v2 delegation"
        )
    if not info.seccomp:
        raise _Trouble("the engine filters no system calls", "use an engine and a kernel with seccomp")
    if ignored := [name for name in LIMITS if name not in abilities.limits]:
        raise _Trouble(
            f"the engine ignores limits on {', '.join(ignored)}",
            "enable those cgroup controllers (on Debian: the kernel parameters cgroup_enable=memory swapaccount=1)",
        )
    if unmet := list(unmet_settings(settings, abilities)):
        raise _Trouble(
            f"the container engine {abilities.engine} cannot {'; and cannot '.join(lack for lack, _ in unmet)}",
            f"change {', '.join(dict.fromkeys(key for _, key in unmet))}, or use another engine",
        )
    memory = f"{info.memory_bytes / 2**30:.0f} GiB"
    return f"{info.name} {info.version}, {info.cpus} cores, {memory}, cgroup v{info.cgroup_version}"


def unmet_settings(settings: Settings, abilities: Abilities) -> Iterator[tuple[str, str]]:
    """Yield what settings ask for and the engine cannot do, as "the engine cannot …", and the setting's name."""
    runtimes = [("[sandbox] runtime", settings.sandbox.runtime)]
    runtimes += [(f"[[pools]] {pool.name or pool.image}: runtime", pool.runtime or "") for pool in settings.pools]
    for key, runtime in runtimes:
        if runtime and runtime not in abilities.runtimes:
            yield f"run containers by {runtime}", key
    networks = [("[sandbox] allow_network", settings.sandbox.allow_network)]
    networks += [
        (f"[[pools]] {pool.name or pool.image}: allow_network", pool.allow_network)
        for pool in settings.pools
        if pool.allow_network is not None
    ]
    for key, is_allowed in networks:
        if (network := Network.allowed(is_allowed)) not in abilities.networks:
            yield NETWORKS[network], key
    if settings.sandbox.allow_user_namespaces and Ability.USER_NAMESPACES not in abilities.can:
        yield Ability.USER_NAMESPACES.value, "[sandbox] allow_user_namespaces"
    for paths, kind, key in (
        (settings.storage.allowed_host_paths, VolumeKind.HOST_PATH, "[storage] allowed_host_paths"),
        (settings.storage.allowed_volumes, VolumeKind.EXISTING, "[storage] allowed_volumes"),
    ):
        if paths and kind not in abilities.volumes:
            yield f"mount {kind.value}", key
    if settings.engine.pull == "missing" and Ability.PULL not in abilities.can:
        yield Ability.PULL.value, "[engine] pull"
    if settings.sandbox.disk_limit and not abilities.can & {Ability.DISK_LIMITS, Ability.DISK_USAGE}:
        yield Ability.DISK_LIMITS.value, "[sandbox] disk_limit"


async def _check_images(settings: Settings) -> str:
    engine = connect(settings.engine.url)
    try:
        statuses = await build.image_status(engine, Path(settings.paths.images_dir))
    finally:
        await engine.close()
    for state in ("missing", "outdated"):
        if names := [status.tag for status in statuses if status.state == state]:
            raise _Trouble(f"{state}: {', '.join(names)}", "`make images`")
    return ", ".join(status.tag for status in statuses)


async def _look_at_age(settings: Settings) -> list[Finding]:
    """Return the known problems of the installed versions, as advice unless they are certain."""
    parts = await age.examine(settings.engine.url, Path(settings.paths.images_dir))
    found = [
        Finding("age", f"{part.component} {part.text}", part.cure, is_advice=part.standing is not Standing.VULNERABLE)
        for part in parts
        if part.cure
    ]
    return found or [Finding("age", f"no known problem of {', '.join(part.component for part in parts)}")]


async def _check_sandbox(settings: Settings) -> str:
    """Start a container, whose agent connects through a socket directory like the server's."""
    image = settings.resolve_image(settings.sandbox.image)
    began = time.monotonic()
    try:
        async with trial(settings, image):
            took = time.monotonic() - began
    except ImageMissing as error:
        raise _Trouble(f"{image}: {error.message}", "`make images`, or another [sandbox] image") from error
    except SandlotError as error:
        raise _Trouble(f"{image}: {error.message}", _cure_of(error)) from error
    return f"{image} started and its agent connected in {took * 1000:.0f} ms"


def _cure_of(error: SandlotError) -> str:
    """Return what to do about a sandbox that does not start."""
    if UNSEEN in error.message:
        return "start this container anew with the host's process ids; deploy/compose.yaml does"
    return (
        "is [paths] run_dir on the engine's own host? (an engine in a virtual machine sees other files; a server in a "
        "container needs the host's directory at the same path)"
    )
