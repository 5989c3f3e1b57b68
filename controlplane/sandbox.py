"""The nouns: what a sandbox is, what somebody asks for, and in which state it stands."""

from __future__ import annotations

import enum
import secrets
from datetime import datetime

import msgspec


class State(enum.Enum):
    """The life of a sandbox, in the words of the OpenSandbox contract. The transitions are `lifecycle/states.py`."""

    PENDING = "Pending"
    RUNNING = "Running"
    PAUSING = "Pausing"
    PAUSED = "Paused"
    RESUMING = "Resuming"
    STOPPING = "Stopping"
    TERMINATED = "Terminated"
    FAILED = "Failed"


class Limits(msgspec.Struct, frozen=True):
    """What a sandbox may use. 0 means no limit of ours."""

    cpus: float = 1.0  # cores
    memory_bytes: int = 2 << 30
    pids: int = 512


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """Something of the host that a sandbox sees at a path: a volume of the engine by its name, or a directory.

    `sub_path` never leads out of what it is below: none of its components may be a symbolic link.
    """

    name: str
    mount_path: str  # absolute, normal
    read_only: bool = False
    claim: str = ""  # name of the volume, as the caller has it
    create: bool = True  # the claim's volume when there is none
    delete: bool = False  # the claim's volume, if this makes it, when the last sandbox that uses it has ended
    host_root: str = ""  # a directory that the settings allow; set when there is no claim
    sub_path: str = ""  # below the volume or `host_root`; relative, normal; "" is all of it


class Credentials(msgspec.Struct, frozen=True):
    """User name and password at an image registry. Never stored, never logged."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, …)"


# The extension by which a sandbox asks for user namespaces.
ISOLATION_KEY = "bootstrap.execd.isolation"


class Platform(msgspec.Struct, frozen=True):
    """What an image must run on, in the contract's words: linux, amd64 or arm64."""

    os: str
    arch: str


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody asks for, valid in itself. None means: as the settings say."""

    image: str = ""  # as the caller typed it, perhaps an alias
    snapshot_id: str = ""  # instead of an image
    credentials: Credentials | None = None  # for the image's registry
    entrypoint: tuple[str, ...]
    env: dict[str, str] = {}
    metadata: dict[str, str] = {}
    extensions: dict[str, str] = {}
    limits: Limits | None = None
    network: bool | None = None
    volumes: tuple[Volume, ...] = ()
    platform: Platform | None = None
    gpus: str = ""  # a number, or "all"
    user_namespaces: bool = False  # it may make some: for isolated sessions in it
    timeout_s: int | None = None  # None: no expiry, or the longest lifetime that the settings allow


class SandboxSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a sandbox is to be: a request with aliases and settings applied."""

    image: str  # as the engine knows it
    entrypoint: tuple[str, ...]
    env: dict[str, str] = {}
    metadata: dict[str, str] = {}
    extensions: dict[str, str] = {}
    limits: Limits = Limits()
    network: bool = False
    volumes: tuple[Volume, ...] = ()
    platform: Platform | None = None  # only where it was asked for
    gpus: str = ""
    user_namespaces: bool = False


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """One sandbox as the store keeps it. Changed only by replacing it whole (`msgspec.structs.replace`)."""

    id: str
    container_id: str
    requested_image: str  # the name that the caller used; "" when it comes from a snapshot
    snapshot_id: str = ""
    spec: SandboxSpec
    state: State
    created_at: datetime  # aware, UTC
    state_changed_at: datetime
    expires_at: datetime | None = None
    reason: str = ""
    message: str = ""


class SnapshotState(enum.Enum):
    """The life of a snapshot: Creating → Ready or Failed; each of them → Deleting."""

    CREATING = "Creating"
    READY = "Ready"
    FAILED = "Failed"
    DELETING = "Deleting"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a sandbox had written, kept as an image. Its memory and its volumes are not in it."""

    id: str
    sandbox_id: str
    name: str = ""
    image: str  # as the engine knows it
    env: dict[str, str] = {}  # of the sandbox: a restored one has them too
    state: SnapshotState
    created_at: datetime  # aware, UTC
    state_changed_at: datetime
    reason: str = ""
    message: str = ""


def new_sandbox_id() -> str:
    """Return a fresh id: 16 lower-case hex digits, good in paths, host names and container names."""
    return secrets.token_hex(8)
