"""Variables that follow from a sandbox's CPU limit and network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from execd.launch.defaults import NETWORK_VARIABLE, OFFLINE, THREADS, defaults, has_network
from execd.launch.environment import Environment

LOOPBACK = "00000000 00 00000000 00 00000000 ffffffff 00000001 00000000 00200200       lo\n"
HEADLINE = "Iface\tDestination\tGateway\n"


def root_with(tmp_path: Path, *, cpu_max: str = "", route: str | None = "", ipv6: str | None = LOOPBACK) -> str:
    """A root directory with what the kernel shows of control groups (version 2) and routes."""
    files = {"proc/net/route": None if route is None else HEADLINE + route, "proc/net/ipv6_route": ipv6}
    if cpu_max:
        files |= {"sys/fs/cgroup/memory.current": "1", "sys/fs/cgroup/cpu.max": cpu_max, "proc/self/cgroup": "0::/\n"}
    for name, text in files.items():
        if text is not None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    return str(tmp_path)


@pytest.mark.parametrize(
    ("cpu_max", "threads"),
    [("100000 100000", 1), ("50000 100000", 1), ("150000 100000", 2), ("1000 100000", 1), ("200000 100000", 2)],
)
def test_as_many_threads_as_cpus_rounded_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu_max: str, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    found = defaults(root_with(tmp_path, cpu_max=cpu_max))
    assert {found[name] for name in THREADS} == {str(threads)}


def test_never_more_threads_than_the_machine_has_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 5})
    assert defaults(root_with(tmp_path, cpu_max="6400000 100000"))["OMP_NUM_THREADS"] == "2"


@pytest.mark.parametrize("cpu_max", ["", "max 100000"])
def test_without_a_limit_tools_count_themselves(tmp_path: Path, cpu_max: str) -> None:
    assert not defaults(root_with(tmp_path, cpu_max=cpu_max)).keys() & set(THREADS)


def test_without_a_network_nothing_is_tried_again(tmp_path: Path) -> None:
    found = defaults(root_with(tmp_path))
    assert found.items() >= OFFLINE.items()
    assert found[NETWORK_VARIABLE] == "none"


@pytest.mark.parametrize(
    ("route", "ipv6", "expected"),
    [
        ("", LOOPBACK, False),
        ("", None, False),
        ("eth0\t00000000\t010011AC\n", LOOPBACK, True),
        ("eth0\t00000000\t010011AC\n", None, True),
        ("", LOOPBACK + LOOPBACK.replace("lo", "eth0"), True),
        (None, None, True),
    ],
)
def test_a_network_is_a_route_that_leaves(
    tmp_path: Path, route: str | None, ipv6: str | None, *, expected: bool
) -> None:
    assert has_network(root_with(tmp_path, route=route, ipv6=ipv6)) is expected


def test_with_a_network_tools_try_as_they_like(tmp_path: Path) -> None:
    found = defaults(root_with(tmp_path, route="eth0\t00000000\t010011AC\n"))
    assert not found.keys() & {*OFFLINE, NETWORK_VARIABLE}


def test_the_image_and_the_claim_win_and_the_claim_sees_the_limits_of_its_time() -> None:
    limits = {"A": "1", "B": "1", "C": "1"}
    env = Environment({"B": "image"}, "/", defaults=lambda: dict(limits))
    limits["A"] = "2"
    env.bind({"C": "claim"})
    variables = env.prepare().env
    assert [variables[name] for name in "ABC"] == ["2", "image", "claim"]
