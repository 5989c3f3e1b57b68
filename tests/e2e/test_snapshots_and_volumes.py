"""Snapshots, volumes, a platform, GPUs, use and diagnostics through the official SDK."""

from __future__ import annotations

import json
import platform
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server.live_server import LiveServer, run_script

PATIENCE_S = 30.0

SNAPSHOTS = """
import asyncio, json
from opensandbox import Sandbox, SandboxManager
from opensandbox.exceptions import SandboxApiException
from opensandbox.models.sandboxes import SnapshotFilter

async def ready(manager, snapshot_id):
    while (snapshot := await manager.get_snapshot(snapshot_id)).status.state == "Creating":
        await asyncio.sleep(0.05)
    return snapshot

async def refused(what):
    try:
        await what
    except SandboxApiException as error:
        return [error.status_code, error.error.code]

async def main():
    said = {}
    source = await Sandbox.create("sandlot/python", env={"COLOUR": "blue"})
    await source.commands.run("echo kept > /workspace/file")
    async with await SandboxManager.create() as manager:
        first = await source.create_snapshot("first")
        said["ready"] = (await ready(manager, first.id)).status.state
        said["state"] = (await source.get_info()).status.state
        await source.pause()
        second = await manager.create_snapshot(source.id, "second")
        said["paused"] = (await ready(manager, second.id)).status.state
        listed = await manager.list_snapshots(SnapshotFilter(sandbox_id=source.id))
        said["listed"] = sorted(one.name for one in listed.snapshot_infos)
        named = await manager.list_snapshots(SnapshotFilter(sandbox_id=source.id, name="second"))
        said["named"] = [one.id == second.id for one in named.snapshot_infos]
        await source.kill()
        plain = await Sandbox.create(snapshot_id=first.id)
        run = await plain.commands.run("cat /workspace/file; echo $COLOUR")
        said["restored"] = [line.text for line in run.logs.stdout]
        said["info"] = (await plain.get_info()).snapshot_id == first.id
        with_entrypoint = await Sandbox.create(snapshot_id=second.id, entrypoint=["sleep", "infinity"])
        said["entrypoint"] = (await with_entrypoint.get_info()).entrypoint
        said["in use"] = await refused(manager.delete_snapshot(first.id))
        for sandbox in (plain, with_entrypoint):
            await sandbox.kill()
        for snapshot in (first, second):
            for _ in range(100):
                if await refused(manager.delete_snapshot(snapshot.id)) is None:
                    break
                await asyncio.sleep(0.1)
        said["gone"] = await refused(manager.get_snapshot(first.id))
        said["unknown"] = await refused(manager.create_snapshot("nobody"))
    print(json.dumps(said))

asyncio.run(main())
"""

VOLUMES = """
import json, sys
from opensandbox import SandboxSync
from opensandbox.exceptions import SandboxApiException
from opensandbox.models.sandboxes import PVC, Host, Volume

claim, host = sys.argv[1:3]
said = {}

def refused(**volume):
    try:
        SandboxSync.create("sandlot/base", volumes=[Volume(name="v", mount_path="/v", **volume)]).kill()
    except SandboxApiException as error:
        return [error.status_code, error.error.code]

mine = PVC(claim_name=claim, delete_on_sandbox_termination=True)
writer = SandboxSync.create("sandlot/base", volumes=[Volume(name="data", mount_path="/data", pvc=mine)])
writer.commands.run("mkdir /data/part && echo shared > /data/part/file && ln -s /etc /data/trap")
reader = SandboxSync.create(
    "sandlot/base",
    volumes=[
        Volume(name="data", mount_path="/data", pvc=mine, sub_path="part", read_only=True),
        Volume(name="host", mount_path="/host", host=Host(path=host)),
    ],
)
run = reader.commands.run("cat /data/file /host/file; touch /data/no 2>&1 || true; echo back > /host/written")
said["read"] = [line.text for line in run.logs.stdout]
said["trap"] = refused(pvc=mine, sub_path="trap")
said["up"] = refused(pvc=mine, sub_path="../x")
said["host"] = refused(host=Host(path="/etc"))
said["missing"] = refused(pvc=PVC(claim_name=claim + "x", create_if_not_exists=False))
writer.kill()
said["left"] = [line.text for line in reader.commands.run("cat /data/file").logs.stdout]
reader.kill()
print(json.dumps(said))
"""

PLATFORM = """
import json, sys
from opensandbox import SandboxSync
from opensandbox.exceptions import SandboxApiException
from opensandbox.models.sandboxes import PlatformSpec

said = {}

def refused(**wish):
    try:
        SandboxSync.create("sandlot/base", **wish).kill()
    except SandboxApiException as error:
        return [error.status_code, error.error.code, error.error.message]

asked = PlatformSpec(os="linux", arch=sys.argv[1])
sandbox = SandboxSync.create("sandlot/base", platform=asked)
said["platform"] = sandbox.get_info().platform == asked
sandbox.kill()
said["windows"] = refused(platform=PlatformSpec(os="windows", arch=sys.argv[1]))
for count in ("1", "all", "many"):
    said[count] = refused(resource={"cpu": "1", "memory": "1Gi", "gpu": count})
print(json.dumps(said))
"""

