"""Every program of the battery succeeds in a container that is weak in the way which the attack looks for."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.attack import catalogue
from controlplane.attack.attacks import agent
from controlplane.attack.attacks.host import rights
from controlplane.attack.client.model import Attack
from controlplane.attack.client.outcome import Outcome, Verdict, broken
from controlplane.attack.client.program import command, given, judge
from tests.contract.worlds import DockerWorld, docker_world
from tests.security.weak import naked_container, shared_container

PROGRAMS = [attack for attack in catalogue.ATTACKS if attack.program]

# These need the host's own namespaces to be weak.
_SHARED = {"host.other-roots"}

# What the engine under the tests may not weaken either: the same program is asked for less.
_ASKED_FOR_LESS = {
    "host.oom-score": given(rights.OOM_SCORE, wanted=900),  # a higher score than its own, which everybody may take
    "agent.connection-storm": given(agent.STORM_PROGRAM, most=30),  # a slow machine takes no more in the time
}

# A command that inherits a descriptor, as from an agent that lends its own.
_WITH_A_DESCRIPTOR = ("sh", "-c", 'exec 9</etc/passwd; exec "$@"', "sh")

# Not every kernel has these calls and families; where it has not, no container is weak enough.
_MAY_BE_MISSING: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "host.kernel-modules": (("init_module", "finit_module", "delete_module"), ()),
    "host.another-kernel": (("kexec_load", "kexec_file_load"), ()),
    "host.io-ports": (("iopl", "ioperm"), ()),
    "host.io-uring": (("io_uring_setup",), ()),
    "host.kernel-ciphers": ((), (38,)),
    "host.vsock": ((), (40,)),
}
_MISSING = """
found = [name for name in names if call(name, -1, -1, -1, -1, -1, -1) not in (None, errno.ENOSYS)]
for family in families:
    if error_of(lambda: socket.socket(family, socket.SOCK_SEQPACKET).close()) != errno.EAFNOSUPPORT:
        found.append(family)
held_unless(found)
"""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    """What came of each program where nothing confines it."""
    return asyncio.run(_run_all())


async def _run_all() -> dict[str, Outcome]:
    async with docker_world() as world, naked_container(world) as naked, shared_container(world) as shared:
        return {attack.id: await _succeed(world, naked, shared, attack) for attack in PROGRAMS}


async def _succeed(world: DockerWorld, naked: str, shared: str, attack: Attack) -> Outcome:
    source = _ASKED_FOR_LESS.get(attack.id, attack.program)
    source = source.replace("may_have_network = True", "may_have_network = False")
    before = _WITH_A_DESCRIPTOR if attack.id == "agent.inherited-descriptors" else ()
    outcome = await _run(world, shared if attack.id in _SHARED else naked, source, before)
    if outcome.verdict is Verdict.HELD and attack.id in _MAY_BE_MISSING:
        calls, families = _MAY_BE_MISSING[attack.id]
        found = await _run(world, naked, given(_MISSING, names=calls, families=families))
        return broken("this kernel has none of it") if found.verdict is Verdict.HELD else found
    return outcome


async def _run(world: DockerWorld, container_id: str, source: str, before: tuple[str, ...] = ()) -> Outcome:
    argv, mark = command(source)
    ran = await world.run_inside(container_id, *before, *argv)
    return judge(ran.output, mark)


@pytest.mark.parametrize("attack", PROGRAMS, ids=lambda attack: attack.id)
def test_an_attack_succeeds_where_nothing_confines_it(outcomes: dict[str, Outcome], attack: Attack) -> None:
    """Otherwise that it is held elsewhere would say nothing."""
    assert outcomes[attack.id].verdict is Verdict.BROKEN, outcomes[attack.id]
