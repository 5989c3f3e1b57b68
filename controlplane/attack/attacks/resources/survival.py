"""How an attack on what sandboxes share is put, and whether its sandbox and a neighbour go on."""

from __future__ import annotations

from controlplane.attack.client.model import Act, Attack
from controlplane.attack.client.outcome import Outcome, broken
from controlplane.attack.client.target import Box, Target

_LIMITS = "set [sandbox] pids_limit, memory_limit and cpu_quota, and see that `sandlot doctor` finds no ignored limit"


async def is_left_alone(target: Target, box: Box, outcome: Outcome) -> Outcome:
    """Return the outcome, unless the sandbox or its neighbour answers no more."""
    if not await (await target.neighbour()).answers():
        return broken("another sandbox answers no more")
    return outcome if await box.answers() else broken("the sandbox itself answers no more")


def attack(name: str, tries: str, outcome: str, act: Act, cure: str = _LIMITS, timeout_s: float = 90.0) -> Attack:
    """Return an attack that an *act* of the client carries out."""
    return Attack(id=f"resources.{name}", tries=tries, outcome=outcome, cure=cure, act=act, timeout_s=timeout_s)
