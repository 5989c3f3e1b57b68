"""`deploy/systemd/sandlot.service`: systemd knows all of it, and the server tells systemd how it is."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.deploy.own_machine import OwnMachine
from tests.support.pages import block
from tests.support.server.live_server import ROOT, LiveServer

UNIT = ROOT / "deploy" / "systemd" / "sandlot.service"
# Of systemd's rating, from 0 to 10: a service without any hardening has 9.6.
MOST_EXPOSED = 3.5

SETTINGS = '[sandbox]\nimage = "sandlot/base"\npool_size = 1\n'
CREATE = {"image": {"uri": "sandlot/base"}, "entrypoint": ["sleep", "inf"]}
# Mounting a part of a volume needs the most of the unit: to make a directory, and to look into the container.
PART = {"name": "data", "mountPath": "/data", "subPath": "a/b", "pvc": {"claimName": "part"}}

needs_docker_client = pytest.mark.skipif(not shutil.which("docker"), reason="needs Docker's client")
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
            heard = [manager.recv(4096).decode() for _ in range(3)]
            assert heard[0].startswith("STATUS=Sandlot ")
            assert server.address in heard[0]
            assert heard[1] == f"READY=1\n{heard[0]}"
            assert heard[2].startswith("STATUS=ready: 1 warm sandbox(es)")
            server.stop()
            assert manager.recv(4096).decode() == "STOPPING=1\nSTATUS=stopping"


@needs_docker_client
@pytest.mark.timeout(600)  # the first time, packages are fetched for two images
def test_the_service_for_real() -> None:
    """On a machine with systemd and Docker: installed as documented, stopped, started, and its engine restarted."""
    with OwnMachine() as machine:
        machine.wait_booted()
        machine.load("sandlot/base", "sandlot/execd")
        machine.write("/etc/docker/daemon.json", block("docs/operations.md", "json", "live-restore"))
        machine.run("systemctl reload docker")
        installing = block("docs/operations.md", "console", "systemctl enable --now sandlot").replace("$ ", "")
        assert "make images\n" in installing
        first, _, last = installing.replace("make images\n", "").partition("systemctl daemon-reload")
        machine.run(first)
        machine.write("/etc/sandlot/sandbox.toml", SETTINGS)
        machine.run(f"systemctl daemon-reload{last}")
        check_service(machine)
        sandbox = check_sandboxes(machine)
        check_restarts(machine, sandbox)
        check_bad_settings(machine)


def check_service(machine: OwnMachine) -> None:
    """`enable --now` has returned, so the server serves; it has two capabilities and a filter of system calls."""
    assert machine.run("systemctl is-active sandlot") == "active\n"
    assert machine.run("curl -sS --fail http://127.0.0.1:8194/health") == '{"status":"healthy"}'
    status = machine.run("cat /proc/$(systemctl show -P MainPID sandlot)/status")
    wanted = 1 << 1 | 1 << 10 | 1 << 19  # CAP_DAC_OVERRIDE, CAP_NET_BIND_SERVICE, CAP_SYS_PTRACE
    assert re.search(rf"^CapBnd:\t0*{wanted:x}$", status, re.MULTILINE), status
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)


def check_sandboxes(machine: OwnMachine) -> str:
    """They start and run, warm and with a part of a volume. Return the id of one that has a file."""
    sandbox: str = machine.request("POST", "/v1/sandboxes", CREATE)["id"]
    assert '"text":"made"' in command(machine, sandbox, "echo kept > /tmp/file; echo made")
    other = machine.request("POST", "/v1/sandboxes", CREATE | {"volumes": [PART]})["id"]
    assert '"text":"kept"' in command(machine, other, "echo kept > /data/file; cat /data/file")
    machine.request("DELETE", f"/v1/sandboxes/{other}")
    return sandbox


def check_restarts(machine: OwnMachine, sandbox: str) -> None:
    """The sandbox goes on while the server is stopped, and while its engine is restarted."""
    machine.run("systemctl stop sandlot")
    assert machine.run(f"ls /run/sandlot/sandboxes/{sandbox}") == "link.sock\n"
    machine.run("systemctl start sandlot")
    assert '"text":"kept"' in command(machine, sandbox, "cat /tmp/file")
    machine.run("systemctl restart docker")
    assert '"text":"kept"' in command(machine, sandbox, "cat /tmp/file")
    machine.run("until curl -s --fail http://127.0.0.1:8194/ready; do sleep 0.1; done")
    assert '"text":"new"' in command(machine, machine.request("POST", "/v1/sandboxes", CREATE)["id"], "echo new")
    assert machine.run("systemctl show -P NRestarts sandlot") == "0\n"


def check_bad_settings(machine: OwnMachine) -> None:
    """The reason is in the journal, and systemd does not try again."""
    machine.write("/etc/sandlot/sandbox.toml", "[sandbox]\npool = 1\n")
    machine.run("systemctl restart sandlot", is_checked=False)
    assert machine.run("systemctl is-active sandlot", is_checked=False) == "failed\n"
    assert machine.run("systemctl show -P ExecMainStatus sandlot") == "2\n"
    assert "there is no such key" in machine.run("journalctl --no-pager -u sandlot")


def command(machine: OwnMachine, sandbox: str, text: str) -> str:
    """Run a command in a sandbox; return its events."""
    said: str = machine.request("POST", f"/v1/sandboxes/{sandbox}/proxy/44772/command", {"command": text})
    return said
