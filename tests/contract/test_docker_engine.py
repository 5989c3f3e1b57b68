"""The Docker driver against engines that misbehave: small servers that answer as real ones do, or worse."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from controlplane.errors import EngineUnavailable, RuntimeFailure
from controlplane.runtime.abilities import Ability
from controlplane.runtime.docker import containers, events
from controlplane.runtime.docker.driver import DockerDriver
from controlplane.runtime.docker.engine import connect
from controlplane.runtime.driver import ContainerSpec, EngineInfo
from controlplane.runtime.events import EventKind
from controlplane.sandbox import Limits, Network
from tests.contract.driver import PATIENCE_S

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

NO_QUOTA = "--storage-opt is supported only for overlay over xfs with 'pquota' mount option."
CONTAINER_ID = "c" * 64
SPEC = ContainerSpec(sandbox_id="s", image="i", socket_dir="/nowhere", limits=Limits(), network=Network.BRIDGE)


@asynccontextmanager
async def impostor(
    directory: Path, handler: Handler, *, answers_version: bool = True, disk_limit_bytes: int = 0
) -> AsyncIterator[DockerDriver]:
    """A driver whose engine is that handler; the question for its version is answered properly, unless not wanted."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if answers_version and request.path.endswith("/version"):
            return web.json_response({"ApiVersion": "1.41"})
        return await handler(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    path = directory / "engine.sock"
    await web.UnixSite(runner, str(path)).start()
    driver = DockerDriver(connect(f"unix://{path}"), instance="i", execd_volume="e", disk_limit_bytes=disk_limit_bytes)
    try:
        yield driver
    finally:
        await driver.aclose()
        await runner.cleanup()


QUESTIONS: dict[str, Callable[[DockerDriver], Awaitable[object]]] = {
    "create": lambda driver: driver.containers.create(SPEC),
    "start": lambda driver: driver.containers.start(CONTAINER_ID),
    "resize": lambda driver: driver.containers.resize(CONTAINER_ID, Limits()),
    "destroy": lambda driver: driver.containers.destroy(CONTAINER_ID),
    "inspect": lambda driver: driver.containers.inspect(CONTAINER_ID),
    "list": lambda driver: driver.containers.list(),
    "describe": lambda driver: driver.describe(),
    "disk_usage": lambda driver: driver.containers.disk_usage(1, 1),
    "disk_room": lambda driver: driver.disk_room(),
}


async def _hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def _half_an_answer(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100", "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"Id":')
    assert request.transport is not None
    request.transport.close()
    return response


async def _web_page(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=502, text="<html>Bad gateway</html>", content_type="text/html")


async def _odd_error(_request: web.Request) -> web.StreamResponse:
    return web.json_response({"error": "not as the engine says it"}, status=500)


async def _text_error(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=400, text="page not found")


@pytest.mark.parametrize("misbehave", [_hang_up, _half_an_answer, _web_page, _odd_error, _text_error])
@pytest.mark.parametrize("question", QUESTIONS)
async def test_only_our_errors_get_out(
    question: str, misbehave: Handler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever an engine answers, a caller sees RuntimeFailure or one of its kinds, and no call hangs."""
    monkeypatch.setattr("controlplane.runtime.docker.containers._REMOVE_RETRIES_S", (0.0,))
    async with impostor(tmp_path, misbehave) as driver, asyncio.timeout(PATIENCE_S):
        if question in ("start", "destroy") and misbehave is _half_an_answer:
            return  # their status alone tells

        with pytest.raises(RuntimeFailure):
            await QUESTIONS[question](driver)


@pytest.mark.parametrize("question", QUESTIONS)
async def test_no_engine(question: str, tmp_path: Path) -> None:
    """Without anybody at the socket every call says that the engine is unavailable."""
    driver = DockerDriver(connect(f"unix://{tmp_path}/engine.sock"), instance="i", execd_volume="e")
    try:
        with pytest.raises(EngineUnavailable):
            await QUESTIONS[question](driver)
    finally:
        await driver.aclose()


def _died(sandbox_id: str, **attributes: str) -> bytes:
    actor = {"ID": CONTAINER_ID, "Attributes": {"sandlot.sandbox": sandbox_id, "exitCode": "0", **attributes}}
    return json.dumps({"Action": "die", "Actor": actor}).encode() + b"\n"


async def _told(driver: DockerDriver, count: int) -> list[tuple[EventKind, str]]:
    told: list[tuple[EventKind, str]] = []
    async with asyncio.timeout(PATIENCE_S), aclosing(driver.containers.events()) as stream:
        async for event in stream:
            told.append((event.kind, event.sandbox_id))
            if len(told) == count:
                break
    return told


async def test_events_reconnect_and_say_so(tmp_path: Path) -> None:
    """After a lost connection events go on, with CONNECTED before them."""
    connections = 0

    async def engine(request: web.Request) -> web.StreamResponse:
        nonlocal connections
        connections += 1
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(_died(f"sandbox-{connections}"))
        return response

    async with impostor(tmp_path, engine) as driver:
        told = await _told(driver, 4)

    connected = (EventKind.CONNECTED, "")
    assert told == [connected, (EventKind.DIED, "sandbox-1"), connected, (EventKind.DIED, "sandbox-2")]


async def test_events_survive_cuts_garbage_and_endless_lines(tmp_path: Path) -> None:
    """Events may come in any pieces; a line that does not end is passed over without being kept in memory."""

    async def engine(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for byte in _died("in-pieces"):
            await response.write(bytes([byte]))
        await response.write(b"garbage\n\n" + _died("together") + _died("with-it"))
        for _ in range(3):
            await response.write(b"x" * events.MAX_LINE_BYTES)
        await response.write(b"\n" + _died("after-all"))
        return response

    async with impostor(tmp_path, engine) as driver:
        told = await _told(driver, 5)

    assert [sandbox_id for _, sandbox_id in told] == ["", "in-pieces", "together", "with-it", "after-all"]


async def test_events_ask_for_our_containers_from_now_on(tmp_path: Path) -> None:
    """The engine filters by installation, and closes the gap between its answer and the subscription."""
    asked: list[web.Request] = []

    async def engine(request: web.Request) -> web.StreamResponse:
        asked.append(request)
        response = web.StreamResponse()
        await response.prepare(request)
        return response

    before = time.time()
    async with impostor(tmp_path, engine) as driver:
        await _told(driver, 1)

    assert asked[0].path == "/v1.41/events"
    assert json.loads(asked[0].query["filters"]) == {
        "type": ["container"],
        "event": ["die", "oom", "destroy", "pause", "unpause"],
        "label": ["sandlot.instance=i"],
    }
    assert before <= float(asked[0].query["since"]) <= time.time()


async def test_events_give_up_when_the_engine_stays_away(tmp_path: Path) -> None:
    """At once that it does not answer; after the time that a restart of it may take, with the reason."""
    docker = connect(f"unix://{tmp_path}/engine.sock")
    try:
        async with asyncio.timeout(PATIENCE_S):
            told = events.follow(docker, "i", give_up_s=0.05)
            assert (await anext(told)).kind is EventKind.DISCONNECTED
            with pytest.raises(EngineUnavailable, match=r"no events from the engine for 0 s: .*engine\.sock"):
                await anext(told)
    finally:
        await docker.close()


@pytest.mark.attack(
    "chaos",
    "The container engine hangs: it keeps its connections open and answers nothing",
    "The health check and readiness say so within ten seconds, and when it answers again",
)
@pytest.mark.parametrize("ping_s", [0.02, 1000.0], ids=["pinged", "not pinged"])
async def test_an_engine_that_hangs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ping_s: float) -> None:
    """Its stream of events stays open and silent. Without the question whether it lives, nobody would know."""
    monkeypatch.setattr(events, "PING_S", ping_s)
    monkeypatch.setattr(events, "PING_TIMEOUT_S", 0.2)
    answers, ended = asyncio.Event(), asyncio.Event()
    answers.set()

    async def engine(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/version"):
            await answers.wait()
            return web.json_response({"ApiVersion": "1.41"})
        response = web.StreamResponse()
        await response.prepare(request)
        await ended.wait()
        return response

    async with (
        impostor(tmp_path, engine, answers_version=False) as driver,
        aclosing(driver.containers.events()) as told,
    ):
        assert (await anext(told)).kind is EventKind.CONNECTED
        following = asyncio.ensure_future(anext(told))
        await asyncio.wait([following], timeout=0.3)
        assert not following.done(), "an engine that answers is connected"
        answers.clear()
        await asyncio.wait([following], timeout=1 if ping_s > 1 else PATIENCE_S)
        assert following.done() is (ping_s < 1)
        if following.done():
            assert following.result().kind is EventKind.DISCONNECTED
            answers.set()
            async with asyncio.timeout(PATIENCE_S):
                assert (await anext(told)).kind is EventKind.CONNECTED
        following.cancel()
        await asyncio.wait([following])
        answers.set()
        ended.set()


async def test_describe_tells_what_is_missing(tmp_path: Path) -> None:
    """An old, rootless engine on a kernel without some controllers: what it would ignore is named."""

    async def engine(_request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {
                "ServerVersion": "19.03",
                "NCPU": 3,
                "MemTotal": 5 << 30,
                "Driver": "vfs",
                "SecurityOptions": ["name=rootless"],
                "Runtimes": {"runsc": {"path": "runsc"}, "runc": {"path": "runc"}},
                "DefaultRuntime": "runc",
                "MemoryLimit": True,
                "SwapLimit": False,
                "CpuCfsQuota": True,
                "PidsLimit": False,
            }
        )

    async with impostor(tmp_path, engine) as driver:
        assert await driver.describe() == EngineInfo(
            name="docker",
            version="19.03",
            api_version="1.41",
            cpus=3,
            memory_bytes=5 << 30,
            cgroup_version=1,
            rootless=True,
            storage_driver="vfs",
            seccomp=False,
            default_runtime="runc",
        )
        abilities = driver.abilities
        assert abilities.runtimes == {"runc", "runsc"}
        assert abilities.limits == {"memory", "cpu"}
        assert set(Ability) - abilities.can == {Ability.GPUS, Ability.DISK_LIMITS}


async def test_destroy_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel still holds for a moment is removed at the next try."""
    monkeypatch.setattr("controlplane.runtime.docker.containers._REMOVE_RETRIES_S", (0.0, 0.0, 0.0))
    answers = iter([500, 409, 204])

    async def engine(_request: web.Request) -> web.StreamResponse:
        status = next(answers)
        if status == 204:
            return web.Response(status=204)
        return web.json_response({"message": "driver failed to remove root filesystem: busy"}, status=status)

    async with impostor(tmp_path, engine) as driver:
        await driver.containers.destroy(CONTAINER_ID)

    assert next(answers, None) is None


async def test_destroy_gives_up_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be removed is told."""
    monkeypatch.setattr("controlplane.runtime.docker.containers._REMOVE_RETRIES_S", (0.0, 0.0))
    tries = 0

    async def engine(_request: web.Request) -> web.StreamResponse:
        nonlocal tries
        tries += 1
        return web.json_response({"message": "busy for ever"}, status=500)

    async with impostor(tmp_path, engine) as driver:
        with pytest.raises(RuntimeFailure, match="busy for ever"):
            await driver.containers.destroy(CONTAINER_ID)

    assert tries == 3


async def test_destroy_waits_for_a_removal_in_progress(tmp_path: Path) -> None:
    """Somebody else removes it already: return when it is gone."""
    asked: list[str] = []

    async def engine(request: web.Request) -> web.StreamResponse:
        asked.append(f"{request.method} {request.path_qs}")
        if request.method == "DELETE":
            message = f"removal of container {CONTAINER_ID} is already in progress"
            return web.json_response({"message": message}, status=409)
        return web.json_response({"StatusCode": 137})

    async with impostor(tmp_path, engine) as driver:
        await driver.containers.destroy(CONTAINER_ID)

    assert asked == [
        f"DELETE /v1.41/containers/{CONTAINER_ID}?force=1&v=1",
        f"POST /v1.41/containers/{CONTAINER_ID}/wait?condition=removed",
    ]


async def test_destroy_asks_again_when_a_removal_in_progress_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal ended with the client that had begun it: to wait for it alone would be in vain."""
    monkeypatch.setattr(containers, "SOON", aiohttp.ClientTimeout(total=0.1))
    asked: list[str] = []

    async def engine(request: web.Request) -> web.StreamResponse:
        asked.append(request.method)
        if asked == ["DELETE"]:
            message = f"removal of container {CONTAINER_ID} is already in progress"
            return web.json_response({"message": message}, status=409)
        if request.method == "POST":
            await asyncio.sleep(1)  # longer than anybody waits
        return web.Response(status=204)

    async with impostor(tmp_path, engine) as driver:
        await driver.containers.destroy(CONTAINER_ID)

    assert asked == ["DELETE", "POST", "DELETE"]


class BusyEngine:
    """An engine with one container that it cannot freeze or thaw at once, and of which it makes images.

    `refusals`: how many requests to freeze or thaw fail before one succeeds.
    """

    def __init__(self, refusals: int, *, status: str = "running") -> None:
        self.refusals = refusals
        self.status = status
        self.committed_while = ""
        self.asked: list[str] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        verb = request.path.rpartition("/")[2]
        if verb == "json":
            state = {"Status": self.status}
            labels = {"sandlot.instance": "i", "sandlot.sandbox": "s", "sandlot.image": "i"}
            return web.json_response({"Id": CONTAINER_ID, "State": state, "Config": {"Labels": labels}})
        self.asked.append(verb)
        if verb == "commit":
            assert request.query["pause"] in ("0", "false", "False")
            self.committed_while = self.status
            return web.json_response({"Id": "sha256:0"}, status=201)
        if self.status not in ("running", "paused"):
            return web.json_response({"message": f"Container {CONTAINER_ID} is not running"}, status=409)
        if self.refusals:
            self.refusals -= 1
            message = f"Cannot {verb} container {CONTAINER_ID}: OCI runtime {verb} failed: unable to freeze: unknown"
            return web.json_response({"message": message}, status=500)
        self.status = {"pause": "paused", "unpause": "running"}[verb]
        return web.Response(status=204)


@pytest.fixture
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.runtime.docker.containers._FIRST_BUSY_RETRY_S", 0.001)
    monkeypatch.setattr("controlplane.runtime.docker.containers._LAST_BUSY_RETRY_S", 0.001)


@pytest.mark.usefixtures("no_delays")
async def test_an_engine_that_is_too_busy_to_freeze_is_asked_again(tmp_path: Path) -> None:
    """To pause, to resume, and to make an image, for which the container stands still."""
    engine = BusyEngine(3)
    async with impostor(tmp_path, engine) as driver:
        await driver.containers.pause(CONTAINER_ID)
        assert (engine.status, engine.asked) == ("paused", ["pause"] * 4)
        engine.refusals = 3
        await driver.containers.resume(CONTAINER_ID)
        assert (engine.status, engine.asked[4:]) == ("running", ["unpause"] * 4)
        engine.refusals, engine.asked = 2, []
        await driver.images.commit(CONTAINER_ID, "snapshots:1")
        assert engine.committed_while == "paused"
        assert (engine.status, engine.asked) == ("running", ["pause"] * 3 + ["commit", "unpause"])


async def test_a_paused_container_stays_so_when_an_image_is_made_of_it(tmp_path: Path) -> None:
    engine = BusyEngine(0, status="paused")
    async with impostor(tmp_path, engine) as driver:
        await driver.images.commit(CONTAINER_ID, "snapshots:1")
    assert (engine.status, engine.committed_while, engine.asked) == ("paused", "paused", ["commit"])


@pytest.mark.usefixtures("no_delays")
async def test_a_container_that_cannot_be_frozen_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for ever is it tried; then clients hear our words, the log has the engine's. No image is made of it."""
    monkeypatch.setattr("controlplane.runtime.docker.containers._BUSY_PATIENCE_S", 0.05)
    engine = BusyEngine(1 << 30)
    async with impostor(tmp_path, engine) as driver:
        for question in (driver.containers.pause(CONTAINER_ID), driver.images.commit(CONTAINER_ID, "snapshots:1")):
            with pytest.raises(RuntimeFailure, match="OCI runtime pause failed: unable to freeze") as refused:
                await question
            assert refused.value.public == "cannot pause the container: the container engine is too busy; try again"
    assert set(engine.asked) == {"pause"}


async def test_a_container_that_does_not_run_is_not_asked_of_again(tmp_path: Path) -> None:
    engine = BusyEngine(0, status="exited")
    async with impostor(tmp_path, engine) as driver:
        for question in (driver.containers.pause(CONTAINER_ID), driver.containers.resume(CONTAINER_ID)):
            with pytest.raises(RuntimeFailure) as refused:
                await question
            assert refused.value.public.endswith(": it is in no state for that")
    assert engine.asked == ["pause", "unpause"]


@pytest.mark.parametrize(
    ("storage", "refusal", "asked"),
    [
        ("overlay2", "", [True, True]),
        ("overlay2", NO_QUOTA, [True, False, False]),
        ("btrfs", "", [False, False]),
    ],
    ids=["with quotas", "without", "where images count"],
)
async def test_quotas_of_the_disk(tmp_path: Path, storage: str, refusal: str, asked: list[bool]) -> None:
    """They are asked for where the storage may have them, and no more when it has said that it has none."""
    sizes: list[str | None] = []

    async def engine(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/info"):
            return web.json_response({"ServerVersion": "1", "NCPU": 1, "MemTotal": 1, "Driver": storage})
        if request.path.endswith("/containers/create"):
            option = (await request.json())["HostConfig"].get("StorageOpt")
            sizes.append(option and option["size"])
            if option and refusal:
                return web.json_response({"message": refusal}, status=400)
            return web.json_response({"Id": CONTAINER_ID}, status=201)
        return web.json_response({"Mountpoint": "/nowhere"})

    async with impostor(tmp_path, engine, disk_limit_bytes=1 << 30) as driver:
        for _ in range(2):
            assert await driver.containers.create(replace(SPEC, network=Network.NONE)) == CONTAINER_ID
    assert sizes == [str(1 << 30) if each else None for each in asked]
