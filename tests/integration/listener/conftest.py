"""A listener that looks for slow clients more often than in production."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def quick_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the listener look 50 times a second."""
    monkeypatch.setattr("controlplane.listener.connections.SWEEP_S", 0.02)
