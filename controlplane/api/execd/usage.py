"""The liveness of a sandbox's agent, and the CPU and memory usage of the sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.bodies import json_answer
from controlplane.api.edge.parameters import flag, sandbox_id_of
from controlplane.api.edge.problems import flat, problem_of
from controlplane.api.edge.responses import Sink, StreamResponse
from controlplane.api.runs import sse
from controlplane.errors import SandboxEnded
from execd.wire.messages import Metrics, MetricsRead

if TYPE_CHECKING:
    from controlplane.lifecycle.sandboxes import Sandboxes
    from controlplane.link.relay import Relay

WATCH_INTERVAL_S = 1.0


class ListeningPortView(msgspec.Struct, frozen=True):
    """A TCP port at which a program in the sandbox listens. At `0.0.0.0` or `::`, it listens at all addresses."""

    port: int
    address: str


class UsageView(msgspec.Struct, frozen=True):
    """The resource usage of a sandbox, and its limits. `timestamp` is in ms.

    The last three are answered with `detail`, unless the agent is of an earlier release.
    """

    cpu_count: float
    cpu_used_pct: float
    mem_total_mib: float
    mem_used_mib: float
    timestamp: int
    processes: int | UnsetType = UNSET
    connections: int | UnsetType = UNSET
    ports: tuple[ListeningPortView, ...] | UnsetType = UNSET


class Meters:
    """The endpoints. What the kernel does not tell inside (-1) is filled in from the sandbox's limits, or is 0."""

    def __init__(self, relay: Relay, sandboxes: Sandboxes) -> None:
        self._relay = relay
        self._sandboxes = sandboxes

    async def ping(self, request: Request) -> Response:
        """Answer 200 if the sandbox's agent can be reached, and 403 if it never will be again.

        Official clients poll for 30 s until they get 200. Only 401 and 403 end the polling at once; then the clients
        raise the message of the answer.
        """
        try:
            await self._relay.link(sandbox_id_of(request))
        except SandboxEnded as error:
            return flat(403, problem_of(error).code, error.public)
        return Response()

    async def read(self, request: Request) -> Response:
        """Return the resource usage of a sandbox; with `detail`, also processes, connections and ports."""
        return json_answer(await self._measure(sandbox_id_of(request), detail=flag(request, "detail")))

    async def watch(self, request: Request) -> StreamResponse:
        """Stream the resource usage every second as a line of JSON, until the client disconnects."""
        sandbox_id = sandbox_id_of(request)
        measure = partial(self._measure, sandbox_id, detail=flag(request, "detail"))
        first = await measure()
        return sse.event_stream(partial(self._repeat, measure, first), close=_nothing)

    async def _repeat(self, measure: Callable[[], Awaitable[UsageView]], values: UsageView, sink: Sink) -> None:
        while True:
            await sink.write(msgspec.json.encode(values) + b"\n")
            await asyncio.sleep(WATCH_INTERVAL_S)
            values = await measure()

    async def _measure(self, sandbox_id: str, *, detail: bool) -> UsageView:
        metrics = await self._relay.call(sandbox_id, MetricsRead(detail), Metrics)
        limits = self._sandboxes.get(sandbox_id).spec.limits
        total = metrics.memory_total_bytes if metrics.memory_total_bytes >= 0 else limits.memory_bytes
        tells_more = metrics.processes >= 0
        return UsageView(
            cpu_count=metrics.cpu_count if metrics.cpu_count >= 0 else limits.cpus,
            cpu_used_pct=max(0.0, metrics.cpu_used_pct),
            mem_total_mib=total / (1 << 20),
            mem_used_mib=max(0, metrics.memory_used_bytes) / (1 << 20),
            timestamp=round(metrics.at * 1000),
            processes=metrics.processes if tells_more else UNSET,
            connections=max(0, metrics.connections) if tells_more else UNSET,
            ports=tuple(ListeningPortView(one.port, one.address) for one in metrics.ports) if tells_more else UNSET,
        )


def _nothing() -> None:
    """Do nothing: no stream is open."""
