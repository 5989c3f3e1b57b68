"""A reaper of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from execd.process.reap import Reaper


@pytest.fixture
async def reaper() -> AsyncIterator[Reaper]:
    """A reaper, which stops watching at the end of the test."""
    reaper = Reaper()
    yield reaper
    reaper.close()
