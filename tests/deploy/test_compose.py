"""`deploy/compose.yaml` by a real Docker Compose: from nothing to the quick start, upgraded, taken down and put up."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from controlplane.images.build import image_status
from controlplane.runtime.docker.engine import connect
from controlplane.settings.load import FILE_VARIABLE
from controlplane.settings.table import settings_table
from tests.e2e.test_kill_and_restart import AFTER, BEFORE
from tests.e2e.test_quick_start import block
from tests.support.server.composed_server import COMPOSE_FILE, ComposedServer, compose_program
from tests.support.server.live_server import ROOT, run_script, sdk_python

pytestmark = pytest.mark.timeout(600)  # the first time, packages are fetched for the image
needs_compose = pytest.mark.skipif(not compose_program(), reason="needs Docker Compose")


@pytest.fixture(scope="module")
def composed() -> Iterator[ComposedServer]:
    """The project, from nothing."""
    with ComposedServer() as server:
        yield server


def lines_of(output: str) -> dict[str, str]:
    """Return the verdict of each check of a doctor."""
    found = (line.split()[:2] for line in output.splitlines() if line[:1] not in (" ", ""))
    return {check: verdict for verdict, check, *_ in (words for words in found if len(words) == 2)}


@needs_compose
def test_from_nothing_to_the_quick_start(composed: ComposedServer, tmp_path: Path) -> None:
    """The README's program, with the official SDK, prints what the README says; the key is as documented."""
    assert composed.compose("exec", "-T", "server", "sandlot", "key").strip() == composed.key
    script = tmp_path / "quickstart.py"
    script.write_text(block("python", "Sandbox.create"))
    done = subprocess.run(
        [sdk_python(), script],
        env=composed.sdk_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr + composed.log[-3000:]
    assert done.stdout == block("text", "Hello")


@needs_compose
def test_the_console_comes_with_the_image(composed: ComposedServer) -> None:
    """Its pages are in the wheel if they were built before the image; otherwise the answer says how to build them."""
    is_built = (ROOT / "controlplane/console/dist/index.html").is_file()
    answer = httpx.get(f"{composed.address}/console/")
    assert answer.status_code == (200 if is_built else 503)
    assert ("<html" in answer.text) if is_built else ("sandlot images" in answer.text)


@needs_compose
async def test_the_doctor_inside(composed: ComposedServer) -> None:
    """Every check of the machine holds inside too, and the same images count as current as outside."""
    said = composed.compose("exec", "-T", "server", "sh", "-c", "sandlot doctor || true")
    verdicts = lines_of(said)
    for check in ("address", "directories", "limits", "disk", "engine", "sandbox"):
        assert verdicts[check] == "ok", said
    engine = connect()
    try:
        statuses = await image_status(engine, ROOT / "images")
    finally:
        await engine.close()
    missing = [status.tag for status in statuses if status.state == "missing"]
    outdated = [status.tag for status in statuses if status.state == "outdated"]
    expected = missing or outdated or [status.tag for status in statuses]
    assert ", ".join(expected) in said
    assert (verdicts["images"] == "ok") == (not missing and not outdated)


@needs_compose
def test_what_sandboxes_use_is_seen_from_inside(composed: ComposedServer) -> None:
    """The control groups of the host tell the metrics."""
    wish = {"image": {"uri": "sandlot/python"}, "entrypoint": ["sleep", "inf"], "timeout": 300}
    sandbox = composed.request("POST", "/v1/sandboxes", wish | {"resourceLimits": {"cpu": "1", "memory": "1Gi"}})
    composed.wait_above("sandlot_sandboxes_memory_bytes", 1 << 20)
    composed.request("DELETE", f"/v1/sandboxes/{sandbox['id']}")


@needs_compose
def test_without_the_hosts_process_ids(composed: ComposedServer) -> None:
    """A container that cannot see who connects is told so by the doctor, with the cure, and no sandbox starts."""
    run = composed.environment["SANDLOT_PATHS_RUN_DIR"]
    mounts = ["-v", "/var/run/docker.sock:/var/run/docker.sock", "-v", f"{run}:{run}"]
    command = ["docker", "run", "--rm", *mounts, composed.image, "doctor", "--run-dir", run]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert lines_of(done.stdout)["sandbox"] == "FAIL"
    assert "run the server in the pid namespace of the engine's host (Compose: pid: host" in done.stdout
    assert "start this container anew with the host's process ids" in done.stdout


@needs_compose
def test_sandboxes_survive_an_upgrade_and_a_down(composed: ComposedServer) -> None:
    """A new image replaces the container, then the project goes and comes: same key, same sandboxes, same state."""
    sdk = sdk_python()
    was = run_script(sdk, composed, BEFORE)
    key, first = composed.key, composed.container()

    newer = subprocess.run(
        ["docker", "build", "-q", "-t", composed.image, "-"],
        input=f"FROM {composed.image}\nLABEL upgraded=yes\n",
        env={**os.environ, "DOCKER_BUILDKIT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert newer.returncode == 0, newer.stderr
    composed.up()
    assert composed.container() != first
    assert composed.inspect()["Config"]["Labels"]["upgraded"] == "yes"
    assert composed.request("GET", f"/v1/sandboxes/{was['kept']}")["status"]["state"] == "Running"

    composed.stop()
    assert composed.container() == ""
    composed.up()
    assert composed.key == key
    now = run_script(sdk, composed, AFTER, json.dumps(was))
    assert (now["answer"], now["state"], now["running"]) == ("42", "Running", True)
    composed.request("DELETE", f"/v1/sandboxes/{was['kept']}")


@needs_compose
def test_what_the_server_may_do(composed: ComposedServer) -> None:
    """Published on the loopback only, no key among its variables, few capabilities."""
    shown = composed.inspect()
    host = shown["HostConfig"]
    assert {binding["HostIp"] for bindings in host["PortBindings"].values() for binding in bindings} == {"127.0.0.1"}
    assert (host["PidMode"], host["Privileged"]) == ("host", False)
    assert sorted(host["CapAdd"]) == ["DAC_OVERRIDE", "SYS_PTRACE"]
    assert host["CapDrop"] == ["ALL"]
    assert composed.key not in json.dumps(shown) + composed.log


@needs_compose
def test_the_monitoring_profile() -> None:
    """Compose accepts the four services; files that they mount exist, and only the loopback reaches their ports."""
    server = ComposedServer()
    said = server.compose("--profile", "monitoring", "config")
    server.remove()
    services = re.findall(r"^  (\w+):$", said.partition("\nvolumes:")[0], re.MULTILINE)
    assert {"server", "prometheus", "alertmanager", "grafana"} <= set(services)
    mounted = set(re.findall(rf"{re.escape(str(ROOT))}/(deploy/(?:monitoring|prometheus|grafana)[\w./-]*)", said))
    assert mounted >= {"deploy/prometheus/sandlot.rules.yml", "deploy/grafana/dashboards"}
    assert [path for path in mounted - {"deploy/monitoring/key"} if not (ROOT / path).exists()] == []
    ports = re.findall(r'^ +- "\$\{PUBLISH\w*:-(.*?):\d+\}:\d+"$', COMPOSE_FILE.read_text(), re.MULTILINE)
    assert ports == ["127.0.0.1"] * 4


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool")
def test_prometheus_of_the_profile(tmp_path: Path) -> None:
    """Prometheus accepts its configuration, with the rules and the key where Compose mounts them."""
    text = (ROOT / "deploy/monitoring/prometheus.yml").read_text()
    (tmp_path / "key").write_text("a-key-with-the-scope-read")
    for inside, here in {
        "/etc/prometheus/sandlot.rules.yml": str(ROOT / "deploy/prometheus/sandlot.rules.yml"),
        "/run/secrets/metrics-key": str(tmp_path / "key"),
    }.items():
        assert inside in text
        text = text.replace(inside, here)
    (tmp_path / "prometheus.yml").write_text(text)
    command = ["promtool", "check", "config", tmp_path / "prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_variables_are_settings() -> None:
    """Every variable of the file that looks like a setting is one, and is passed on under its own name."""
    text = COMPOSE_FILE.read_text()
    known = {row.environment_name for row in settings_table()} | {FILE_VARIABLE}
    named = re.findall(r"^ +((?:SANDBOX|SANDLOT)_\w+): (.*)$", text, re.MULTILINE)
    assert {name for name, _ in named} <= known
    taken = {name: re.findall(r"\$\{(\w+)", value) for name, value in named}
    own = {name: names for name, names in taken.items() if names and names != [name]}
    assert own == {"SANDLOT_SERVER_API_KEYS": ["OPEN_SANDBOX_API_KEY"]}
    # The product's own names, which people have in their scripts.
    for name in ("SANDBOX_POOL_SIZE", "SANDBOX_CPU_QUOTA", "SANDBOX_MEMORY_LIMIT", "SANDBOX_ALLOW_NETWORK"):
        assert taken[name] == [name]
