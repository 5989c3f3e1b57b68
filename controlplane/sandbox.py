"""The nouns: a sandbox, a request for one, a snapshot, and their states."""

from __future__ import annotations

import enum
import uuid
from datetime import datetime
from typing import NamedTuple

import msgspec

from execd.wire.discreet import Discreet


class State(enum.Enum):
    """The states of a sandbox, named as in the OpenSandbox contract. `lifecycle/records/states.py` has the changes."""

    PENDING = "Pending"
    RUNNING = "Running"
    PAUSING = "Pausing"
    PAUSED = "Paused"
    RESUMING = "Resuming"
    STOPPING = "Stopping"
    TERMINATED = "Terminated"
    FAILED = "Failed"


# The owner of what an administrator creates, and of records from releases without owners.
ADMIN_OWNER = "admin"

CPU_PERIOD_US = 100_000  # the kernel shares out CPU time in periods of this length
MIN_CPUS = 0.01  # the kernel takes no less: 1 ms in each period
MIN_MEMORY_BYTES = 16 << 20  # the agent alone takes 12 MB
MAX_MEMORY_BYTES = 1 << 44  # of a setting, 16 TiB: a larger number is a slip, and the engine's numbers end
UNLIMITED_BYTES = 1 << 60  # stands for "no limit" where a number is needed: no machine has so much memory
# Where every sandbox has the agent's tree and its socket, whatever the engine. The image of the tree and
# `execd/launch/defaults.py` say the same; `tests/unit/controlplane/runtime/docker/test_config.py` compares them.
EXECD_DIR = "/opt/execd"
SOCKET_DIR = "/run/sandlot"
LONGEST_S = 10 * 365 * 86400  # ten years: calculations with dates far beyond are not safe


class Limits(msgspec.Struct, frozen=True):
    """The limits of a sandbox. 0 is no limit."""

    cpus: float = 1.0  # cores
    memory_bytes: int = 2 << 30
    pids: int = 512


class Network(enum.Enum):
    """What a sandbox is connected to."""

    NONE = "none"  # the loopback interface only
    BRIDGE = "bridge"  # a network of the engine that reaches whatever its host reaches, and no other sandbox

    @classmethod
    def allowed(cls, is_allowed: bool) -> Network:
        """Return the network that a setting `allow_network` stands for, and records of earlier releases."""
        return cls.BRIDGE if is_allowed else cls.NONE


class VolumeKind(enum.Enum):
    """What a volume is to the engine; the value completes "to mount …"."""

    NAMED = "a named volume"  # made for its owner
    EXISTING = "a volume that the engine has already"
    HOST_PATH = "a directory of its host"


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume of the engine, or a directory of the host, that a sandbox has at a path.

    `sub_path` never leads out of the volume or the directory: none of its components may be a symbolic link.
    """

    name: str
    mount_path: str  # absolute, normal
    read_only: bool = False
    # The caller's name of a named volume. Records of earlier releases call it by the name in the contract.
    volume_name: str = msgspec.field(default="", name="claim")
    owner: str = ADMIN_OWNER  # of the named volume: two owners with the same name have two volumes
    as_it_is: bool = False  # mount the engine's own volume of that name, which the settings allow
    create: bool = True  # create the named volume if it does not exist
    delete: bool = False  # delete a named volume that this creates after the last sandbox that uses it has ended
    host_root: str = ""  # a directory that the settings allow; empty for a named volume
    sub_path: str = ""  # below the volume or `host_root`; relative, normal; "" is all of it

    @property
    def kind(self) -> VolumeKind:
        """What the engine has to mount."""
        if not self.volume_name:
            return VolumeKind.HOST_PATH
        return VolumeKind.EXISTING if self.as_it_is else VolumeKind.NAMED

    @property
    def owned_name(self) -> str:
        """The name with its owner before it, unless the owner is the administrator. No name contains a dot."""
        return self.volume_name if self.as_it_is or self.owner == ADMIN_OWNER else f"{self.owner}.{self.volume_name}"


class Credentials(Discreet, msgspec.Struct, frozen=True):
    """User name and password at an image registry. They are never stored and never logged."""

    username: str
    password: str


# The name of the warm pool of [sandbox].
DEFAULT_POOL = "default"
# The extension by which a create requests user namespaces.
ISOLATION_KEY = "bootstrap.execd.isolation"


class Platform(msgspec.Struct, frozen=True):
    """The platform of an image, in the contract's words: linux, amd64 or arm64."""

    os: str
    arch: str


class CreateRequest(Discreet, msgspec.Struct, frozen=True, kw_only=True):
    """A request for a sandbox, valid in itself. None stands for the default of the settings."""

    image: str = ""  # as the caller typed it, perhaps an alias
    snapshot_id: str = ""  # instead of an image
    credentials: Credentials | None = None  # for the image's registry
    entrypoint: tuple[str, ...]
    env: dict[str, str] = {}
    metadata: dict[str, str] = {}
    extensions: dict[str, str] = {}
    limits: Limits | None = None
    network: Network | None = None
    volumes: tuple[Volume, ...] = ()
    platform: Platform | None = None
    pool: str = ""  # the name of a warm pool, which decides image, limits and network
    gpus: str = ""  # a number, or "all"
    user_namespaces: bool = False  # allow them, for isolated sessions
    secure_access: bool = False  # every endpoint has its token in the header that is the same for all ports
    timeout_s: int | None = None  # None: no expiry, or the longest lifetime that the settings allow


