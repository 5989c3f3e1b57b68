"""The files of control groups, as both versions of the kernel's interface have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.runtime.docker.load import load_of
from controlplane.runtime.driver import Load

ONE = "0123abcd"


def write(path: Path, text: str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "place",
    [
        f"docker/{ONE}",
        f"system.slice/docker-{ONE}.scope",
        f"user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ONE}.scope",
    ],
)
def test_cgroup_v2(place: str, tmp_path: Path) -> None:
    """One hierarchy; files that the kernel would give back do not count as memory."""
    write(tmp_path / "cgroup.controllers", "cpu memory\n")
    write(tmp_path / place / "cpu.stat", "usage_usec 2500000\nuser_usec 1\n")
    write(tmp_path / place / "memory.current", "5000\n")
    write(tmp_path / place / "memory.stat", "anon 1\ninactive_file 2000\n")
    assert load_of([ONE, "absent"], tmp_path) == {ONE: Load(2.5, 3000)}


@pytest.mark.parametrize("place", [f"docker/{ONE}", f"system.slice/docker-{ONE}.scope"])
def test_cgroup_v1(place: str, tmp_path: Path) -> None:
    """A hierarchy for each resource."""
    write(tmp_path / "cpuacct" / place / "cpuacct.usage", "2500000000\n")
    write(tmp_path / "memory" / place / "memory.usage_in_bytes", "5000\n")
    write(tmp_path / "memory" / place / "memory.stat", "inactive_file 1\ntotal_inactive_file 2000\n")
    assert load_of([ONE, "absent"], tmp_path) == {ONE: Load(2.5, 3000)}


def test_a_container_that_ends_meanwhile_is_left_out(tmp_path: Path) -> None:
    """Its files are gone, or empty."""
    write(tmp_path / "cgroup.controllers", "cpu memory\n")
    write(tmp_path / f"docker/{ONE}" / "cpu.stat", "")
    assert load_of([ONE], tmp_path) == {}
