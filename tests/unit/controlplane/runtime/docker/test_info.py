"""What follows from what a Docker engine says of itself."""

from __future__ import annotations

import msgspec
import pytest

from controlplane.runtime.abilities import Ability
from controlplane.runtime.docker.info import Info, abilities_of


@pytest.mark.parametrize(
    ("told", "has_quotas"),
    [
        ({"Driver": "zfs"}, True),
        ({"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "xfs"]]}, True),
        ({"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "extfs"], ["userxattr", "false"]]}, False),
        ({"Driver": "btrfs", "DriverStatus": None}, False),
    ],
)
def test_quotas_are_a_matter_of_the_storage(told: dict[str, object], has_quotas: bool) -> None:
    """And GPUs one of the runtimes."""
    answer = {"ServerVersion": "24", "NCPU": 1, "MemTotal": 1, "Runtimes": {"nvidia": {}, "runc": {}}, **told}
    abilities = abilities_of(msgspec.convert(answer, Info))
    assert (Ability.DISK_LIMITS in abilities.can) is has_quotas
    assert Ability.GPUS in abilities.can
