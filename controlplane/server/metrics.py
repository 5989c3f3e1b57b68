"""The contents of /metrics: what the server's objects have counted, and what a look at them tells now."""

from __future__ import annotations

import os
import platform
import resource
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from prometheus_client import CollectorRegistry, GCCollector, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from controlplane.lifecycle.records.registry import Registry
from controlplane.lifecycle.records.states import CLAIMED
from controlplane.sandbox import SnapshotState
from controlplane.server.composition import ControlPlane
from controlplane.telemetry.load import Loads


def make_registry(plane: ControlPlane, loads: Loads, state_dir: Path) -> CollectorRegistry:
    """Return a registry of its own for a server, because two servers in one process would share the global one."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatisticsCollector(plane))
    registry.register(EngineCollector(plane))
    registry.register(ResourceCollector(plane, loads, state_dir))
    for family in plane.metrics.collectors():
        registry.register(family)
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def running_containers(registry: Registry) -> dict[str, str]:
    """Return the ids of the containers of sandboxes that run or are paused, by sandbox."""
    return {sandbox.id: sandbox.container_id for sandbox in registry.all() if sandbox.state in CLAIMED}


class StatisticsCollector(Collector):
    """Sandboxes, the pool and links: their `statistics()` when Prometheus asks."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        yield from self._sandboxes()
        yield from self._pool()
        links = self._plane.directory.statistics()
        yield GaugeMetricFamily("sandlot_links", "Agents connected.", links.links)
        yield GaugeMetricFamily("sandlot_link_streams", "Streams open on all links.", links.streams)
        yield CounterMetricFamily("sandlot_link_received_bytes", "Bytes from agents.", links.bytes_in)
        yield CounterMetricFamily("sandlot_link_sent_bytes", "Bytes to agents.", links.bytes_out)

    def _sandboxes(self) -> Iterator[Metric]:
        sandboxes = self._plane.sandboxes.statistics()
        by_state = GaugeMetricFamily("sandlot_sandboxes", "Sandboxes by state.", labels=["state"])
        for state, count in sandboxes.by_state.items():
            by_state.add_metric([state.value], count)
        yield by_state
        yield CounterMetricFamily("sandlot_sandboxes_created", "Sandboxes created.", sandboxes.created)
        yield CounterMetricFamily("sandlot_sandbox_create_failures", "Creates that failed.", sandboxes.failed_creates)
        yield CounterMetricFamily(
            "sandlot_sandboxes_expired", "Sandboxes that reached their deadline.", sandboxes.expired
        )

    def _pool(self) -> Iterator[Metric]:
        pool = self._plane.pool.statistics()
        yield GaugeMetricFamily("sandlot_pool_target", "Warm containers to keep.", pool.target)
        yield GaugeMetricFamily("sandlot_pool_warm", "Warm containers there are.", pool.warm)
        yield GaugeMetricFamily("sandlot_pool_prepared", "Warm containers whose languages are ready.", pool.prepared)
        yield GaugeMetricFamily("sandlot_pool_starting", "Containers being started.", pool.starting)
        yield GaugeMetricFamily("sandlot_pool_waiting", "Claims that wait for a container.", pool.waiting)
        yield CounterMetricFamily("sandlot_pool_claims", "Claims.", pool.claims)
        yield CounterMetricFamily("sandlot_pool_hits", "Claims that found a warm container.", pool.hits)
        yield CounterMetricFamily("sandlot_pool_start_failures", "Containers that did not start.", pool.failures)
        yield from self._pools()

    def _pools(self) -> Iterator[Metric]:
        """Yield what each pool has. Pools without a name may share an image, and are told together then."""
        stocks: Counter[tuple[str, str, str]] = Counter()
        claims: Counter[tuple[str, str, str]] = Counter()
        for each in self._plane.events.pools():
            place = (each.name, each.image)
            stocks.update({(*place, "target"): each.target, (*place, "warm"): each.idle})
            stocks.update({(*place, "starting"): each.starting})
            claims.update({(*place, "hit"): each.hits, (*place, "miss"): each.misses})
        labels = ["pool", "image"]
        stock = GaugeMetricFamily(
            "sandlot_pool_containers", "Containers of each pool: target, warm, starting.", labels=[*labels, "state"]
        )
        asked = CounterMetricFamily(
            "sandlot_pool_requests", "Claims of each pool: hit, if one was warm, or miss.", labels=[*labels, "result"]
        )
        for values, number in stocks.items():
            stock.add_metric(values, number)
        for values, number in claims.items():
            asked.add_metric(values, number)
        yield stock
        yield asked


