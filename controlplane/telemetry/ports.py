"""Connections to ports of sandboxes, and the bytes that went through them, also of those that are still open."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector


class Traffic(Protocol):
    """The stream of one connection."""

    data_bytes: int  # received from the sandbox so far
    sent_bytes: int  # sent to the sandbox so far


class PortTraffic(Collector):
    """Counts connections. Bytes are read from open streams when Prometheus asks, so they cost nothing meanwhile."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[str, Traffic]] = {}
        self._opened = {"http": 0, "websocket": 0}
        self._from_sandboxes = self._to_sandboxes = 0  # of connections that have ended

    @contextlib.contextmanager
    def held(self, protocol: str, stream: Traffic) -> Iterator[None]:
        """Count a connection, "http" or "websocket", which is open inside of the block."""
        self._opened[protocol] += 1
        self._open[id(stream)] = (protocol, stream)
        try:
            yield
        finally:
            del self._open[id(stream)]
            self._from_sandboxes += stream.data_bytes
            self._to_sandboxes += stream.sent_bytes

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        total = CounterMetricFamily(
            "sandlot_port_connections", "Connections to ports of sandboxes.", labels=["protocol"]
        )
        now = GaugeMetricFamily(
            "sandlot_port_connections_open", "Connections to ports of sandboxes that are open.", labels=["protocol"]
        )
        for protocol, opened in self._opened.items():
            total.add_metric([protocol], opened)
            now.add_metric([protocol], sum(each == protocol for each, _ in self._open.values()))
        yield total
        yield now
        streams = [stream for _, stream in self._open.values()]
        traffic = CounterMetricFamily("sandlot_port_bytes", "Bytes through ports of sandboxes.", labels=["direction"])
        traffic.add_metric(["from_sandbox"], self._from_sandboxes + sum(stream.data_bytes for stream in streams))
        traffic.add_metric(["to_sandbox"], self._to_sandboxes + sum(stream.sent_bytes for stream in streams))
        yield traffic
