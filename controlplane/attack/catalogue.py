"""All attacks, by category in the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.attack.attacks import agent, edge, network, residue, secrets
from controlplane.attack.attacks.host import files, kernel, namespaces, rights
from controlplane.attack.attacks.resources import limits, output, trees
from controlplane.attack.client.model import Attack

CATEGORIES = {
    "host": (*files.ATTACKS, *namespaces.ATTACKS, *rights.ATTACKS, *kernel.ATTACKS),
    "agent": agent.ATTACKS,
    "resources": (*limits.ATTACKS, *output.ATTACKS, *trees.ATTACKS),
    "network": network.ATTACKS,
    "edge": edge.ATTACKS,
    "secrets": secrets.ATTACKS,
    "residue": residue.ATTACKS,
}
ATTACKS: tuple[Attack, ...] = tuple(attack for attacks in CATEGORIES.values() for attack in attacks)


def choose(names: Sequence[str]) -> list[Attack]:
    """Return the attacks of these ids and categories; all for no names.

    Raises:
        KeyError: there is no such attack, and no such category.
    """
    for name in names:
        if name not in CATEGORIES and all(attack.id != name for attack in ATTACKS):
            raise KeyError(name)
    return [attack for attack in ATTACKS if not names or attack.id in names or attack.category in names]