class EngineCollector(Collector):
    """The container engine, what is kept on it, and its disk."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        plane = self._plane
        yield GaugeMetricFamily(
            "sandlot_engine_up", "1 while the container engine answers, else 0.", int(plane.recovery.engine_answers)
        )
        info = GaugeMetricFamily(
            "sandlot_engine_info", "Always 1; what the container engine is.", labels=["engine", "version", "storage"]
        )
        if (engine := plane.driver.info) is not None:
            info.add_metric([engine.name, engine.version, engine.storage_driver], 1)
        yield info
        by_state = Counter(snapshot.state for snapshot in plane.snapshots.list())
        snapshots = GaugeMetricFamily("sandlot_snapshots", "Snapshots by state.", labels=["state"])
        for state in SnapshotState:
            snapshots.add_metric([state.value], by_state[state])
        yield snapshots
        mounted = {
            volume.owned_name
            for sandbox in plane.registry.all()
            if sandbox.state in CLAIMED
            for volume in sandbox.spec.volumes
            if volume.volume_name
        }
        yield GaugeMetricFamily("sandlot_volumes_mounted", "Named volumes that sandboxes have mounted.", len(mounted))


class ResourceCollector(Collector):
    """What sandboxes use, what is left, and what the server itself is and needs."""

    def __init__(self, plane: ControlPlane, loads: Loads, state_dir: Path) -> None:
        self._plane = plane
        self._loads = loads
        self._state_dir = state_dir

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        yield from self._sandboxes()
        yield from self._disks()
        yield from self._server()

    def _sandboxes(self) -> Iterator[Metric]:
        cpu = CounterMetricFamily(
            "sandlot_sandboxes_cpu_seconds", "CPU time of all sandboxes, also of those that ended.", labels=()
        )
        memory = GaugeMetricFamily("sandlot_sandboxes_memory_bytes", "Memory that sandboxes use.", labels=())
        if self._loads.is_known:  # on another machine's engine nothing is seen, and 0 would be a lie
            cpu.add_metric([], self._loads.cpu_s)
            memory.add_metric([], self._loads.memory_bytes)
        yield cpu
        yield memory
        limits = [each.spec.limits for each in self._plane.registry.all() if each.state in CLAIMED]
        yield GaugeMetricFamily(
            "sandlot_sandboxes_cpu_limit_cores", "Cores that sandboxes may use.", sum(each.cpus for each in limits)
        )
        yield GaugeMetricFamily(
            "sandlot_sandboxes_memory_limit_bytes",
            "Memory that sandboxes may use.",
            sum(each.memory_bytes for each in limits),
        )

    def _disks(self) -> Iterator[Metric]:
        free = GaugeMetricFamily("sandlot_disk_free_bytes", "Bytes left on a disk.", labels=["disk"])
        files = GaugeMetricFamily("sandlot_disk_free_files", "Files that a disk still takes.", labels=["disk"])
        if (room := self._plane.driver.room) is not None:
            free.add_metric(["engine"], room.free_bytes)
            if room.free_files is not None:
                files.add_metric(["engine"], room.free_files)
        try:
            state = os.statvfs(self._state_dir)
        except OSError:
            pass  # a directory that is gone is the store's to tell of
        else:
            free.add_metric(["state"], state.f_bavail * state.f_frsize)
            if state.f_files:
                files.add_metric(["state"], state.f_favail)
        yield free
        yield files

    def _server(self) -> Iterator[Metric]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        yield GaugeMetricFamily("sandlot_server_peak_memory_bytes", "Largest resident size of this server.", peak)
        yield GaugeMetricFamily("sandlot_server_memory_bytes", "Resident size of this server.", _resident_bytes())
        yield GaugeMetricFamily(
            "sandlot_store_late_writes",
            "Records whose last change the store could not take yet.",
            self._plane.registry.late_writes.count,
        )
        yield CounterMetricFamily("sandlot_audit_lost_entries", "Audit entries lost.", self._plane.access.audit.lost)
        build = GaugeMetricFamily("sandlot_build_info", "Always 1; what this server is.", labels=["version", "python"])
        build.add_metric([version("sandlot"), platform.python_version()], 1)
        yield build


def _resident_bytes() -> int:
    """Return the present memory of this process, in bytes; the peak describes the past."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