DIAGNOSTICS = """
import asyncio, json
from opensandbox import Sandbox
from opensandbox.exceptions import SandboxApiException

async def run():
    sandbox = await Sandbox.create("sandlot/base", extensions={"access.renew.extend.seconds": "3600"})
    info = await sandbox.get_info()
    return (info.expires_at - info.created_at).total_seconds(), sandbox

async def all_of_it():
    said = {}
    entrypoint = ["sh", "-c", "echo hello; exec tail -f /dev/null"]
    sandbox = await Sandbox.create("sandlot/base", entrypoint=entrypoint)
    logs = await sandbox.get_diagnostic_logs("container")
    said["logs"] = [logs.content, logs.kind, logs.scope, logs.delivery, logs.truncated]
    said["events"] = "Running" in (await sandbox.get_diagnostic_events("all")).content
    try:
        await sandbox.get_diagnostic_logs("nonsense")
    except SandboxApiException as error:
        said["scope"] = [error.status_code, error.error.code]
    await sandbox.kill()
    seconds, used = await run()  # created for ten minutes, and used since by its own readiness check
    said["put off"] = 3500 < seconds < 3700
    await used.kill()
    print(json.dumps(said))

asyncio.run(all_of_it())
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the host that volumes may be in."""
    path = tmp_path_factory.mktemp("shared")
    (path / "in").mkdir()
    (path / "in" / "file").write_text("of the host\n")
    return path


@pytest.fixture(scope="module")
def server(shared: Path) -> Iterator[LiveServer]:
    """A server of its own: with an allowed path, and without a pool."""
    with LiveServer(["--pool-size", "0", "--allowed-host-paths", str(shared)]) as live:
        yield live


def test_snapshots(sdk: Path, server: LiveServer) -> None:
    """Of a running and of a paused sandbox; restored with and without an entrypoint; found, and deleted."""
    assert run_script(sdk, server, SNAPSHOTS) == {
        "ready": "Ready",
        "state": "Running",
        "paused": "Ready",
        "listed": ["first", "second"],
        "named": [True],
        "restored": ["kept", "blue"],
        "info": True,
        "entrypoint": ["sleep", "infinity"],
        "in use": [409, "SNAPSHOT::DELETE_CONFLICT"],
        "gone": [404, "SNAPSHOT::NOT_FOUND"],
        "unknown": [404, "DOCKER::SANDBOX_NOT_FOUND"],
    }


def test_volumes(sdk: Path, server: LiveServer, shared: Path) -> None:
    """Shared by two sandboxes, read-only for one; no way leads out; what is not allowed is refused by its code.

    It goes with the second of them, although it was made for the first.
    """
    claim = f"slt-{secrets.token_hex(4)}"
    said = run_script(sdk, server, VOLUMES, claim, str(shared / "in"))
    assert said["read"][:2] == ["shared", "of the host"]
    assert "Read-only file system" in said["read"][2]
    assert (shared / "in" / "written").read_text() == "back\n"
    assert said["trap"] == said["up"] == [400, "VOLUME::INVALID_SUB_PATH"]
    assert said["host"] == [400, "VOLUME::HOST_PATH_NOT_ALLOWED"]
    assert said["missing"] == [400, "VOLUME::PVC_NOT_FOUND"]
    assert said["left"] == ["shared"]
    deadline = time.monotonic() + PATIENCE_S
    while names := volumes_of(claim):
        assert time.monotonic() < deadline, names
        time.sleep(0.05)  # the engine tells nobody


def volumes_of(claim: str) -> str:
    """The names of the engine's volumes that have the claim's in them."""
    command = ["docker", "volume", "ls", "--quiet", "--filter", f"name={claim}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def has_gpus() -> bool:
    """Whether the engine here can give any."""
    answer = subprocess.run(["docker", "info", "--format", "{{json .Runtimes}}"], capture_output=True, check=True)
    return "nvidia" in json.loads(answer.stdout)


def test_what_only_some_machines_have(sdk: Path, server: LiveServer) -> None:
    """A platform is shown as it was asked for; another one, and GPUs where there are none, are refused by name."""
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    said = run_script(sdk, server, PLATFORM, arch)
    assert said["platform"] is True
    assert said["windows"][:2] == [400, "SANDBOX::API_NOT_SUPPORTED"]
    assert said["windows"][2] == f"platform: is not supported by this server; here it is linux/{arch}"
    assert said["many"][:2] == [400, "SANDBOX::INVALID_PARAMETER"]
    if has_gpus():
        return  # then the engine gives them
    for count in ("1", "all"):
        assert said[count][:2] == [400, "SANDBOX::API_NOT_SUPPORTED"]
        assert said[count][2] == "the container engine docker cannot give a container GPUs"


def test_diagnostics_and_use(sdk: Path, server: LiveServer) -> None:
    """What the entrypoint said, what happened, and a deadline that use has put off."""
    assert run_script(sdk, server, DIAGNOSTICS) == {
        "logs": ["hello\n", "logs", "container", "inline", False],
        "events": True,
        "scope": [400, "DIAGNOSTICS_SCOPE_UNSUPPORTED"],
        "put off": True,
    }
