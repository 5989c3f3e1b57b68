"""Background jobs of a session, by the files that its shell writes."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from execd.launch.shell import quoted
from execd.session.bubblewrap import JOBS
from execd.session.jobs import MAX_READ_BYTES, Jobs


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    """Those of a session that has begun one job, `a`."""
    made = Jobs(uuid.uuid4().hex, None)
    made.prepare()
    made.begin("a", "true", {})
    yield made
    shutil.rmtree(made.directory)


def read(jobs: Jobs, offset: int, job: str = "a") -> tuple[bytes, int]:
    """Return what is to be read from an offset on, and where that ends."""
    end = jobs.state(job, None, offset).output_end
    assert end is not None
    return b"".join(jobs.read(job, offset, end)), end


def test_what_is_read_ends_with_a_character_until_the_job_has_ended(jobs: Jobs) -> None:
    """Then the rest comes, whatever it is."""
    log = Path(jobs.directory) / "a.log"
    log.write_bytes("ab日".encode()[:-1])

    assert jobs.state("a", None).output_end is None
    assert read(jobs, 0) == (b"ab", 2)
    assert read(jobs, 2) == (b"", 2)
    assert read(jobs, 900) == (b"", 900)
    (Path(jobs.directory) / "a.exit").write_text("0\n0m0.0s 0m0.0s\n0m0.1s 0m0.2s\n")
    assert read(jobs, 2) == ("日".encode()[:-1], 4)


def test_a_large_output_is_cut_between_characters(jobs: Jobs) -> None:
    """So that each answer can be decoded alone."""
    output = "日".encode() * (MAX_READ_BYTES // 3 + 10)
    (Path(jobs.directory) / "a.log").write_bytes(output)

    first, end = read(jobs, 0)
    second, _ = read(jobs, end)

    assert MAX_READ_BYTES - 3 < end <= MAX_READ_BYTES
    assert first + second == output
    assert first.decode() + second.decode() == output.decode()


@pytest.mark.parametrize(
    "state",
    [
        ":",
        "set -e",
        "set -eE; trap 'exit 5' ERR",
        "set -C; trap 'exit 9' EXIT",
        "echo() { :; }; times() { :; }; trap() { :; }; eval() { :; }",
        "shopt -s expand_aliases; alias echo=true times=true builtin=true",
    ],
)
def test_a_job_tells_its_end_whatever_its_session_has_set(jobs: Jobs, state: str) -> None:
    code = jobs.begin("b", "trap -p EXIT; (exit 3)", {"A": "1"}).replace(JOBS, jobs.directory)
    subprocess.run(["bash", "-c", f"eval {quoted(state)}\n{code}\nwait"], check=False, timeout=20)
    assert jobs.state("b", None).exit_code == (5 if "ERR" in state else 3)
    assert read(jobs, 0, "b") == (b"", 0)
