"""Health, version and Prometheus endpoints of the server itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from importlib.metadata import version

import msgspec
import prometheus_client
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.bodies import json_answer
from controlplane.api.edge.problems import flat

VERSION = version("sandlot")
NO_ENGINE = "the container engine does not answer"


class HealthView(msgspec.Struct, frozen=True):
    """The answer of a healthy server."""

    status: str


class ReadyView(msgspec.Struct, frozen=True):
    """The answer of a ready server: the engine answers, and the warm pool is full or being refilled."""

    status: str


class VersionView(msgspec.Struct, frozen=True):
    """The release of the server."""

    version: str


class _Collected(prometheus_client.CollectorRegistry):
    """Families that were collected already."""

    def __init__(self, families: list[prometheus_client.Metric]) -> None:
        super().__init__(auto_describe=False)
        self._families = families

    def collect(self) -> Iterator[prometheus_client.Metric]:
        """Yield the families."""
        yield from self._families


class Health:
    """The endpoints."""

    def __init__(
        self,
        registry: prometheus_client.CollectorRegistry,
        is_ready: Callable[[], bool],
        why_not_ready: Callable[[], str],
    ) -> None:
        self._registry = registry
        self._is_ready = is_ready
        self._why_not_ready = why_not_ready

    async def health(self, _: Request) -> Response:
        """Return the health of the server: 503 while the engine does not answer, and sandboxes cannot be created."""
        if self._is_ready():
            return json_answer(HealthView("healthy"))
        return flat(503, "SERVER_NOT_READY", NO_ENGINE, {"Retry-After": "1"})

    async def ready(self, _: Request) -> Response:
        """Return whether the server is ready: 503 with the reason if the engine or the warm pool does not work."""
        reason = self._why_not_ready() if self._is_ready() else NO_ENGINE
        if not reason:
            return json_answer(ReadyView("ready"))
        return flat(503, "SERVER_NOT_READY", reason, {"Retry-After": "1"})

    async def version(self, _: Request) -> Response:
        """Return the release of the server."""
        return json_answer(VersionView(VERSION))

    async def metrics(self, _: Request) -> Response:
        """Return the metrics of the server, for Prometheus."""
        # The numbers are taken at once. Their text takes some 30 ms on a busy server, for which nobody has to wait.
        collected = _Collected(list(self._registry.collect()))
        text = await asyncio.to_thread(prometheus_client.generate_latest, collected)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)
