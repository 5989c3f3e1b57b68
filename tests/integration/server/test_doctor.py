"""`sandlot doctor` on the real engine of this machine."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SANDLOT = Path(sys.executable).with_name("sandlot")


@pytest.fixture
def paths() -> Iterator[list[str]]:
    """Flags for directories of this test's own."""
    with tempfile.TemporaryDirectory(prefix="sandlot-") as root:
        yield ["--config", "/dev/null", "--port", "0", "--state-dir", f"{root}/state", "--run-dir", f"{root}/run"]


def doctor(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SANDLOT, "doctor", *flags], capture_output=True, text=True, timeout=100, check=False)


def doctor_containers(paths: list[str]) -> list[str]:
    """Containers that a doctor with these directories has left; other tests may have doctors too."""
    command = ["docker", "ps", "-a", "--no-trunc", "--format", '{{.Label "sandlot.instance"}} {{.Mounts}}']
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    root = str(Path(paths[-1]).parent)
    return [line for line in lines if line.startswith("doctor-") and root in line]


def test_a_machine_that_can_run_sandboxes(paths: list[str]) -> None:
    """All is well: a sandbox was started, and is gone again."""
    done = doctor(*paths)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split()[:2] for line in done.stdout.splitlines()[:-1] if not line.startswith(" ")]
    checks = ("address", "directories", "limits", "disk", "engine", "images", "sandbox")
    assert lines[: len(checks)] == [["ok", check] for check in checks]
    assert lines[len(checks) :], "something is said of the age"
    assert {check for _, check in lines[len(checks) :]} == {"age"}
    assert done.stdout.splitlines()[-1] == "all is well"
    assert doctor_containers(paths) == []


def test_an_image_that_does_not_exist(paths: list[str]) -> None:
    """The check of the whole way names it, and the cure."""
    done = doctor(*paths, "--image", "no/such/image")
    assert done.returncode == 1
    assert "no/such/image" in done.stdout
    assert "→ `make images`, or another [sandbox] image" in done.stdout
    assert doctor_containers(paths) == []
