"""Carries the attacks out: those that wait beside the others, which come one after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from controlplane.attack.client.api import Unreachable
from controlplane.attack.client.model import Attack, Result
from controlplane.attack.client.outcome import Outcome, not_applicable, unclear
from controlplane.attack.client.target import Refused, Target


async def run(attacks: Sequence[Attack], target: Target, tell: Callable[[Result], None]) -> list[Result]:
    """Carry attacks out on a target; return the results in the order of *attacks*. *tell* hears each as it comes."""
    results: dict[str, Result] = {}

    async def one(attack: Attack) -> None:
        began = time.monotonic()
        outcome = await carry_out(attack, target)
        results[attack.id] = Result(attack, outcome, round(time.monotonic() - began, 2))
        tell(results[attack.id])

    waiting = [asyncio.ensure_future(one(attack)) for attack in attacks if attack.waits]
    try:
        for attack in attacks:
            if not attack.waits:
                await one(attack)
        await asyncio.gather(*waiting)
    finally:
        for task in waiting:
            task.cancel()
    return [results[attack.id] for attack in attacks]


async def carry_out(attack: Attack, target: Target) -> Outcome:
    """Carry an attack out; return what came of it. An attack that cannot be carried out is no success of the server."""
    try:
        async with asyncio.timeout(attack.timeout_s):
            if attack.act is not None:
                return await attack.act(target)
            box = await target.box()
            return await box.attack(attack.program, uid=attack.uid, timeout_s=attack.timeout_s)
    except Refused as error:
        return not_applicable(str(error))
    except Unreachable as error:
        return unclear(str(error))
    except TimeoutError:
        return unclear(f"it took longer than {attack.timeout_s:.0f} s")
