"""The contents of /metrics: the `statistics()` of the server's objects as Prometheus metrics, and nothing else."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from controlplane.lifecycle.sandboxes import SandboxStatistics
from controlplane.link.directory import DirectoryStatistics
from controlplane.pool.pool import PoolStatistics


class StatisticsCollector(Collector):
    """A collector that reads the statistics at each request of Prometheus."""

    def __init__(
        self,
        sandboxes: Callable[[], SandboxStatistics],
        pool: Callable[[], PoolStatistics],
        links: Callable[[], DirectoryStatistics],
    ) -> None:
        self._sandboxes = sandboxes
        self._pool = pool
        self._links = links

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        sandboxes, pool, links = self._sandboxes(), self._pool(), self._links()
        by_state = GaugeMetricFamily("sandlot_sandboxes", "Sandboxes by state.", labels=["state"])
        for state, count in sandboxes.by_state.items():
            by_state.add_metric([state.value], count)
        yield by_state
        yield CounterMetricFamily("sandlot_sandboxes_created", "Sandboxes created.", sandboxes.created)
        yield CounterMetricFamily("sandlot_sandbox_create_failures", "Creates that failed.", sandboxes.failed_creates)
        yield CounterMetricFamily(
            "sandlot_sandboxes_expired", "Sandboxes that reached their deadline.", sandboxes.expired
        )
        yield GaugeMetricFamily("sandlot_pool_target", "Warm containers to keep.", pool.target)
        yield GaugeMetricFamily("sandlot_pool_warm", "Warm containers there are.", pool.warm)
        yield GaugeMetricFamily("sandlot_pool_prepared", "Warm containers whose languages are ready.", pool.prepared)
        yield GaugeMetricFamily("sandlot_pool_starting", "Containers being started.", pool.starting)
        yield GaugeMetricFamily("sandlot_pool_waiting", "Claims that wait for a container.", pool.waiting)
        yield CounterMetricFamily("sandlot_pool_claims", "Claims.", pool.claims)
        yield CounterMetricFamily("sandlot_pool_hits", "Claims that found a warm container.", pool.hits)
        yield CounterMetricFamily("sandlot_pool_start_failures", "Containers that did not start.", pool.failures)
        yield GaugeMetricFamily("sandlot_links", "Agents connected.", links.links)
        yield GaugeMetricFamily("sandlot_link_streams", "Streams open on all links.", links.streams)
        yield CounterMetricFamily("sandlot_link_received_bytes", "Bytes from agents.", links.bytes_in)
        yield CounterMetricFamily("sandlot_link_sent_bytes", "Bytes to agents.", links.bytes_out)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        yield GaugeMetricFamily("sandlot_server_peak_memory_bytes", "Largest resident size of this server.", peak)
        yield GaugeMetricFamily("sandlot_server_memory_bytes", "Resident size of this server.", _resident_bytes())


def _resident_bytes() -> int:
    """Return the present memory of this process, in bytes; the peak describes the past."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def make_registry(collector: StatisticsCollector) -> CollectorRegistry:
    """Return a registry of its own for a server, because two servers in one process would share the global one."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry
