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


class CreateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody asks for, valid in itself. None means: as the settings say."""

    image: str  # as the caller typed it, perhaps an alias
    entrypoint: tuple[str, ...]
    env: dict[str, str] = {}
    metadata: dict[str, str] = {}
    extensions: dict[str, str] = {}
    limits: Limits | None = None
    network: bool | None = None
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


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """One sandbox as the store keeps it. Changed only by replacing it whole (`msgspec.structs.replace`)."""

    id: str
    container_id: str
    requested_image: str  # the name that the caller used
    spec: SandboxSpec
    state: State
    created_at: datetime  # aware, UTC
    state_changed_at: datetime
    expires_at: datetime | None = None
    reason: str = ""
    message: str = ""


def new_sandbox_id() -> str:
    """Return a fresh id: 16 lower-case hex digits, good in paths, host names and container names."""
    return secrets.token_hex(8)
