"""The kernel's counts of how often a container ran into its limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from execd.process.limits import Hits, Limits


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 9\noom 3\noom_kill {}\noom_group_kill 0\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"),
    ],
)
def test_counts_are_read_anew_each_time_from_either_version_of_cgroups(tmp_path: Path, name: str, text: str) -> None:
    path, pids = tmp_path / name, tmp_path / "pids.events"
    path.write_text(text.format(0))
    pids.write_text("max 2\n")
    limits = Limits((str(tmp_path / "missing"), str(path)), (str(pids),))
    assert limits.hits() == Hits(kills=0, refusals=2)

    path.write_text(text.format(12))
    pids.write_text("max 3\n")
    assert limits.hits() == Hits(kills=12, refusals=3)


def test_where_the_kernel_does_not_tell_nothing_was_met(tmp_path: Path) -> None:
    path = tmp_path / "memory.events"
    path.write_text("low 0\n")

    assert Limits((), ()).hits() == Hits(0, 0)
    assert Limits((str(path),), (str(path),)).hits() == Hits(0, 0)


@pytest.mark.parametrize(
    ("after", "met"),
    [
        (Hits(1, 1), ()),
        (Hits(2, 1), ("memory",)),
        (Hits(1, 9), ("pids",)),
        (Hits(2, 2), ("memory", "pids")),
    ],
)
def test_what_was_met_is_what_has_grown(after: Hits, met: tuple[str, ...]) -> None:
    assert after.since(Hits(1, 1)) == met
