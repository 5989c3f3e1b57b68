"""The sections of the settings as Structs: the default, bounds and help text of every key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from controlplane.images.names import OUR_IMAGES, nearest_image, resolve_alias
from controlplane.sandbox import (
    CPU_PERIOD_US,
    DEFAULT_POOL,
    LONGEST_S,
    MAX_MEMORY_BYTES,
    MIN_MEMORY_BYTES,
    Limits,
    Network,
)
from execd.wire.discreet import Discreet

# A `cpu_quota` from here on is a number of µs in each period, the unit of older releases. No machine has so many CPUs.
CPU_QUOTA_IN_US = 1000
MAX_CPU_QUOTA = 1000 * CPU_PERIOD_US
MIN_MEMORY_KB = MIN_MEMORY_BYTES >> 10
MAX_MEMORY_KB = MAX_MEMORY_BYTES >> 10
MAX_PIDS = 1 << 22  # the kernel has no more process ids

# Users of OpenSandbox type the names of the official images, which three registries have. Programs use the base image
# like the image itself. The values are the images of Sandlot that do the same work.
DEFAULT_ALIASES = {
    "opensandbox/code-interpreter": "sandlot/code-interpreter",
    "opensandbox/code-interpreter-base": "sandlot/code-interpreter",
    "ghcr.io/opensandbox-group/opensandbox/code-interpreter": "sandlot/code-interpreter",
    "sandbox-registry.cn-zhangjiakou.cr.aliyuncs.com/opensandbox/code-interpreter": "sandlot/code-interpreter",
    "opensandbox/python": "sandlot/python",
    "code-interpreter": "sandlot/code-interpreter",
}


def _help(text: str, *, expected: str = "", **limits: Any) -> Meta:
    """Return the help text and the bounds of a setting. *expected* puts a pattern into words."""
    return Meta(description=text, extra={"expected": expected} if expected else None, **limits)


_ADDRESS = {
    "pattern": r"^(?:(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)?$",
    "expected": "host or host:port, without a scheme and a path",
}


KeyName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$")]

ApiKey = Annotated[str, Meta(pattern=r"^[!-~]{16,}$", description="16 visible ASCII characters or more")]
# A star is a whole label, a whole port or everything: `https://example.com*` would allow example.com.evil.example.
Origin = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[A-Za-z][A-Za-z0-9+.-]*://(\*|(\*\.)?[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:(\*|[0-9]{1,5}))?)$",
        description="the form https://example.com:8443, with * for a port or for names below, or a * alone",
    ),
]


class ServerSettings(Discreet, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[server]`."""

    host: Annotated[str, _help("Address to listen on.", min_length=1)] = "127.0.0.1"
    port: Annotated[int, _help("TCP port to listen on; 0 takes a free one.", ge=0, le=65535)] = 8194
    public_address: Annotated[
        str, _help("host[:port] of endpoints in answers. Empty: the Host header of the client's request.", **_ADDRESS)
    ] = ""
    port_domain: Annotated[
        str,
        _help(
            "host[:port] below which every port of a sandbox has its own host name, {port}-{id}.{domain}. "
            "Requires a wildcard DNS entry. Names below localhost always work.",
            **_ADDRESS,
        ),
    ] = ""
    api_keys: Annotated[
        tuple[ApiKey, ...] | dict[KeyName, ApiKey],
        _help(
            "API keys, separated by commas in a variable or flag. A file may have a table of names and keys instead; "
            "the log contains the names. Empty: the first start creates a key."
        ),
    ] = ()
    allowed_origins: Annotated[
        tuple[Origin, ...],
        _help(
            "Origins of web pages that may call the API and ports with a key or token (CORS), such as "
            "https://*.example.com or http://localhost:*. A single * allows all origins. An empty list, or a single "
            "comma in a variable, allows none."
        ),
    ] = ("*",)
    isolate_pages: Annotated[
        bool,
        _help(
            "Give a sandbox's page at a path address an opaque origin, or redirect the browser to a host name. "
            "false: such pages share an origin with each other and with the API, and the console is off."
        ),
    ] = True
    endpoint_tokens: Annotated[
        Literal["auto", "header", "path"],
        _help(
            "Where endpoints carry the sandbox's token: in a header that the client must send, or in the path. "
            "auto: the client's User-Agent decides."
        ),
    ] = "auto"
    open_metrics: Annotated[bool, _help("Serve Prometheus' /metrics without a key.")] = False
    max_failed_attempts: Annotated[
        int,
        _help(
            "Requests without a key or with a wrong key that one client address may send in a minute; further ones get "
            "status 429. Requests with a right key are not affected. 0: no limit.",
            ge=0,
        ),
    ] = 100
    trusted_proxies: Annotated[
        tuple[str, ...],
        _help(
            "Addresses or networks, such as 10.0.0.0/8, of proxies. The server trusts their X-Forwarded-For, -Proto "
            "and -Host headers, drops those of others, and does not limit their connections. Empty: no proxy."
        ),
    ] = ()
    max_connections: Annotated[
        int,
        _help(
            "Connections of clients at once, WebSockets included. Half of the process's limit of file descriptors is "
            "always a second bound. 0: only the second bound.",
            ge=0,
            le=1_000_000,
        ),
    ] = 4096
    max_connections_per_address: Annotated[
        int,
        _help(
            "Connections from one address at once; a sandbox with a network has its own address. 0: no limit.",
            ge=0,
            le=1_000_000,
        ),
    ] = 1024

    @property
    def named_keys(self) -> dict[str, str]:
        """The API keys by name. The keys of a list are called key-1, key-2, and so on."""
        if isinstance(self.api_keys, dict):
            return self.api_keys
        return {f"key-{number}": key for number, key in enumerate(self.api_keys, 1)}


class SandboxSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[sandbox]`."""

    image: Annotated[str, _help("Image of the default warm pool.", min_length=1)] = "sandlot/code-interpreter"
    pool_size: Annotated[int, _help("Warm containers of the default pool.", ge=0, le=1000)] = 5
    cpu_quota: Annotated[
        float,
        _help(
            "CPUs of a sandbox whose request has no limit, such as 2 or 0.5; at least 0.01. 0: no limit. "
            "A number from 1000 on is read as µs in each 100 ms, the unit of older releases.",
            ge=0,
            le=MAX_CPU_QUOTA,
        ),
    ] = 1
    memory_limit: Annotated[
        int,
        _help(
            "Memory, swap included, of a sandbox whose request has no limit, in KB; at least 16384. 0: no limit.",
            ge=0,
            le=MAX_MEMORY_KB,
        ),
    ] = 2 << 20
    max_cpus: Annotated[
        float,
        _help(
            "Most CPUs that a client may request for a sandbox. "
            "0: the CPUs of the engine's machine, or cpu_quota if that is more.",
            ge=0,
            le=CPU_QUOTA_IN_US - 1,
        ),
    ] = 0
    max_memory: Annotated[
        int,
        _help(
            "Most memory that a client may request for a sandbox, in KB. "
            "0: the memory of the engine's machine, or memory_limit if that is more.",
            ge=0,
            le=MAX_MEMORY_KB,
        ),
    ] = 0
    disk_limit: Annotated[
        int,
        _help(
            "Disk space of a sandbox, in KB: its data outside of volumes, and the growth of its volumes while they are "
            "mounted. The server ends a sandbox that takes more; if the engine has quotas, its disk is full instead. "
            "0: no limit.",
            ge=0,
            le=MAX_MEMORY_KB,
        ),
    ] = 10 << 20
    file_limit: Annotated[
        int,
        _help(
            "Files and directories of a sandbox, counted in the places that disk_limit counts. The server ends a "
            "sandbox that creates more. 0: no limit.",
            ge=0,
            le=1 << 40,
        ),
    ] = 1_000_000
    max_sandboxes: Annotated[
        int, _help("Sandboxes at once, paused ones included. 0: no limit.", ge=0, le=1_000_000)
    ] = 0
    cpu_overcommit: Annotated[
        float,
        _help(
            "Largest sum of the CPU limits of all sandboxes, as a multiple of the machine's CPUs. "
            "0: no limit; sandboxes share the CPU time.",
            ge=0,
            le=1_000_000,
        ),
    ] = 0
    memory_overcommit: Annotated[
        float,
        _help(
            "Largest sum of the memory limits of all sandboxes, as a multiple of the machine's memory. 0: no limit.",
            ge=0,
            le=1_000_000,
        ),
    ] = 16
    pids_limit: Annotated[int, _help("Processes and threads of a sandbox at once.", ge=16, le=MAX_PIDS)] = 512
    max_contexts: Annotated[int, _help("Contexts of a sandbox at once.", ge=1, le=4096)] = 64
    output_limit: Annotated[
        int,
        _help(
            "Output of one run of code, in KB. The rest is dropped, and a line on stderr marks the place. 0: no limit.",
            ge=0,
        ),
    ] = 256 << 10
    recording_limit: Annotated[
        int,
        _help(
            "Memory of a sandbox that all its recorded runs (Sandlot-Keep, keep_s) may use together, in KB.",
            ge=64,
            le=4 << 20,
        ),
    ] = 8 << 10
    allow_network: Annotated[bool, _help("Give sandboxes a network. false: the loopback interface only.")] = False
    timeout_seconds: Annotated[
        float,
        _help(
            "Time limit of a run or a foreground command whose request has none, in s. 0: no limit.",
            ge=0,
            le=LONGEST_S,
        ),
    ] = 0
    max_lifetime: Annotated[
        int,
        _help(
            "Longest lifetime of a sandbox from its creation on, renewals included, in s. 0: no limit.",
            ge=0,
            le=LONGEST_S,
        ),
    ] = 0
    allow_user_namespaces: Annotated[
        bool, _help("Allow sandboxes with isolated sessions; such a sandbox may create user namespaces.")
    ] = False
    runtime: Annotated[str, _help("Engine runtime, such as runsc. Empty: the engine's default.")] = ""
    hardened: Annotated[
        bool, _help("Use the hardened profile: read-only root, non-root user, work directories in memory.")
    ] = False

    @property
    def limits(self) -> Limits:
        """The limits of a sandbox whose request has none."""
        return Limits(cpus=cpus_of(self.cpu_quota), memory_bytes=self.memory_limit * 1024, pids=self.pids_limit)


class PoolSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of `[[pools]]`: a warm pool beside the pool of `[sandbox]`."""

    image: Annotated[str, _help("Image to keep warm.", min_length=1)]
    size: Annotated[int, _help("Warm containers to keep.", ge=0, le=1000)]
    name: Annotated[
        str,
        _help(
            'Name by which a client requests a container of this pool: extensions {"poolRef": "NAME"}.',
            pattern=r"^(?:[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)?$",
            expected="at most 63 lower-case letters, digits and '-', as in a host name",
        ),
    ] = ""
    cpu_quota: (
        Annotated[float, _help("CPUs of its sandboxes. Absent: as in [sandbox].", ge=0, le=MAX_CPU_QUOTA)] | None
    ) = None
    memory_limit: (
        Annotated[int, _help("Memory of its sandboxes, in KB. Absent: as in [sandbox].", ge=0, le=MAX_MEMORY_KB)] | None
    ) = None
    allow_network: Annotated[bool, _help("Give its sandboxes a network. Absent: as in [sandbox].")] | None = None
    runtime: Annotated[str, _help("Engine runtime of its sandboxes. Absent: as in [sandbox].")] | None = None
    when_exhausted: Annotated[
        Literal["start", "refuse"],
        _help("Answer to a client that names this pool while no container is warm: a fresh container, or status 429."),
    ] = "start"


class WarmPool(msgspec.Struct, frozen=True, kw_only=True):
    """One warm pool with all values filled in: the pool of `[sandbox]`, or one of `[[pools]]`."""

    name: str  # "" if clients cannot ask for this pool by name
    image: str  # as the engine knows the image
    size: int
    network: Network
    limits: Limits
    runtime: str
    refuses_when_exhausted: bool = False


class EngineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[engine]`."""

    url: Annotated[str, _help("Docker Engine API, such as unix:///var/run/docker.sock. Empty: DOCKER_HOST.")] = ""
    concurrent_starts: Annotated[
        int, _help("Containers that start at once. More than 4 do not raise the throughput.", ge=1, le=64)
    ] = 4
    pull: Annotated[
        Literal["missing", "never"],
        _help("missing: pull an image that the engine does not have when a client requests it. never: refuse it."),
    ] = "missing"
    alias_any_registry: Annotated[
        bool,
        _help(
            "Apply an alias such as opensandbox/code-interpreter to that image in every registry, for example to "
            "registry.example:5000/opensandbox/code-interpreter. false: only to the names in [aliases]."
        ),
    ] = True
    seccomp: Annotated[
        str,
        _help(
            "System calls of sandboxes. sandlot: the list that comes with Sandlot. engine: the engine's own, wider "
            "profile. A path names a profile in the engine's format.",
            min_length=1,
        ),
    ] = "sandlot"


class StorageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[storage]`."""

    allowed_host_paths: Annotated[
        tuple[str, ...],
        _help(
            "Host directories that sandboxes may mount, with all that is below them; separated by commas in a variable "
            "or flag. Empty: no host directory is allowed."
        ),
    ] = ()
    allowed_volumes: Annotated[
        tuple[str, ...],
        _help(
            "The engine's own volumes that sandboxes may mount by pvc.claimName: names, or patterns such as data-*. "
            "For every other name, Sandlot creates a volume. Empty: none of the engine's own volumes is allowed."
        ),
    ] = ()
    min_free: Annotated[
        int,
        _help(
            "Free space to keep on the engine's disk, in KB: below it, the server ends the sandbox that takes most. "
            "0: off.",
            ge=0,
            le=MAX_MEMORY_KB,
        ),
    ] = 2 << 20
    min_free_files: Annotated[
        int,
        _help(
            "Free inodes to keep on the engine's disk: below it, the server ends the sandbox that takes most. 0: off.",
            ge=0,
            le=1 << 40,
        ),
    ] = 50_000
    max_snapshots: Annotated[
        int, _help("Snapshots at once; each takes as much disk as its sandbox has written.", ge=0)
    ] = 100


class PathSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[paths]`."""

    state_dir: Annotated[
        str,
        _help("Directory of the store and the keys. Empty: /var/lib/sandlot; ~/.local/state/sandlot if not root."),
    ] = ""
    run_dir: Annotated[
        str,
        _help(
            "Directory of the sockets, on the engine's host. Empty: /run/sandlot; $XDG_RUNTIME_DIR/sandlot if not root."
        ),
    ] = ""
    images_dir: Annotated[str, _help("Directory of the image folders. Empty: the folders that Sandlot ships.")] = ""


class SecuritySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[security]`."""

    ready_needs_attack: Annotated[
        bool,
        _help(
            "Answer /ready with 503 until `sandlot attack --record` has run on this release and the server has held "
            "every attack that it must hold."
        ),
    ] = False


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[logs]`."""

    format: Annotated[
        Literal["auto", "console", "json"], _help("Format of the log. auto: console on a terminal, JSON otherwise.")
    ] = "auto"
    level: Annotated[Literal["debug", "info", "warning", "error"], _help("Lowest level that the log contains.")] = (
        "info"
    )


class AuditSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[audit]`."""

    level: Annotated[
        Literal["off", "changes", "all"],
        _help(
            "Operations that {state_dir}/audit/audit.jsonl records. changes: those that change or open something, and "
            "those refused for lack of a key or scope."
        ),
    ] = "changes"
    max_file_size: Annotated[int, _help("Size at which the audit log begins a new file, in KB.", ge=64, le=1 << 22)] = (
        10 << 10
    )
    max_files: Annotated[int, _help("Files of the audit log to keep.", ge=1, le=1000)] = 5


class ConsoleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[console]`."""

    enabled: Annotated[bool, _help("Serve the console's pages below /console/, and let browsers sign in.")] = True
    sign_in_hours: Annotated[
        int,
        _help("Time after which a person who has signed in at the console must sign in again, in h.", ge=1, le=8760),
    ] = 12


class ActivitySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[activity]`."""

    keep: Annotated[
        Literal["off", "outline", "full"],
        _help(
            "What each sandbox keeps of what clients do in it, for people who watch. outline: what begins and how it "
            "ends. full: output and results as well."
        ),
    ] = "full"
    max_entries: Annotated[int, _help("Entries of the activity of a sandbox to keep.", ge=16, le=1_000_000)] = 20_000
    limit: Annotated[
        int,
        _help(
            "Memory of a sandbox that its activity may use, in KB. The oldest entries are dropped.", ge=64, le=4 << 20
        ),
    ] = 4 << 10
    keep_on_disk: Annotated[
        bool,
        _help(
            "Read the activity of a sandbox out before the sandbox ends, and keep it in {state_dir}/activities as a "
            "record of JSON lines."
        ),
    ] = False
    max_records: Annotated[int, _help("Records to keep; the oldest are removed.", ge=1, le=1_000_000)] = 1000
    max_records_size: Annotated[
        int, _help("Size of all records, in KB; the oldest are removed.", ge=1 << 10, le=MAX_MEMORY_KB)
    ] = 1 << 20


