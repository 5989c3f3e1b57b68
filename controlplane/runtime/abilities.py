"""What a container engine can do. Code above `runtime` reads this value, and never asks which engine it has."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from controlplane.errors import Unsupported
from controlplane.runtime.events import EventKind
from controlplane.sandbox import Network, Volume, VolumeKind

# What a container can be limited in.
LIMITS = ("memory", "swap", "cpu", "pids")


# Each completes "the engine cannot …".
NETWORKS = {
    Network.NONE: "keep a container from the network",
    Network.BRIDGE: "give a container a network",
}


class Ability(enum.Enum):
    """Something that some engines can do and others cannot; the value completes "the engine cannot …"."""

    PAUSE = "pause containers"
    LIVE_LIMITS = "change the limits of a container"
    SNAPSHOTS = "make images of containers"
    PULL = "pull images"
    GPUS = "give a container GPUs"
    USER_NAMESPACES = "let a container make user namespaces"
    DISK_USAGE = "measure what a container takes of the disk"
    DISK_LIMITS = "hold a container to a limit of its disk"


class Wanted(Protocol):
    """What is wanted of a container, as far as engines differ in it: a `ContainerSpec`, or a template of the pool."""

    @property
    def network(self) -> Network:
        """What it is connected to."""

    @property
    def runtime(self) -> str:
        """The engine's runtime; "" is its default."""

    @property
    def volumes(self) -> Sequence[Volume]:
        """The volumes."""

    @property
    def gpus(self) -> str:
        """How many GPUs, or "all"; "" is none."""

    @property
    def user_namespaces(self) -> bool:
        """Whether its processes may make some."""


class Abilities(msgspec.Struct, frozen=True, kw_only=True):
    """What one engine can do."""

    engine: str  # its name, for messages
    can: frozenset[Ability]
    limits: frozenset[str]  # of LIMITS: those that it enforces; it takes the others and ignores them
    networks: frozenset[Network]
    volumes: frozenset[VolumeKind]
    runtimes: frozenset[str]  # names that `ContainerSpec.runtime` may have, beside ""
    takes_other_shims: bool = False  # it starts any containerd shim by its full name, such as io.containerd.kata.v2
    events: frozenset[EventKind]  # those that it tells of, beside DIED and REMOVED

    def require(self, ability: Ability) -> None:
        """Raise Unsupported when the engine has not that ability."""
        if ability not in self.can:
            raise self._refusal(ability.value)

    def check(self, wanted: Wanted) -> None:
        """Raise Unsupported when the engine cannot make such a container; the message names the first reason."""
        for lack in self._lacks(wanted):
            raise self._refusal(lack)

    def _lacks(self, wanted: Wanted) -> Iterator[str]:
        if wanted.network not in self.networks:
            yield NETWORKS[wanted.network]
        is_shim = self.takes_other_shims and "." in wanted.runtime
        if wanted.runtime and wanted.runtime not in self.runtimes and not is_shim:
            yield f"run containers by {wanted.runtime}; it has {', '.join(sorted(self.runtimes)) or 'no other runtime'}"
        if wanted.gpus and Ability.GPUS not in self.can:
            yield Ability.GPUS.value
        if wanted.user_namespaces and Ability.USER_NAMESPACES not in self.can:
            yield Ability.USER_NAMESPACES.value
        for volume in wanted.volumes:
            if volume.kind not in self.volumes:
                yield f"mount {volume.kind.value} (volume {volume.name})"

    def _refusal(self, lack: str) -> Unsupported:
        return Unsupported(f"the container engine {self.engine} cannot {lack}")
