"""Every act of the battery succeeds against a server that has its doors open."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.attack import battery, catalogue
from controlplane.attack.attacks import agent, doors, flood, residue, sockets
from controlplane.attack.attacks.resources import limits, trees
from controlplane.attack.client import api, raw
from controlplane.attack.client import target as target_module
from controlplane.attack.client.api import Api
from controlplane.attack.client.model import Attack
from controlplane.attack.client.outcome import Outcome, Verdict
from controlplane.attack.client.target import Target
from tests.contract.worlds import docker_world
from tests.security.open_doors import OpenDoors, prepared
from tests.security.weak import naked_container

ACTS = [attack for attack in catalogue.ATTACKS if attack.act is not None]

# This server would let attacks wait for ever, and these need not wait so long to see it. Where the machine under the
# tests has limits of its own, an attack asks for less.
SOONER = {
    (agent, "ENDED_S"): 0.5,
    (api, "HEALTH_PATIENCE_S"): 0.5,
    (flood, "PATIENCE_S"): 0.5,
    (raw, "ANSWER_S"): 0.3,
    (raw, "OPEN_S"): 0.3,
    (sockets, "SOCKET_CLOSE_S"): 0.5,
    (flood, "CONNECTIONS"): 60,
    (raw, "MOST_BYTES"): 4 << 20,
    (residue, "STREAM_END_S"): 0.5,
    (limits, "MANY"): 300,
    (trees, "FILES"): 10,
    (limits, "ORPHANS_S"): 0.5,
    (limits, "DESCRIPTORS"): 500,
    (limits, "SPIN_S"): 0.01,
    (target_module, "ALIVE_S"): 1.0,
    (target_module, "COMMAND_GRACE_S"): 0.5,
    (target_module, "END_TIMEOUT_S"): 2.0,
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """What came of each act."""
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), value in SOONER.items():
            patch.setattr(module, name, value)
        return asyncio.run(_carry_out_all())


async def _carry_out_all() -> dict[str, Outcome]:
    async with (
        docker_world() as world,
        naked_container(world) as container_id,
        OpenDoors(world, container_id) as server,
        prepared(world, container_id, server),
    ):
        return {attack.id: await _carry_out(server, attack) for attack in ACTS}


async def _carry_out(server: OpenDoors, attack: Attack) -> Outcome:
    if attack.id == "edge.clear-text":  # it sends nothing
        return await doors.clear_text(Target(Api("http://192.0.2.1", "key"), ""))
    server.most_connections = flood.CONNECTIONS if attack.id == "edge.connections" else 1000
    async with Api(server.address, server.key) as client, Target(client, "any") as target:
        return await battery.carry_out(attack, target)


@pytest.mark.timeout(900)  # of which the first pays for all
@pytest.mark.parametrize("attack", ACTS, ids=lambda attack: attack.id)
def test_an_attack_succeeds_where_doors_are_open(outcomes: dict[str, Outcome], attack: Attack) -> None:
    """Otherwise that it is held elsewhere would say nothing."""
    assert outcomes[attack.id].verdict is Verdict.BROKEN, outcomes[attack.id]
