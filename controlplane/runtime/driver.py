"""The interface to whatever runs containers. Values in, values out; policy is above it, once.

A `Driver` has three parts: `Containers`, `Images` and `Volumes`. Every driver passes `tests/contract`. Errors are
`RuntimeFailure` and its subclasses, nothing else. An engine refuses what it has no ability for with `Unsupported`.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Collection
from datetime import datetime
from typing import Protocol

import msgspec

from controlplane.runtime.abilities import Abilities
from controlplane.runtime.events import RuntimeEvent
from controlplane.sandbox import Credentials, Limits, Network, Volume


class ContainerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A container to make: everything that is fixed at creation."""

    sandbox_id: str  # also names its socket directory
    image: str
    socket_dir: str  # on the engine's host; mounted read-only at /run/sandlot, holds link.sock
    limits: Limits
    network: Network
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


class DiskUsage(msgspec.Struct, frozen=True):
    """What a sandbox's container takes on the engine's disk, and the named volumes that are mounted in it."""

    sandbox_id: str
    own_bytes: int
    own_files: int  # -1 where nobody counts them
    named_bytes: int
    named_files: int


class DiskRoom(msgspec.Struct, frozen=True):
    """What is left on the engine's disk."""

    free_bytes: int
    free_files: int | None  # None where the file system has no bound


class Load(msgspec.Struct, frozen=True):
    """What the processes of a container use of the machine."""

    cpu_s: float  # CPU time since its start
    memory_bytes: int  # now; without files that the kernel keeps in memory as long as there is room


class ImageInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An image that the engine has under some names."""

    id: str
    names: tuple[str, ...]  # each with its tag; at least one
    size_bytes: int  # with the layers that it shares with others
    created_at: datetime  # aware


class VolumeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A named volume of this installation."""

    name: str  # see `Volume.owned_name`
    created_at: datetime  # aware
    size_bytes: int | None = None  # None if it was not measured


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
    default_runtime: str


class Containers(Protocol):
    """What is done with containers, and what happens to them.

    Container ids are the engine's, as `create()` and `list()` return them. Containers of another installation (see
    `labels.INSTANCE`) are never told of.
    """

    async def create(self, spec: ContainerSpec) -> str:
        """Make a container, not started, and return its id. Never pulls an image.

        Cancelled, it waits for the engine, removes what was made, and then raises.

        Raises:
            ImageMissing: the engine does not have the image.
            VolumeRefused: one of the volumes cannot be mounted.
            Unsupported: the engine cannot make such containers at all.
            RuntimeFailure: anything else. Nothing is left behind, unless the engine stopped answering (then `list()`
                tells when it is back).
        """

    async def start(self, container_id: str) -> None:
        """Start it: execd runs as PID 1 and dials the socket. Nothing happens when it runs already.

        A cancelled call may still start the container.

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

        An engine that is only too busy is asked again for some seconds.

        Raises:
            RuntimeFailure: the engine refused; it does not run, for example.
        """

    async def resume(self, container_id: str) -> None:
        """Let a paused one go on, as patiently as `pause()`. Nothing happens when it runs. Raises RuntimeFailure."""

    async def destroy(self, container_id: str) -> None:
        """Kill and remove it, with all it wrote. Returns when it is gone.

        Idempotent, also when called twice at once; needs no live execd; succeeds on what is gone. Cancelled, the
        removal goes on.
        """

    async def inspect(self, container_id: str) -> Container | None:
        """Return what the engine knows of it; None when it is gone."""

    async def list(self) -> list[Container]:
        """Return all containers that carry our labels, in any state."""

    def events(self) -> AsyncGenerator[RuntimeEvent, None]:
        """Yield events from now on, the first one is CONNECTED.

        Reconnects by itself and then yields CONNECTED again; DISCONNECTED comes before it within seconds after the
        engine stopped to answer, also if it only hangs. Take events promptly: an engine drops what a slow reader
        leaves. Close it with `contextlib.aclosing`.

        Raises:
            EngineUnavailable: the engine has not answered for a minute.
        """

    async def disk_usage(self, max_bytes: int, max_files: int) -> tuple[DiskUsage, ...]:
        """Return what each of our containers takes on the disk.

        For a sandbox beyond a bound, the answer says only that it is beyond. A second passes for each 300,000
        files, at the lowest priority.

        Raises:
            RuntimeFailure: the engine does not answer, or it takes too long.
        """

    async def load(self, container_ids: Collection[str]) -> dict[str, Load]:
        """Return what containers use now, by container. The engine is not asked; 0.1 ms for each, in a thread.

        A container that has ended is left out, and so is each whose use cannot be seen from here (another machine's).
        """


class Images(Protocol):
    """What is done with images."""

    async def list(self) -> list[ImageInfo]:
        """Return all images that have a name, not only ours. Raises RuntimeFailure."""

    async def commit(self, container_id: str, image: str) -> None:
        """Keep what a container has written as an image; it stands still meanwhile, and goes on if it ran.

        The engine may still finish a cancelled call. A process that is killed meanwhile leaves it paused.

        Raises:
            RuntimeFailure: the engine refused, or the container cannot be paused.
        """

    async def pull(self, image: str, credentials: Credentials | None) -> None:
        """Fetch an image from its registry.

        Raises:
            ImageMissing: the registry does not have it, or not for these credentials.
            RuntimeFailure: it cannot be reached, or says nothing for too long.
        """

    async def remove(self, image: str) -> None:
        """Remove an image. Idempotent.

        Raises:
            ImageInUse: containers are made from it, or other images are built upon it.
            RuntimeFailure: the engine refused or failed.
        """


class Volumes(Protocol):
    """What is done with named volumes. `Containers.create` makes them."""

    async def list(self, *, measure: bool = False) -> list[VolumeInfo]:
        """Return the named volumes that this installation has made.

        With *measure*, also what they hold, as far as that can be seen from here; a second passes for each 300,000
        files, at the lowest priority, and a volume with more than a million files is not measured.

        Raises RuntimeFailure.
        """

    async def remove(self, name: str) -> None:
        """Remove a named volume of this installation, with all that is in it. Idempotent.

        Raises:
            VolumeInUse: a container has it, or will have it.
            RuntimeFailure: the engine refused or failed.
        """

    async def remove_unused(self) -> None:
        """Remove the named volumes that were made to be removed (`Volume.delete`), and that no container uses.

        Those of this installation, with all that is in them; never one for which a container is being created.
        Idempotent. Raises RuntimeFailure.
        """


class Driver(Protocol):
    """One engine as one installation of the control plane uses it."""

    @property
    def containers(self) -> Containers:
        """Its containers."""

    @property
    def images(self) -> Images:
        """Its images."""

    @property
    def volumes(self) -> Volumes:
        """Its volumes."""

    @property
    def abilities(self) -> Abilities:
        """What the engine can do, as the last `describe()` found it."""

    async def disk_room(self) -> DiskRoom | None:
        """Return what is left on the engine's disk; None when that cannot be seen from here. Takes 0.1 ms."""

    async def describe(self) -> EngineInfo:
        """Return what the engine is, and learn its abilities. Also the question whether it answers at all."""

    async def aclose(self) -> None:
        """Close the connection to the engine. Containers stay."""
