"""What tools of the images say in a sandbox without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

FOLDER = ROOT / "images/base/no-network"
MESSAGE = (
    "sandlot: this sandbox has no network, so nothing can be fetched; the server's setting allow_network gives one\n"
)
# A program that ends as pip does; `site` reads the .pth file of this directory first.
PIP = """
import site, sys
site.addsitedir(DIRECTORY)
sys.exit(int(sys.argv[-1]))
"""


def run_pip(
    tmp_path: Path, *arguments: str, name: str = "pip", network: str = "none"
) -> subprocess.CompletedProcess[str]:
    """Run a script of that name which ends with the last argument as its status."""
    script = tmp_path / name
    script.write_text(PIP.replace("DIRECTORY", repr(str(FOLDER))))
    return subprocess.run(
        [sys.executable, script, *arguments],
        env={**os.environ, "SANDLOT_NETWORK": network},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["pip", "pip3", "pip3.11"])
def test_pip_says_why_it_fails(tmp_path: Path, name: str) -> None:
    done = run_pip(tmp_path, "install", "six", "1", name=name)
    assert (done.returncode, done.stderr) == (1, MESSAGE)


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (("install", "./local.whl", "0"), {}),
        (("check", "1"), {}),
        (("install", "six", "1"), {"network": ""}),
        (("install", "six", "1"), {"name": "other"}),
    ],
)
def test_nobody_else_does(tmp_path: Path, arguments: tuple[str, ...], more: dict[str, str]) -> None:
    """Nor does pip, if it succeeds, fetches nothing, or has a network."""
    done = run_pip(tmp_path, *arguments, **more)
    assert (done.returncode, done.stderr) == (int(arguments[-1]), "")


def test_pip_as_a_module_says_it_too(tmp_path: Path) -> None:
    (tmp_path / "pip.py").write_text(PIP.replace("DIRECTORY", repr(str(FOLDER))))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pip", "install", "six", "1"],
        env={**os.environ, "SANDLOT_NETWORK": "none"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, MESSAGE)


@pytest.mark.parametrize(("network", "status", "message"), [("none", 1, MESSAGE), ("", 0, "")])
def test_apt_is_ended_before_it_tries(network: str, status: int, message: str) -> None:
    done = subprocess.run(
        [FOLDER / "apt"], env={**os.environ, "SANDLOT_NETWORK": network}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, message)


def test_every_tool_says_the_same() -> None:
    for file in FOLDER.iterdir():
        if file.suffix != ".pth" and file.is_file():
            assert MESSAGE.strip() in file.read_text(), file
