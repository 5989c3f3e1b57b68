"""What clients hear on an engine that can do next to nothing: which engine, and what it cannot do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

from controlplane.errors import ImageMissing, InvalidRequest
from controlplane.runtime.abilities import Ability
from controlplane.runtime.driver import DiskUsage
from controlplane.sandbox import Limits, Network, State, VolumeKind
from controlplane.settings.sections import EngineSettings, StorageSettings
from tests.support.fakes.agents import AgentEngine
from tests.support.fakes.engine import FEW
from tests.support.server.application import application
from tests.support.server.control_plane import IMAGE, Home, a_request, until

REQUEST = {
    "image": {"uri": IMAGE},
    "entrypoint": ["tail", "-f", "/dev/null"],
    "timeout": 600,
    "resourceLimits": {"cpu": "1", "memory": "256Mi"},
}


@pytest.fixture
async def engine() -> AgentEngine:
    """An engine that starts and ends containers."""
    return AgentEngine(IMAGE, abilities=FEW)


@pytest.fixture
async def client(home: Home) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a control plane whose settings allow everything."""
    async with home.run(
        allow_user_namespaces=True, storage=StorageSettings(allowed_host_paths=("/srv",), allowed_volumes=("data",))
    ) as plane:
        key = {"OPEN-SANDBOX-API-KEY": plane.made_key}
        app = httpx.ASGITransport(application(plane))
        async with httpx.AsyncClient(transport=app, base_url="http://here/v1", headers=key) as client:
            yield client


def _volume(**source: Any) -> dict[str, Any]:
    return {"volumes": [{"name": "v", "mountPath": "/v", **source}]}


@pytest.mark.parametrize(
    ("wish", "lack"),
    [
        ({"resourceLimits": {"cpu": "1", "memory": "256Mi", "gpu": "1"}}, "give a container GPUs"),
        ({"extensions": {"bootstrap.execd.isolation": "enable"}}, "let a container make user namespaces"),
        (_volume(pvc={"claimName": "mine"}), "mount a named volume (volume v)"),
        (_volume(pvc={"claimName": "data"}), "mount a volume that the engine has already (volume v)"),
        (_volume(host={"path": "/srv/x"}), "mount a directory of its host (volume v)"),
    ],
)
async def test_what_no_container_can_have_is_refused_at_once(
    wish: dict[str, Any], lack: str, client: httpx.AsyncClient, engine: AgentEngine
) -> None:
    """No container is made for it."""
    starts = engine.starts
    answer = await client.post("/sandboxes", json=REQUEST | wish)
    assert answer.status_code == 400
    assert answer.json() == {
        "code": "SANDBOX::API_NOT_SUPPORTED",
        "message": f"the container engine frugal cannot {lack}",
    }
    assert engine.starts == starts


async def test_what_cannot_be_done_with_a_sandbox_leaves_it_as_it_is(client: httpx.AsyncClient) -> None:
    """The status is one that the contract documents for these operations, so official clients show the message."""
    sandbox = (await client.post("/sandboxes", json=REQUEST)).json()
    path = f"/sandboxes/{sandbox['id']}"
    for verb, lack in (("pause", "pause containers"), ("snapshots", "make images of containers")):
        answer = await client.post(f"{path}/{verb}")
        assert (answer.status_code, answer.json()) == (
            409,
            {"code": "SANDBOX::API_NOT_SUPPORTED", "message": f"the container engine frugal cannot {lack}"},
        )
        assert (await client.get(path)).json()["status"]["state"] == "Running"
        gone = await client.post(f"/sandboxes/no-such-sandbox/{verb}")
        assert gone.status_code == 404
    assert (await client.get("/snapshots")).json()["items"] == []


async def test_other_limits_are_those_of_a_cold_container(home: Home, engine: AgentEngine) -> None:
    """A warm one could not be given them, and is not taken from the pool for nothing."""
    small = Limits(cpus=0.5, memory_bytes=64 << 20, pids=32)
    async with home.run() as plane:
        warm = plane.pool.warm_ids()
        sandbox = await plane.sandboxes.create(a_request(limits=small))
        assert engine.find(sandbox.container_id).spec.limits == small
        assert plane.pool.warm_ids() == warm
        assert plane.pool.statistics().hits == 0
        assert (await plane.sandboxes.create(a_request())).id in warm


async def test_an_image_that_no_engine_pulls(home: Home, engine: AgentEngine) -> None:
    """The registry is not asked."""
    engine.registry["other/image"] = None
    async with home.run(engine=EngineSettings(pull="missing")) as plane:
        with pytest.raises(ImageMissing, match="no image other/image; frugal cannot pull images"):
            await plane.sandboxes.create(a_request(image="other/image"))
    assert engine.pulls == 0


async def test_what_the_engine_has_learnt_since_the_start_counts(home: Home, engine: AgentEngine) -> None:
    """It is asked once more before a request is refused."""
    async with home.run() as plane:
        engine.abilities = replace(FEW, can=frozenset({Ability.GPUS}), volumes=frozenset({VolumeKind.NAMED}))
        assert (await plane.sandboxes.create(a_request(gpus="1"))).state is State.RUNNING


async def test_a_disk_that_nobody_can_measure_is_not_measured(
    home: Home, engine: AgentEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as the engine can, it is."""
    monkeypatch.setattr("controlplane.lifecycle.room.disk.LOOK_S", 0.001)
    asked: list[int] = []

    async def disk_usage(max_bytes: int, max_files: int) -> tuple[DiskUsage, ...]:
        asked.append(max_bytes)
        return ()

    async with home.run() as plane:
        monkeypatch.setattr(home.driver.containers, "disk_usage", disk_usage)
        await plane.sandboxes.create(a_request())
        assert asked == []
        home.driver.abilities = replace(FEW, can=frozenset({Ability.DISK_USAGE}))
        await until(lambda: asked)


async def test_a_network_that_the_settings_promise(home: Home) -> None:
    """A sandbox that asks for none can be made all the same."""
    async with home.run(full=False, pool_size=0, allow_network=True) as plane:
        with pytest.raises(InvalidRequest, match="frugal cannot give a container a network"):
            await plane.sandboxes.create(a_request())
        assert (await plane.sandboxes.create(a_request(network=Network.NONE))).state is State.RUNNING
