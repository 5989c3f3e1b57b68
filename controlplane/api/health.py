"""Is it there, which version is it, how is it doing: the server itself, and the agent of a sandbox."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
import prometheus_client
from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.problems import flat
from controlplane.api.schema import json_answer

if TYPE_CHECKING:
    from controlplane.link.relay import Relay

VERSION = version("sandlot")


class HealthView(msgspec.Struct, frozen=True):
    """All is well."""

    status: str


class VersionView(msgspec.Struct, frozen=True):
    """The release that this server is."""

    version: str


class Health:
    """The endpoints."""

    def __init__(
        self, relay: Relay, registry: prometheus_client.CollectorRegistry, is_ready: Callable[[], bool]
    ) -> None:
        self._relay = relay
        self._registry = registry
        self._is_ready = is_ready

    async def ping(self, request: Request) -> Response:
        """GET /ping at a sandbox's endpoint: 200 when its agent can be asked."""
        await self._relay.link(request.path_params["sandbox_id"])
        return Response()

    async def health(self, _: Request) -> Response:
        """GET /health: 503 while sandboxes cannot be made, because the engine does not answer."""
        if self._is_ready():
            return json_answer(HealthView("healthy"))
        return flat(503, "SERVER_NOT_READY", "the container engine does not answer", {"Retry-After": "1"})

    async def version(self, _: Request) -> Response:
        """GET /version: which release this is."""
        return json_answer(VersionView(VERSION))

    async def metrics(self, _: Request) -> Response:
        """GET /metrics: of the server, for Prometheus."""
        text = prometheus_client.generate_latest(self._registry)
        return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)
