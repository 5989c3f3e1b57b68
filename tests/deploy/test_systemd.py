"""`deploy/systemd/sandlot.service`: systemd knows all of it, and the server tells systemd how it is."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.server.live_server import ROOT, LiveServer

UNIT = ROOT / "deploy" / "systemd" / "sandlot.service"
# Of systemd's rating, from 0 to 10: a service without any hardening has 9.6.
MOST_EXPOSED = 3.5

needs_systemd_analyze = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a program that exists here."""
    path = tmp_path / UNIT.name
    text = UNIT.read_text()
    assert "/opt/sandlot/.venv/bin/sandlot" in text
    path.write_text(text.replace("/opt/sandlot/.venv/bin/sandlot", "/bin/true"))
    return path


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False)


@needs_systemd_analyze
def test_systemd_knows_every_key(unit: Path) -> None:
    """It finds nothing to complain about; and it does find a key that does not exist."""
    assert [line for line in analyze("verify", unit).stderr.splitlines() if "sandlot" in line] == []
    unit.write_text(unit.read_text().replace("LockPersonality=", "LockPersonalities="))
    assert "LockPersonalities" in analyze("verify", unit).stderr


@needs_systemd_analyze
def test_the_service_is_hardened(unit: Path) -> None:
    """By systemd's own rating."""
    done = analyze("security", "--offline=true", unit)
    if "unrecognized option" in done.stderr:
        pytest.skip("needs systemd 250, for security --offline")
    found = re.search(r"Overall exposure level for sandlot.service: (\S+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= MOST_EXPOSED


def test_what_systemd_hears_of_a_server(tmp_path: Path) -> None:
    """It is ready when it answers, then the pool is full, and it says that it stops."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with LiveServer(["--pool-size", "1", "--image", "sandlot/base"], environment) as server:
            heard = [manager.recv(4096).decode() for _ in range(2)]
            assert heard[0].startswith("READY=1\nSTATUS=Sandlot ")
            assert server.address in heard[0]
            assert heard[1].startswith("STATUS=ready: 1 warm sandbox(es)")
            server.stop()
            assert manager.recv(4096).decode() == "STOPPING=1\nSTATUS=stopping"
