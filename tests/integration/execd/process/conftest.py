"""A sandbox that runs processes, over a real link."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.agent.execd_processes import Sandbox, process_sandbox


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    """A sandbox whose working directory is the test's."""
    async with process_sandbox(tmp_path) as sandbox:
        yield sandbox
