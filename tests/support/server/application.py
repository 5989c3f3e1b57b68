"""The application before a control plane of the tests, for requests without a socket."""

from __future__ import annotations

import prometheus_client
from starlette.types import ASGIApp

from controlplane.api.app import ApiSettings, make_app
from controlplane.server.composition import ControlPlane


def application(plane: ControlPlane) -> ASGIApp:
    """Return the application of *plane*, with the settings that the API has by default."""
    return make_app(
        sandboxes=plane.sandboxes,
        pauses=plane.pauses,
        snapshots=plane.snapshots,
        registry=plane.registry,
        relay=plane.relay,
        activities=plane.activities,
        credentials=plane.credentials,
        access=plane.access,
        settings=ApiSettings(),
        metrics_registry=prometheus_client.CollectorRegistry(),
        is_ready=lambda: True,
    )
