"""Checks that need more than one setting, or more than a type."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator

from controlplane.sandbox import DEFAULT_POOL
from controlplane.settings.sections import SandboxSettings, ServerSettings, Settings, StorageSettings, TraceSettings

# The settings that a contradiction is about, the likeliest cause first, and the message.
Contradiction = tuple[tuple[tuple[str, str], ...], str]


def contradictions(settings: Settings) -> Iterator[Contradiction]:
    """Yield every contradiction between settings, and every value that a type cannot exclude.

    A contradiction of `[[pools]]` names no setting: pools are always in the file.
    """
    yield from _defaults_above_maxima(settings.sandbox)
    yield from _ambiguous_pools(settings)
    yield from _bad_storage(settings.storage)
    yield from _bad_proxies(settings.server)
    yield from _bad_traces(settings.traces)


def _defaults_above_maxima(sandbox: SandboxSettings) -> Iterator[Contradiction]:
    """Yield the defaults above their maximum: they would refuse a sandbox whose request has no limits."""
    for key, default, maximum, most in (
        ("cpu_quota", sandbox.limits.cpus, "max_cpus", sandbox.max_cpus),
        ("memory_limit", sandbox.memory_limit, "max_memory", sandbox.max_memory),
    ):
        if most and (default > most or not default):
            got = f"{default:.9g}" if default else "0, which is no limit"
            message = f"[sandbox] {key}: expected at most {maximum} = {most:.9g}, got {got}"
            yield (("sandbox", key), ("sandbox", maximum)), message


def _ambiguous_pools(settings: Settings) -> Iterator[Contradiction]:
    """Yield the pools of the same kind, which would silently become one pool, and names of two pools."""
    names, kinds = set(), set()
    for number, pool in enumerate(settings.warm_pools()):
        place = f"[[pools]] no. {number}"
        kind = (pool.image, pool.network, pool.limits, pool.runtime)
        if kind in kinds:
            image = settings.pools[number - 1].image
            yield (
                (),
                f"{place}: there is a pool of {image} already, with the same network, limits and runtime; "
                "expected one pool of a larger size, or another image",
            )
        if pool.name in names:
            taken = "is the name of the pool of [sandbox]" if pool.name == DEFAULT_POOL else "names two pools"
            yield (), f"{place} name: expected another name, {pool.name!r} {taken}"
        kinds.add(kind)
        names |= {pool.name} - {""}


def _bad_storage(storage: StorageSettings) -> Iterator[Contradiction]:
    for allowed in storage.allowed_host_paths:
        if not os.path.isabs(allowed) or os.path.normpath(allowed) != allowed or allowed == "/":
            key = "allowed_host_paths"
            expected = "expected absolute paths without '..', and not the root"
            yield (("storage", key),), f"[storage] {key}: {expected}, got {allowed!r}"
    for pattern in storage.allowed_volumes:
        if not VOLUME_PATTERN.fullmatch(pattern):
            key = "allowed_volumes"
            expected = "expected names such as data, or patterns such as data-*"
            message = f"[storage] {key}: {expected}, got {pattern!r}; directories belong to allowed_host_paths"
            yield (("storage", key),), message


def _bad_proxies(server: ServerSettings) -> Iterator[Contradiction]:
    """Yield the names of hosts: a name would never match an address."""
    for proxy in server.trusted_proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError:
            key = "trusted_proxies"
            message = f"[server] {key}: expected addresses or networks such as 10.0.0.0/8, got {proxy!r}"
            yield (("server", key),), message


def _bad_traces(traces: TraceSettings) -> Iterator[Contradiction]:
    """Yield an address that no collector has, and headers that are none; a header may be a secret, and is not told."""
    if traces.endpoint and not COLLECTOR.fullmatch(traces.endpoint):
        message = f"[traces] endpoint: expected an address such as http://localhost:4318, got {traces.endpoint!r}"
        yield (("traces", "endpoint"),), message
    if not all(HEADER.fullmatch(header) for header in traces.collector_headers):
        yield (
            (("traces", "collector_headers"),),
            "[traces] collector_headers: expected texts such as 'Name: value', got another one",
        )


# The address of a collector, perhaps with a path; and a header of HTTP.
COLLECTOR = re.compile(r"https?://[^/\s]+(?:/\S*)?")
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+:[^\r\n]*")
# The name of a volume is a DNS label; a pattern may contain `*`, `?` and `[…]`.
VOLUME_PATTERN = re.compile(r"[-a-z0-9*?\[\]!]+")
