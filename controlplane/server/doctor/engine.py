"""Checks of the container engine, its images and a sandbox on it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from controlplane.attack import age
from controlplane.attack.advisories import Standing
from controlplane.errors import ImageMissing, SandlotError
from controlplane.images import build
from controlplane.link.accept import UNSEEN
from controlplane.runtime.abilities import LIMITS, NETWORKS, Abilities, Ability
from controlplane.runtime.docker.engine import connect
from controlplane.sandbox import Network, VolumeKind
from controlplane.server.doctor.finding import Finding, Trouble
from controlplane.server.doctor.trial import own_driver, trial
from controlplane.settings.sections import Settings


async def check_engine(settings: Settings) -> str:
    async with own_driver(settings, volume="") as driver:
        info = await driver.describe()
        abilities = driver.abilities
    if info.rootless:
        raise Trouble(
            f"{info.name} {info.version} is rootless", "limits need a rootful engine, or cgroup v2 delegation"
        )
    if not info.seccomp:
        raise Trouble("the engine filters no system calls", "use an engine and a kernel with seccomp")
    if ignored := [name for name in LIMITS if name not in abilities.limits]:
        raise Trouble(
            f"the engine ignores limits on {', '.join(ignored)}",
            "enable those cgroup controllers (on Debian: the kernel parameters cgroup_enable=memory swapaccount=1)",
        )
    if unmet := list(unmet_settings(settings, abilities)):
        raise Trouble(
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


async def check_images(settings: Settings) -> str:
    engine = connect(settings.engine.url)
    try:
        statuses = await build.image_status(engine, Path(settings.paths.images_dir))
    finally:
        await engine.close()
    for state in ("missing", "outdated"):
        if names := [status.tag for status in statuses if status.state == state]:
            raise Trouble(f"{state}: {', '.join(names)}", "`make images`")
    return ", ".join(status.tag for status in statuses)


async def look_at_age(settings: Settings) -> list[Finding]:
    """Return the known problems of the installed versions, as advice unless they are certain."""
    parts = await age.examine(settings.engine.url, Path(settings.paths.images_dir))
    found = [
        Finding("age", f"{part.component} {part.text}", part.cure, is_advice=part.standing is not Standing.VULNERABLE)
        for part in parts
        if part.cure
    ]
    return found or [Finding("age", f"no known problem of {', '.join(part.component for part in parts)}")]


async def check_sandbox(settings: Settings) -> str:
    """Start a container, whose agent connects through a socket directory like the server's."""
    image = settings.resolve_image(settings.sandbox.image)
    began = time.monotonic()
    try:
        async with trial(settings, image):
            took = time.monotonic() - began
    except ImageMissing as error:
        raise Trouble(f"{image}: {error.message}", "`make images`, or another [sandbox] image") from error
    except SandlotError as error:
        raise Trouble(f"{image}: {error.message}", _cure_of(error)) from error
    return f"{image} started and its agent connected in {took * 1000:.0f} ms"


def _cure_of(error: SandlotError) -> str:
    """Return what to do about a sandbox that does not start."""
    if UNSEEN in error.message:
        return "start this container anew with the host's process ids; deploy/compose.yaml does"
    return (
        "is [paths] run_dir on the engine's own host? (an engine in a virtual machine sees other files; a server in a "
        "container needs the host's directory at the same path)"
    )
