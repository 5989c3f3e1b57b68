"""The out-of-memory score of children."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from execd.process.oom import CHILD_SCORE, RaisedScore


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
