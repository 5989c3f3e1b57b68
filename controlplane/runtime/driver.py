"""The narrow interface to whatever runs containers. Values in, values out; policy is above it, once.

Every driver passes `tests/contract/driver.py`. Errors are `RuntimeFailure` and its subclasses, nothing else.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator
from typing import Protocol

import msgspec

from controlplane.sandbox import Credentials, Limits, Volume


class ContainerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A container to make: everything that is fixed at creation."""

    sandbox_id: str  # also names the container and its socket directory
    image: str
    socket_dir: str  # on the engine's host; mounted read-only at /run/sandlot, holds link.sock
    limits: Limits
    network: bool
    labels: dict[str, str] = {}
    runtime: str = ""  # engine runtime such as runsc; "" is the engine's default
    hardened: bool = False  # read-only root, non-root user, tmpfs work directories
    volumes: tuple[Volume, ...] = ()
    gpus: str = ""  # how many, or "all"
    user_namespaces: bool = False  # its processes may make some


class ContainerState(enum.Enum):
    """What the engine says of a container."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"  # also while it is being removed


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """One container that carries our labels."""

    id: str
    sandbox_id: str
    image: str
    state: ContainerState
    labels: dict[str, str]
    exit_code: int | None = None  # only in EXITED
    oom_killed: bool = False


class EventKind(enum.Enum):
    """What happened to a container without our asking, or because of it; or to the flow of events itself."""

    CONNECTED = "connected"  # events flow from here on; what happened before is not told: `list()` now
    DIED = "died"
    OOM = "oom"
    REMOVED = "removed"
    PAUSED = "paused"
    RESUMED = "resumed"


class RuntimeEvent(msgspec.Struct, frozen=True):
    """One event of one of our containers. CONNECTED is about none: its ids are empty."""

    kind: EventKind
    sandbox_id: str = ""
    container_id: str = ""
    exit_code: int | None = None  # only in DIED


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine tells of itself and its machine."""

    name: str  # docker, …
    version: str
    api_version: str
    cpus: int
    memory_bytes: int
    cgroup_version: int
    rootless: bool
    storage_driver: str
    seccomp: bool  # it confines containers by its default profile
    runtimes: tuple[str, ...]  # names that `ContainerSpec.runtime` may have
    default_runtime: str
    gpus: bool = False  # it can give containers GPUs
    unenforced: tuple[str, ...] = ()  # limits that it takes and then ignores: memory, swap, cpu, pids


class Driver(Protocol):
    """What is done with containers, images and volumes; events, and what the engine is.

    Container ids are the engine's, as `create()` and `list()` return them. Containers of another installation (see
    `labels.INSTANCE`) are never told of.
    """

    async def create(self, spec: ContainerSpec) -> str:
        """Make a container, not started, and return its id. Never pulls an image.

        Cancelled, it waits for the engine, removes what was made, and then raises.

        Raises:
            ImageMissing: the engine does not have the image.
            VolumeRefused: one of the volumes cannot be mounted.
            RuntimeFailure: anything else. Nothing is left behind, unless the engine stopped answering (then `list()`
                tells when it is back).
        """

    async def start(self, container_id: str) -> None:
        """Start it: execd runs as PID 1 and dials the socket. Nothing happens when it runs already.

        Cancelled, it may start all the same.

        Raises:
            StartFailed: it did not start; the container still exists, destroy it.
        """

    async def resize(self, container_id: str, limits: Limits) -> None:
        """Change the limits of a container, at once if it runs.

        Raises:
            RuntimeFailure: the engine refused, for example because more memory is in use. The limits are as before.
        """

    async def pause(self, container_id: str) -> None:
        """Let all its processes stand still; their memory stays. Nothing happens when they do already.

        Raises:
            RuntimeFailure: the engine refused; it does not run, for example.
        """

    async def resume(self, container_id: str) -> None:
        """Let a paused one go on. Nothing happens when it runs. Raises RuntimeFailure."""

    async def destroy(self, container_id: str) -> None:
        """Kill and remove it, with all it wrote. Returns when it is gone.

        Idempotent, also when called twice at once; needs no live execd; succeeds on what is gone. Cancelled, the
        removal goes on.
        """

    async def commit(self, container_id: str, image: str) -> None:
        """Keep what a container has written as an image; it stands still meanwhile.

        Cancelled, the engine may finish it all the same. Raises RuntimeFailure.
        """

    async def remove_image(self, image: str) -> None:
        """Remove an image. Idempotent. Raises RuntimeFailure: a container is made from it, for example."""

    async def pull(self, image: str, credentials: Credentials | None) -> None:
        """Fetch an image from its registry.

        Raises:
            ImageMissing: the registry does not have it, or not for these credentials.
            RuntimeFailure: it cannot be reached, or says nothing for too long.
        """

    async def remove_unused_volumes(self) -> None:
        """Remove the volumes of claims that were made to be removed (`Volume.delete`), and that no container uses.

        Those of this installation, with all that is in them; never one for which a container is being created.
        Idempotent. Raises RuntimeFailure.
        """

    async def inspect(self, container_id: str) -> Container | None:
        """Return what the engine knows of it; None when it is gone."""

    async def list(self) -> list[Container]:
        """Return all containers that carry our labels, in any state."""

    def events(self) -> AsyncGenerator[RuntimeEvent, None]:
        """Yield events from now on, the first one is CONNECTED.

        Reconnects by itself and then yields CONNECTED again. Take events promptly: an engine drops what a slow reader
        leaves. Close it with `contextlib.aclosing`.

        Raises:
            EngineUnavailable: the engine has not answered for a minute.
        """

    async def describe(self) -> EngineInfo:
        """Return what the engine is. Also the question whether it answers at all."""

    async def aclose(self) -> None:
        """Close the connection to the engine. Containers stay."""
