"""The JSON of the server's own operations as Structs."""

from __future__ import annotations

from datetime import datetime

import msgspec

from controlplane.lifecycle.events.news import PoolNews


class AddressView(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses of the server. A field that the settings leave empty is empty."""

    public_address: str  # host[:port] of endpoints; empty: as the client called the server
    port_domain: str  # host[:port] below which ports have host names; empty: localhost alone


class EngineView(msgspec.Struct, frozen=True, kw_only=True):
    """The container engine, and what it can do. While it does not answer, only its name is known."""

    answers: bool
    name: str
    version: str = ""
    api_version: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    cgroup_version: int = 0
    storage_driver: str = ""
    default_runtime: str = ""
    abilities: list[str]  # each completes "the engine can …"
    networks: list[str]
    volumes: list[str]
    runtimes: list[str]
    limits: list[str]  # those that the engine enforces


class DiskView(msgspec.Struct, frozen=True):
    """The free space of the engine's disk. `free_files` is null where the file system has no bound."""

    free_bytes: int
    free_files: int | None


class LimitsView(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of sandboxes. 0 is no limit."""

    max_sandboxes: int
    cpus: float  # of a sandbox that asks for none; so are the next three
    memory_bytes: int
    pids: int
    timeout_s: float  # of a run that asks for none
    max_cpus: float  # that a request may ask for; so are the next two
    max_memory_bytes: int
    max_lifetime_s: int
    disk_bytes: int
    disk_files: int
    max_snapshots: int


class SettingView(msgspec.Struct, frozen=True):
    """A setting that is not the default. The value of a secret is never shown."""

    name: str  # "[section] key"
    value: str
    default: str


class ServerView(msgspec.Struct, frozen=True, kw_only=True):
    """The server. Only administrators get `settings`."""

    version: str
    started_at: datetime
    problem: str  # why the server is not ready; "" if it is
    address: AddressView
    engine: EngineView
    sandboxes: dict[str, int]  # by state
    pools: list[PoolNews]
    disk: DiskView | None  # null where the disk cannot be seen from here
    limits: LimitsView
    settings: list[SettingView]


class ImageView(msgspec.Struct, frozen=True, kw_only=True):
    """An image of the engine."""

    name: str
    id: str
    size_bytes: int  # with the layers that it shares with others
    created_at: datetime
    languages: list[str]  # that Sandlot's own images declare; empty for others
    is_ours: bool  # built by Sandlot
    sandboxes: int  # that live, made from it
    pooled: bool  # a warm pool keeps containers of it


class ImageList(msgspec.Struct, frozen=True):
    """The images from which sandboxes can start, by name."""

    items: list[ImageView]


class VolumeView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A named volume. The name of another owner's volume begins with the owner and a dot."""

    name: str
    owner: str
    created_at: datetime
    in_use_by: list[str]  # ids of sandboxes that the caller sees
    size_bytes: int | None = None  # if `sizes` was asked for and the volume could be measured


class VolumeList(msgspec.Struct, frozen=True):
    """The named volumes that sandboxes of this server have made, by name."""

    items: list[VolumeView]


class CheckView(msgspec.Struct, frozen=True, kw_only=True):
    """One check of this machine. `cure` says what to do; a check with `is_advice` may fail on a machine that works."""

    name: str
    ok: bool
    message: str
    cure: str
    is_advice: bool
    skipped: bool


class Report(msgspec.Struct, frozen=True):
    """The checks of `sandlot doctor`."""

    checks: list[CheckView]


class SpecView(msgspec.Struct, frozen=True):
    """A specification of this server."""

    name: str
    title: str
    size_bytes: int


class SpecList(msgspec.Struct, frozen=True):
    """The specifications."""

    items: list[SpecView]