class TraceSettings(Discreet, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `[traces]`."""

    endpoint: Annotated[
        str,
        _help(
            "Address of an OpenTelemetry collector, such as http://localhost:4318, that gets traces as OTLP over HTTP. "
            "Empty: no traces. Needs the extra `sandlot[traces]`."
        ),
    ] = ""
    collector_headers: Annotated[
        tuple[str, ...], _help("Headers of the requests to the collector, such as `Authorization: Bearer …`.")
    ] = ()
    sample_ratio: Annotated[
        float,
        _help(
            "The part of the traces that is kept, from 0 to 1. A client that sends `traceparent` decides for its own.",
            ge=0,
            le=1,
        ),
    ] = 1.0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings."""

    server: ServerSettings = ServerSettings()
    sandbox: SandboxSettings = SandboxSettings()
    pools: tuple[PoolSettings, ...] = ()
    engine: EngineSettings = EngineSettings()
    storage: StorageSettings = StorageSettings()
    paths: PathSettings = PathSettings()
    security: SecuritySettings = SecuritySettings()
    logs: LogSettings = LogSettings()
    audit: AuditSettings = AuditSettings()
    console: ConsoleSettings = ConsoleSettings()
    activity: ActivitySettings = ActivitySettings()
    traces: TraceSettings = TraceSettings()
    aliases: dict[str, str] = {}

    @property
    def all_aliases(self) -> dict[str, str]:
        """The default aliases and those of the file; an alias of the file replaces a default one."""
        return DEFAULT_ALIASES | self.aliases

    def resolve_image(self, name: str) -> str:
        """Return the engine's name for an image as a caller typed it. An alias applies with any tag."""
        return resolve_alias(name, self.all_aliases, any_registry=self.engine.alias_any_registry)

    def nearest_image(self, name: str) -> str:
        """Return the image that was probably meant by a name that the engine does not know, or ""."""
        folders = Path(self.paths.images_dir).glob("*/Dockerfile") if self.paths.images_dir else ()
        ours = [f"{OUR_IMAGES}{folder.parent.name}" for folder in folders]
        pools = [pool.image for pool in self.warm_pools()]
        # A later name replaces an equally near one, so the names that were most probably meant come last.
        nearest = nearest_image(name, [*self.all_aliases, *ours, *self.all_aliases.values(), *pools])
        return self.resolve_image(nearest)

    def warm_pools(self) -> list[WarmPool]:
        """Return all warm pools; the one of `[sandbox]`, named `default`, comes first."""
        defaults = self.sandbox
        first = WarmPool(
            name=DEFAULT_POOL,
            image=self.resolve_image(defaults.image),
            size=defaults.pool_size,
            network=Network.allowed(defaults.allow_network),
            limits=defaults.limits,
            runtime=defaults.runtime,
        )
        return [first, *(self._filled_in(pool, first) for pool in self.pools)]

    def _filled_in(self, pool: PoolSettings, first: WarmPool) -> WarmPool:
        cpus = first.limits.cpus if pool.cpu_quota is None else cpus_of(pool.cpu_quota)
        memory = first.limits.memory_bytes if pool.memory_limit is None else pool.memory_limit * 1024
        return WarmPool(
            name=pool.name,
            image=self.resolve_image(pool.image),
            size=pool.size,
            network=first.network if pool.allow_network is None else Network.allowed(pool.allow_network),
            limits=Limits(cpus=cpus, memory_bytes=memory, pids=first.limits.pids),
            runtime=first.runtime if pool.runtime is None else pool.runtime,
            refuses_when_exhausted=pool.when_exhausted == "refuse",
        )


def cpus_of(quota: float) -> float:
    """Return the number of CPUs that a `cpu_quota` stands for."""
    return quota / CPU_PERIOD_US if quota >= CPU_QUOTA_IN_US else quota
