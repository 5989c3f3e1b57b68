"""What a claim tells the agent of the settings."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from controlplane.lifecycle.entrypoints import ClaimBounds, claim
from controlplane.sandbox import Limits
from execd.wire.messages import SandboxClaim, SandboxClaimed
from tests.support.server.parts import a_record


class Agent:
    """Takes any claim, and remembers it."""

    def __init__(self) -> None:
        self.claims: list[SandboxClaim] = []

    async def open(self, request: SandboxClaim) -> Agent:
        self.claims.append(request)
        return self

    async def expect(self, _kind: type[Any]) -> SandboxClaimed:
        return SandboxClaimed()


@pytest.mark.parametrize(
    ("memory", "got"),
    [(2 << 30, 4 << 20), (0, 4 << 20), (64 << 20, 2 << 20), (16 << 20, 512 << 10), (1 << 20, 64 << 10)],
)
async def test_the_activity_of_a_small_sandbox_is_small(memory: int, got: int) -> None:
    """A sandbox of 16 MiB has little more than its agent needs."""
    agent = Agent()
    sandbox = a_record()
    sandbox = replace(sandbox, spec=replace(sandbox.spec, limits=Limits(memory_bytes=memory)))
    bounds = ClaimBounds(
        max_contexts=1,
        max_output_bytes=1,
        max_recorded_bytes=1,
        activity="full",
        max_activity_entries=100,
        max_activity_bytes=4 << 20,
    )
    await claim(sandbox, agent, bounds)  # type: ignore[arg-type]
    (told,) = agent.claims
    assert (told.activity, told.max_activity_entries, told.max_activity_bytes) == ("full", 100, got)
