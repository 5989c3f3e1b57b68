"""What a sandbox uses of CPU and memory."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api import sse
from controlplane.api.schema import json_answer
from controlplane.api.streaming import Sink, StreamResponse
from execd.wire.messages import Metrics, MetricsRead

if TYPE_CHECKING:
    from controlplane.lifecycle.sandboxes import Sandboxes
    from controlplane.link.relay import Relay

WATCH_INTERVAL_S = 1.0


class MetricsView(msgspec.Struct, frozen=True):
    """What is used, and of how much. `timestamp` in ms."""

    cpu_count: float
    cpu_used_pct: float
    mem_total_mib: float
    mem_used_mib: float
    timestamp: int


class Meters:
    """The endpoints. What the kernel does not tell inside (-1) is filled in from the sandbox's limits, or is 0."""

    def __init__(self, relay: Relay, sandboxes: Sandboxes) -> None:
        self._relay = relay
        self._sandboxes = sandboxes

    async def read(self, request: Request) -> Response:
        """GET /metrics of a sandbox."""
        return json_answer(await self._measure(request.path_params["sandbox_id"]))

    async def watch(self, request: Request) -> StreamResponse:
        """GET /metrics/watch: the same once a second, until the client goes away."""
        sandbox_id = request.path_params["sandbox_id"]
        first = await self._measure(sandbox_id)
        return sse.event_stream(partial(self._repeat, sandbox_id, first), close=_nothing)

    async def _repeat(self, sandbox_id: str, values: MetricsView, sink: Sink) -> None:
        while True:
            await sink.write(b"data: " + msgspec.json.encode(values) + b"\n\n")
            await asyncio.sleep(WATCH_INTERVAL_S)
            values = await self._measure(sandbox_id)

    async def _measure(self, sandbox_id: str) -> MetricsView:
        metrics = await self._relay.call(sandbox_id, MetricsRead(), Metrics)
        limits = self._sandboxes.get(sandbox_id).spec.limits
        total = metrics.memory_total_bytes if metrics.memory_total_bytes >= 0 else limits.memory_bytes
        return MetricsView(
            cpu_count=metrics.cpu_count if metrics.cpu_count >= 0 else limits.cpus,
            cpu_used_pct=max(0.0, metrics.cpu_used_pct),
            mem_total_mib=total / (1 << 20),
            mem_used_mib=max(0, metrics.memory_used_bytes) / (1 << 20),
            timestamp=round(metrics.at * 1000),
        )


def _nothing() -> None:
    """There is nothing to end."""
