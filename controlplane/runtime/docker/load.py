"""What containers use of the machine, as the kernel's files for their control groups tell."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from controlplane.runtime.driver import Load

ROOT = Path("/sys/fs/cgroup")
# Where an engine puts the group of a container, below the root of a hierarchy: by cgroupfs, by systemd, and by the
# systemd of a user without root.
PLACES = ("docker/{}", "system.slice/docker-{}.scope", "user.slice/user-*.slice/user@*.service/*/docker-{}.scope")


def load_of(container_ids: Collection[str], root: Path = ROOT) -> dict[str, Load]:
    """Return the use of each container whose control groups are here."""
    unified = (root / "cgroup.controllers").exists()
    found = {}
    for container_id in container_ids:
        load = _unified(root, container_id) if unified else _split(root, container_id)
        if load is not None:
            found[container_id] = load
    return found


def _unified(root: Path, container_id: str) -> Load | None:
    """Return a load of cgroup v2."""
    for folder in _folders(root, container_id):
        try:
            cpu_us = _field(folder / "cpu.stat", "usage_usec")
            memory = int((folder / "memory.current").read_text()) - _field(folder / "memory.stat", "inactive_file")
        except (OSError, ValueError):
            continue
        return Load(cpu_us / 1e6, max(0, memory))
    return None


def _split(root: Path, container_id: str) -> Load | None:
    """Return a load of cgroup v1, which has a hierarchy for each resource."""
    for cpu, memory in zip(
        _folders(root / "cpuacct", container_id), _folders(root / "memory", container_id), strict=False
    ):
        try:
            cpu_ns = int((cpu / "cpuacct.usage").read_text())
            inactive = _field(memory / "memory.stat", "total_inactive_file")
            used = int((memory / "memory.usage_in_bytes").read_text()) - inactive
        except (OSError, ValueError):
            continue
        return Load(cpu_ns / 1e9, max(0, used))
    return None


def _folders(root: Path, container_id: str) -> Iterator[Path]:
    """Yield where the group of a container is, if it is there."""
    for place in PLACES:
        if "*" in place:
            yield from root.glob(place.format(container_id))
        elif (folder := root / place.format(container_id)).exists():
            yield folder


def _field(path: Path, name: str) -> int:
    """Return a number of a file whose lines are names with numbers. Raises OSError, ValueError: it is not there."""
    for line in path.read_text().splitlines():
        key, _, number = line.partition(" ")
        if key == name:
            return int(number)
    raise ValueError(name)
