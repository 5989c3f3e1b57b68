"""The objects that all connections of a listener share."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import uvicorn

from controlplane.listener.connections import ConnectionTable
from controlplane.listener.memory import Memory
from controlplane.listener.rounds import Rounds, SlowLane


class Shared(msgspec.Struct, frozen=True):
    """The budgets that connections share."""

    connections: ConnectionTable
    memory: Memory
    lane: SlowLane
    rounds: Rounds


class ListenerConfig(uvicorn.Config):
    """A configuration with the shared budgets: uvicorn passes nothing else to its protocols."""

    def __init__(self, app: Any, shared: Shared, **options: Any) -> None:
        super().__init__(app, **options)
        self.shared = shared


def shared_of(config: uvicorn.Config) -> Shared:
    """Return the shared budgets of a listener's protocols."""
    return cast(ListenerConfig, config).shared
