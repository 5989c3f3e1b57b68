"""A bounded run of chaos: `make chaos` is the long one."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from tests.chaos.report import table
from tests.chaos.rounds import open_chaos
from tests.support.server.live_server import engine_request

ROUNDS = 30
SEED = 20261128
SUMMARY = Path(__file__).parents[2] / "build" / "chaos.json"


@pytest.mark.attack(
    "chaos",
    "The server is killed at a random moment, again while it recovers, and containers die under it",
    "No sandbox is lost, none is leaked, every state and deadline is true, and the warm pool is right",
)
@pytest.mark.attack(
    "chaos",
    "The container engine is late, fails, loses answers, hangs, goes away, or cuts its stream of events",
    "The same, within the minute of a sweep; the health check says when the engine is gone and when it is back",
)
@pytest.mark.attack(
    "chaos",
    "Another program holds the database, or the disk of the state directory is full",
    "The same; what ended meanwhile has ended",
)
@pytest.mark.timeout(900)
async def test_nothing_is_lost_and_nothing_leaks(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever goes wrong. The table is printed, also where the output of tests is not."""
    seed = int(os.environ.get("SEED", SEED))
    async with open_chaos(seed, is_short=True) as chaos:
        await chaos.run(ROUNDS)
        if not chaos.world.ledger.violations:
            await chaos.end()
        summary = chaos.summary()
        log = chaos.world.server.log
    SUMMARY.parent.mkdir(exist_ok=True)
    SUMMARY.write_text(json.dumps(summary, indent=2) + "\n")
    with capsys.disabled():
        print(f"\n{table(summary)}")
    assert summary["violations"] == [], log[-20_000:]
    assert summary["rounds"] == ROUNDS


async def test_a_loss_and_a_leak_are_found() -> None:
    """What would be the end of a run: a container of a sandbox that is removed behind the server's back, and a socket
    directory that is nobody's."""
    async with open_chaos(1, is_short=True) as chaos:
        client, world = chaos._clients[0], chaos.world
        await client._create()
        (facts,) = world.ledger.sandboxes.values()
        assert await chaos.look_for_violations() == []
        containers = await asyncio.to_thread(world.server.containers)
        seen = [await asyncio.to_thread(engine_request, "GET", f"/containers/{one}/json") for one in containers]
        (victim,) = (one["Id"] for one in seen if one["Config"]["Labels"]["sandlot.sandbox"] == facts.id)
        await asyncio.to_thread(engine_request, "DELETE", f"/containers/{victim}?force=1")
        assert await chaos.look_for_violations() == [f"{facts.id} is ended, and was to be Running"]
        facts.kill()  # so it was to be
        (world.server.directory / "run" / "sandboxes" / "stranger").mkdir()
        assert await chaos.look_for_violations(patience_s=0.5) == ["a directory of stranger is left"]
