"""The out-of-memory score of children, and the kernel's count of kills."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from execd.process.oom import CHILD_SCORE, KillCounter, RaisedScore


def score() -> int:
    return int(Path("/proc/self/oom_score_adj").read_text())


def test_the_score_is_raised_inside_and_back_outside_also_after_an_error() -> None:
    own = score()
    raised = RaisedScore()

    def fail() -> None:
        with raised:
            assert score() == min(own + CHILD_SCORE, 1000)
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()
        assert score() == own


def test_without_proc_everything_works(tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.write_text("what?")
    own, descriptors = score(), os.listdir("/proc/self/fd")
    for path in (tmp_path / "missing", odd):
        with RaisedScore(str(path)):
            assert score() == own
    assert os.listdir("/proc/self/fd") == descriptors


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory.events", "low 0\nhigh 0\nmax 9\noom 3\noom_kill {}\noom_group_kill 0\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"),
    ],
)
def test_the_count_is_read_anew_each_time_from_either_version_of_cgroups(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text.format(0))
    counter = KillCounter((str(tmp_path / "missing"), str(path)))
    assert counter.read() == 0

    path.write_text(text.format(12))
    assert counter.read() == 12


def test_where_the_kernel_does_not_tell_nothing_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "memory.events"
    path.write_text("low 0\n")

    assert KillCounter(()).read() == 0
    assert KillCounter((str(path),)).read() == 0
