"""The settings of the OpenSandbox server, and Sandlot's replacement for each.

The table has the sections and keys of `opensandbox-server` 1.1.1 (its module `config`), and two of older releases:
`[server] log_level` and `[podman]`. `make specs` writes `docs/migrating-from-opensandbox.md` from this table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

PAGE = "docs/migrating-from-opensandbox.md"

_DROP = "leave it out: "
_ONE_MACHINE = f"{_DROP}Sandlot runs on one machine, not on Kubernetes"
_NO_EGRESS = f"{_DROP}there are no egress rules; [sandbox] allow_network gives or takes the whole network"
_HARDENED = f"{_DROP}sandboxes always have it; [sandbox] hardened = true goes further"
_NO_PORTS = f"{_DROP}no port is published, services are reached through the server"
_NO_TENANTS = f"{_DROP}`sandlot keys create NAME --scope create` makes a key whose sandboxes are its own"
_OWN_STORE = f"{_DROP}the store is a SQLite file in [paths] state_dir"
_NO_FILES = f"{_DROP}logs go to stderr; let the service manager keep them"
_RENEWAL = f'{_DROP}a sandbox renews by use if it asks for it: extensions {{"access.renew.extend.seconds": "600"}}'

ANY_KEY = "*"  # every other key of a section

# Section → key → replacement. Keys that mean the same in Sandlot are not here.
UPSTREAM_SETTINGS: dict[str, dict[str, str]] = {
    "server": {
        "api_key": '[server] api_keys = ["…"]',
        "eip": '[server] public_address = "host:port"',
        "max_sandbox_timeout_seconds": "[sandbox] max_lifetime, in s; renewals count too",
        "log_level": '[logs] level = "info"',
        "timeout_keep_alive": f"{_DROP}idle connections stay for 75 s",
        "limit_concurrency": "[sandbox] max_sandboxes bounds sandboxes; requests are not bounded",
        "timeout_graceful_shutdown": f"{_DROP}streams have 3 s to finish",
        "backlog": f"{_DROP}Sandlot has no such setting",
        "thread_pool_size": f"{_DROP}Sandlot needs no threads for requests",
        "loop": f"{_DROP}Sandlot always uses uvloop",
        "http": f"{_DROP}Sandlot always uses httptools",
    },
    "proxy": {ANY_KEY: f"{_DROP}the server reaches sandboxes without their addresses"},
    "log": {
        "level": '[logs] level = "info"',
        ANY_KEY: _NO_FILES,
    },
    "tenants": {ANY_KEY: _NO_TENANTS},
    "renew_intent": {ANY_KEY: _RENEWAL},
    "otel": {ANY_KEY: f"{_DROP}[traces] endpoint sends traces; metrics are at GET /metrics"},
    "runtime": {
        "type": f"{_DROP}Sandlot uses the Docker engine; [engine] url where it is not the default one",
        "execd_image": f"{_DROP}Sandlot builds its agent itself (`make images`)",
        ANY_KEY: f"{_DROP}Sandlot's agent is always process 1",
    },
    "docker": {
        "network_mode": '[sandbox] allow_network = true stands for "bridge"; there is no "host"',
        "api_timeout": f"{_DROP}Sandlot has no such setting",
        "host_ip": '[server] public_address = "host:port"',
        "pids_limit": "[sandbox] pids_limit",
        "drop_capabilities": _HARDENED,
        "no_new_privileges": _HARDENED,
        "apparmor_profile": f"{_DROP}the engine's default profile holds",
        "seccomp_profile": '[engine] seccomp = "PATH"; without it a list of Sandlot\'s own holds',
        "port_range_min": _NO_PORTS,
        "port_range_max": _NO_PORTS,
        "publish_host": _NO_PORTS,
        "sandbox_env": f"{_DROP}clients give `env`, or an image of yours has it",
        "sandbox_binds": "[storage] allowed_host_paths; clients then name them in `volumes`",
        ANY_KEY: f"{_DROP}Sandlot has no such setting",
    },
    "podman": {ANY_KEY: f"{_DROP}Sandlot uses the Docker engine; [engine] url where it is not the default one"},
    "kubernetes": {ANY_KEY: _ONE_MACHINE},
    "agent_sandbox": {ANY_KEY: _ONE_MACHINE},
    "ingress": {ANY_KEY: "[server] port_domain gives every port a host name; there is no gateway"},
    "storage": {
        "ossfs_mount_root": f"{_DROP}there are no OSSFS volumes",
        "volume_default_size": f"{_DROP}volumes have no size of their own",
    },
    "store": {"type": _OWN_STORE, "path": '[paths] state_dir = "…", a directory', ANY_KEY: _OWN_STORE},
    "egress": {ANY_KEY: _NO_EGRESS},
    "secure_runtime": {
        "type": '[sandbox] runtime = "runsc", or another runtime of the engine',
        "docker_runtime": "[sandbox] runtime",
        ANY_KEY: _ONE_MACHINE,
    },
}

# Variables of the OpenSandbox server that begin like Sandlot's.
UPSTREAM_VARIABLES = {"SANDBOX_TENANTS_CONFIG_PATH": _NO_TENANTS}


def upstream_hints(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each setting in *tree* that only the OpenSandbox server has."""
    for section, values in tree.items():
        known = UPSTREAM_SETTINGS.get(section, {})
        keys = list(values) if isinstance(values, Mapping) else []
        for key in keys or [ANY_KEY]:
            hint = known.get(key) or known.get(ANY_KEY)
            if hint is not None:
                yield f"[{section}]{'' if key == ANY_KEY else f' {key}'}: {hint}"
