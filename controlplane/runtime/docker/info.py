"""What a Docker engine says of itself."""

from __future__ import annotations

from typing import Any

import aiodocker
import msgspec
from msgspec.structs import replace

from controlplane.errors import Unsupported
from controlplane.runtime.abilities import LIMITS, Abilities, Ability
from controlplane.runtime.docker.engine import our_errors
from controlplane.runtime.driver import ContainerSpec
from controlplane.runtime.events import EventKind
from controlplane.sandbox import Network, VolumeKind

NAME = "docker"


class Info(msgspec.Struct, rename="pascal"):
    """The part of the engine's answer that we read."""

    server_version: str
    cpus: int = msgspec.field(name="NCPU")
    memory_bytes: int = msgspec.field(name="MemTotal")
    storage_driver: str = msgspec.field(name="Driver")
    driver_status: list[tuple[str, str]] | None = None
    data_root: str = msgspec.field(name="DockerRootDir", default="")  # on the engine's host
    cgroup_version: str = "1"  # engines that do not tell know nothing else
    security_options: list[str] | None = None
    runtimes: dict[str, Any] = {}
    default_runtime: str = ""
    memory_limit: bool = True
    swap_limit: bool = True
    cpu_limit: bool = msgspec.field(name="CpuCfsQuota", default=True)
    pids_limit: bool = True


class Asker:
    """Asks the engine what it is, and keeps the last answer."""

    def __init__(self, docker: aiodocker.Docker) -> None:
        self._docker = docker
        self._last: Info | None = None
        self._has_refused_quotas = False
        self.abilities = abilities_of(None)

    async def ask(self) -> Info:
        """Return what the engine is now. Raises RuntimeFailure."""
        with our_errors("ask the container engine about itself"):
            self._last = msgspec.convert(await self._docker.system.info(), Info)
        self._learn()
        return self._last

    async def ask_once(self) -> Info:
        """Return what the engine was when it was last asked. Raises RuntimeFailure."""
        return self._last or await self.ask()

    async def has_quotas(self) -> bool:
        """Return whether the engine may have quotas. Raises RuntimeFailure."""
        await self.ask_once()
        return Ability.DISK_LIMITS in self.abilities.can

    def refused_quotas(self) -> None:
        """Take note that the engine has no quotas, whatever it says of its storage."""
        self._has_refused_quotas = True
        self._learn()

    async def check(self, spec: ContainerSpec) -> None:
        """Raise Unsupported when the engine cannot make a container, RuntimeFailure when it does not answer."""
        try:
            self.abilities.check(spec)
        except Unsupported:
            await self.ask()  # for the first time, or an operator has added a runtime since
            self.abilities.check(spec)

    def _learn(self) -> None:
        found = abilities_of(self._last)
        self.abilities = replace(found, can=found.can - {Ability.DISK_LIMITS}) if self._has_refused_quotas else found


def abilities_of(info: Info | None) -> Abilities:
    """Return what an engine can do that says this of itself, or has not been asked yet."""
    can = set(Ability) - {Ability.GPUS, Ability.DISK_LIMITS}
    runtimes: frozenset[str] = frozenset()
    limits = frozenset(LIMITS)
    if info is not None:
        runtimes = frozenset(info.runtimes)
        limits = frozenset(name for name in LIMITS if getattr(info, f"{name}_limit"))
        if "nvidia" in runtimes:
            can.add(Ability.GPUS)
        if _may_have_quotas(info):
            can.add(Ability.DISK_LIMITS)
    return Abilities(
        engine=NAME,
        can=frozenset(can),
        limits=limits,
        networks=frozenset({Network.NONE, Network.BRIDGE}),
        volumes=frozenset(VolumeKind),
        runtimes=runtimes,
        takes_other_shims=True,  # from release 23 on; an earlier one refuses the start
        events=frozenset({EventKind.OOM, EventKind.PAUSED, EventKind.RESUMED}),
    )


def _may_have_quotas(info: Info) -> bool:
    """Return whether the engine's storage seems to have quotas. (On btrfs, the image would count too.)"""
    backing = next((value for name, value in info.driver_status or () if name == "Backing Filesystem"), "xfs")
    return info.storage_driver == "zfs" or (info.storage_driver == "overlay2" and backing == "xfs")