class SandboxSpec(Discreet, msgspec.Struct, frozen=True, kw_only=True):
    """The specification of a sandbox: a request with aliases and settings applied."""

    image: str  # the engine's name
    entrypoint: tuple[str, ...]
    env: dict[str, str] = {}
    metadata: dict[str, str] = {}
    extensions: dict[str, str] = {}
    limits: Limits = Limits()
    network: Network = Network.NONE
    volumes: tuple[Volume, ...] = ()
    platform: Platform | None = None  # None if the request has none
    pool: str = ""  # the name of the requested warm pool
    gpus: str = ""
    user_namespaces: bool = False
    secure_access: bool = False


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one sandbox in the store. `msgspec.structs.replace` makes a changed record."""

    id: str
    owner: str = ADMIN_OWNER  # the owner of the key that created the sandbox
    container_id: str
    requested_image: str  # the name that the caller used; "" for a snapshot
    snapshot_id: str = ""
    spec: SandboxSpec
    state: State
    created_at: datetime  # aware, UTC
    state_changed_at: datetime
    expires_at: datetime | None = None
    reason: str = ""
    message: str = ""


class Status(NamedTuple):
    """The reason for a state of a sandbox or a snapshot: a word for programs, a sentence for people."""

    reason: str
    message: str


# Values of `status.reason` for ends of sandboxes. Those that begin with CONTAINER_EXITED are upstream's.
EXITED = "CONTAINER_EXITED"  # the entrypoint succeeded
EXITED_ERROR = "CONTAINER_EXITED_ERROR"  # the entrypoint or the container failed
VANISHED = "CONTAINER_VANISHED"
PROTOCOL_VIOLATION = "PROTOCOL_VIOLATION"
AGENT_FAILED = "AGENT_FAILED"
DISK_LIMIT = "DISK_LIMIT"  # the sandbox took too much of the disk
CLAIM_REFUSED = "CLAIM_REFUSED"
EXPIRED = "EXPIRED"
IDLE = "IDLE"
DELETED = "DELETED"
CREATE_FAILED = "CREATE_FAILED"

# The status of a sandbox without a more precise one. CONTAINER_STARTING, _RUNNING and _PAUSED are upstream's words.
_USUAL = {
    State.PENDING: Status("CONTAINER_STARTING", "The sandbox is being started."),
    State.RUNNING: Status("CONTAINER_RUNNING", "The sandbox is running."),
    State.PAUSING: Status("CONTAINER_PAUSING", "The sandbox is being paused."),
    State.PAUSED: Status("CONTAINER_PAUSED", "The sandbox is paused."),
    State.RESUMING: Status("CONTAINER_RESUMING", "The sandbox is being resumed."),
    State.STOPPING: Status("CONTAINER_STOPPING", "The sandbox is being removed."),
    State.TERMINATED: Status(EXITED, "The sandbox has ended."),
    State.FAILED: Status(EXITED_ERROR, "The sandbox has failed."),
}
_ENDED = frozenset({State.STOPPING, State.TERMINATED, State.FAILED})


def status_of(sandbox: Sandbox) -> Status:
    """Return the status of a sandbox. Neither field is ever empty."""
    usual = _USUAL[sandbox.state]
    return Status(sandbox.reason or usual.reason, sandbox.message or usual.message)


def is_gone(sandbox: Sandbox) -> bool:
    """Return whether the answer to a delete, or to a failed create, has told a client that the sandbox is gone.

    The record stays until the container is removed, but no client may find the sandbox any more.
    """
    return sandbox.state is State.STOPPING and sandbox.reason in (DELETED, CREATE_FAILED)


def has_ended(sandbox: Sandbox) -> bool:
    """Return whether a sandbox has ended by itself, or is gone."""
    return sandbox.state in _ENDED


def how_it_ended(sandbox: Sandbox) -> str:
    """Return the cause of the sandbox's end, to follow the state in a message; "" before the end."""
    return " ({}: {})".format(*status_of(sandbox)) if has_ended(sandbox) else ""


class SnapshotState(enum.Enum):
    """The states of a snapshot: Creating → Ready or Failed; each of them → Deleting."""

    CREATING = "Creating"
    READY = "Ready"
    FAILED = "Failed"
    DELETING = "Deleting"


class Snapshot(Discreet, msgspec.Struct, frozen=True, kw_only=True):
    """The files of a sandbox, kept as an image, without its memory and its volumes."""

    id: str
    owner: str = ADMIN_OWNER  # the owner of the sandbox, or the administrator who created the snapshot
    sandbox_id: str
    name: str = ""
    image: str  # the engine's name
    env: dict[str, str] = {}  # of the sandbox: a restored sandbox has the same variables
    is_source_running: bool = False  # when the creation begins: then the sandbox continues afterwards
    state: SnapshotState
    created_at: datetime  # aware, UTC
    state_changed_at: datetime
    reason: str = ""
    message: str = ""


# Upstream's reasons, except for the last one.
_USUAL_OF_SNAPSHOTS = {
    SnapshotState.CREATING: Status("snapshot_accepted", "Snapshot creation accepted."),
    SnapshotState.READY: Status("snapshot_runtime_ready", "The snapshot is complete; sandboxes can start from it."),
    SnapshotState.FAILED: Status("snapshot_runtime_failed", "The snapshot could not be made."),
    SnapshotState.DELETING: Status("snapshot_deleting", "The snapshot is being removed."),
}


def status_of_snapshot(snapshot: Snapshot) -> Status:
    """Return the status of a snapshot. Neither field is ever empty."""
    usual = _USUAL_OF_SNAPSHOTS[snapshot.state]
    return Status(snapshot.reason or usual.reason, snapshot.message or usual.message)


def new_sandbox_id() -> str:
    """Return a fresh id for a sandbox or a snapshot: a random UUID in its canonical form, 36 characters.

    The first official client parses ids as UUIDs. A store of an earlier release holds ids of 16 hex digits, which stay
    valid.
    """
    return str(uuid.uuid4())
