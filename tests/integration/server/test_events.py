"""A server with real containers: what its events and its own operations tell, also of an engine that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiodocker
import httpx
import pytest

from controlplane.runtime import labels
from controlplane.runtime.docker.driver import DockerDriver
from controlplane.runtime.docker.engine import connect
from controlplane.runtime.driver import Driver
from controlplane.server.serve import control_plane
from controlplane.settings.sections import EngineSettings, PathSettings, SandboxSettings, ServerSettings, Settings
from tests.chaos.engine_proxy import WELL, EngineProxy, Mood
from tests.contract.worlds import IMAGE, execd_volume
from tests.support.server.application import Ears, listen_at
from tests.support.server.control_plane import until

ENGINE = "/var/run/docker.sock"
KEY = "a-key-for-this-test-alone"
PATIENCE_S = 60.0


class Real:
    """A server on the engine of this machine, behind a proxy that can cut the two apart."""

    def __init__(self, client: httpx.AsyncClient, ears: Ears, proxy: EngineProxy, docker: aiodocker.Docker) -> None:
        self.client = client
        self.ears = ears
        self.proxy = proxy
        self.docker = docker

    async def get(self, path: str) -> Any:
        """Return what an operation answers."""
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def create(self, **more: Any) -> str:
        """Create a sandbox; return its id."""
        body = {"image": {"uri": IMAGE}, "entrypoint": ["sleep", "infinity"], "resourceLimits": {}, **more}
        answer = await self.client.post("/sandboxes", json=body)
        assert answer.status_code == 202, answer.text
        sandbox_id: str = answer.json()["id"]
        return sandbox_id

    async def kill(self, sandbox_id: str) -> None:
        """Kill the container of a sandbox from outside."""
        (found,) = await self.docker.containers.list(filters={"label": [f"{labels.SANDBOX}={sandbox_id}"]})
        await found.kill(signal="KILL")


@pytest.fixture
async def real() -> AsyncIterator[Real]:
    volume = await asyncio.to_thread(execd_volume)
    async with contextlib.AsyncExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="slt-"))
        docker = connect()
        stack.push_async_callback(docker.close)
        proxy = await stack.enter_async_context(EngineProxy(ENGINE, Path(root, "e.sock"), seed=1).serve())
        url = f"unix://{proxy.path}"

        def make_driver(instance: str) -> Driver:
            return DockerDriver(connect(url), instance=instance, execd_volume=volume)

        settings = Settings(
            server=ServerSettings(port=0, api_keys=(KEY,)),
            sandbox=SandboxSettings(image=IMAGE, pool_size=1),
            engine=EngineSettings(url=url),
            paths=PathSettings(
                state_dir=f"{root}/state",
                run_dir=f"{root}/run",
                images_dir=str(Path(__file__).parents[3] / "images"),
            ),
        )
        server = await stack.enter_async_context(control_plane(settings, make_driver))
        async with asyncio.timeout(PATIENCE_S):
            await server.pool.wait_full()
        headers = {"OPEN-SANDBOX-API-KEY": KEY}
        client = httpx.AsyncClient(base_url=f"{server.address}/v1", headers=headers, timeout=PATIENCE_S)
        await stack.enter_async_context(client)
        ears = await stack.enter_async_context(listen_at(server.address.removeprefix("http://"), KEY))
        try:
            yield Real(client, ears, proxy, docker)
        finally:
            proxy.mood = WELL
            for sandbox in server.sandboxes.list():
                await server.sandboxes.delete(sandbox.id)
            await until(lambda: not server.sandboxes.ids())  # their containers are gone


async def test_what_happens_and_what_there_is(real: Real) -> None:
    """A claim, a container that is killed from outside, an image and a volume: told, listed, removed if not in use."""
    volume = f"slt-{secrets.token_hex(4)}"
    mount = {"name": "data", "mountPath": "/data", "pvc": {"claimName": volume}}
    plain, mounted = await real.create(), await real.create(volumes=[mount])
    assert (await real.ears.until("sandbox", id=plain, event="changed"))["sandbox"]["status"]["state"] == "Running"
    assert (await real.ears.until("pool", idle=1))["problem"] == ""

    server = await real.get("/server")
    assert (server["engine"]["name"], server["engine"]["answers"]) == ("docker", True)
    assert server["sandboxes"]["Running"] == 2
    assert server["disk"]["free_bytes"] > 0

    images = {image["name"]: image for image in (await real.get("/images"))["items"]}
    base = images[f"{IMAGE}:latest"]
    assert (base["sandboxes"], base["pooled"], base["is_ours"]) == (2, True, True)
    assert base["size_bytes"] > 1 << 20
    assert "python" in images.get("sandlot/python:latest", {"languages": ["python"]})["languages"]
    assert (await real.client.delete(f"/images/{IMAGE}")).status_code == 409
    await real.docker.images.tag(IMAGE, repo=volume, tag="copy")
    assert (await real.client.delete(f"/images/{volume}:copy")).status_code == 204
    assert (await real.ears.until("image", event="removed"))["name"] == f"{volume}:copy"
    assert (await real.client.delete(f"/images/{volume}:copy")).status_code == 404

    (found,) = (await real.get("/volumes?sizes=true"))["items"]
    assert (found["name"], found["owner"], found["in_use_by"]) == (volume, "admin", [mounted])
    assert found.get("size_bytes", 0) >= 0
    assert (await real.client.delete(f"/volumes/{volume}")).status_code == 409
    await real.kill(mounted)
    ended = await real.ears.until("sandbox", id=mounted, event="ended")
    assert (ended["reason"], ended["sandbox"]["status"]["state"]) == ("CONTAINER_EXITED_ERROR", "Failed")
    async with asyncio.timeout(PATIENCE_S):
        while (await real.client.delete(f"/volumes/{volume}")).status_code != 204:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.05)
    assert (await real.get("/volumes"))["items"] == []


async def test_the_server_examines_its_machine(real: Real) -> None:
    """As the doctor does, with a container of its own, while it serves."""
    checks = {check["name"]: check for check in (await real.get("/server/report"))["checks"]}
    assert {"address", "directories", "limits", "disk", "engine", "images", "sandbox"} <= set(checks)
    assert checks["sandbox"]["ok"], checks["sandbox"]
    assert "its agent connected" in checks["sandbox"]["message"]
    assert checks["engine"]["ok"], checks["engine"]


async def test_an_engine_that_goes_away_and_comes_back(real: Real) -> None:
    """Both is told, and `/server` answers meanwhile."""
    real.proxy.mood = Mood(is_gone=True)
    said = await real.ears.until("engine")
    assert (said["up"], bool(said["message"])) == (False, True)
    server = await real.get("/server")
    assert (server["engine"]["answers"], server["problem"]) == (False, "the container engine does not answer")
    assert (await real.client.get("/images")).status_code == 500
    real.proxy.mood = WELL
    assert (await real.ears.until("engine"))["up"] is True
    assert (await real.get("/server"))["engine"]["answers"] is True
