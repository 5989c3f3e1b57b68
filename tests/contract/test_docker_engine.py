"""The Docker driver against engines that misbehave: small servers that answer as real ones do, or worse."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from controlplane.errors import EngineUnavailable, RuntimeFailure
from controlplane.runtime import events
from controlplane.runtime.docker import DockerDriver
from controlplane.runtime.driver import ContainerSpec, EngineInfo, EventKind
from controlplane.runtime.engine import connect
from controlplane.sandbox import Limits
from tests.contract.driver import PATIENCE_S

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CONTAINER_ID = "c" * 64
SPEC = ContainerSpec(sandbox_id="s", image="i", socket_dir="/nowhere", limits=Limits(), network=True)


@asynccontextmanager
async def impostor(directory: Path, handler: Handler) -> AsyncIterator[DockerDriver]:
    """A driver whose engine is that handler; the question for its version is answered properly."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/version"):
            return web.json_response({"ApiVersion": "1.41"})
        return await handler(request)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    path = directory / "engine.sock"
    await web.UnixSite(runner, str(path)).start()
    driver = DockerDriver(connect(f"unix://{path}"), instance="i", execd_volume="e")
    try:
        yield driver
    finally:
        await driver.aclose()
        await runner.cleanup()


QUESTIONS: dict[str, Callable[[DockerDriver], Awaitable[object]]] = {
    "create": lambda driver: driver.create(SPEC),
    "start": lambda driver: driver.start(CONTAINER_ID),
    "resize": lambda driver: driver.resize(CONTAINER_ID, Limits()),
    "destroy": lambda driver: driver.destroy(CONTAINER_ID),
    "inspect": lambda driver: driver.inspect(CONTAINER_ID),
    "list": lambda driver: driver.list(),
    "describe": lambda driver: driver.describe(),
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
    monkeypatch.setattr("controlplane.runtime.docker._REMOVE_RETRIES_S", (0.0,))
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
    async with asyncio.timeout(PATIENCE_S), aclosing(driver.events()) as stream:
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
    """After the time that a restart of the engine may take, the caller is told, with the reason."""
    docker = connect(f"unix://{tmp_path}/engine.sock")
    try:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(EngineUnavailable, match=r"no events from the engine for 0 s: .*engine\.sock"):
                await anext(events.follow(docker, "i", give_up_s=0.05))
    finally:
        await docker.close()


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
            runtimes=("runc", "runsc"),
            default_runtime="runc",
            unenforced=("swap", "pids"),
        )


async def test_destroy_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel still holds for a moment is removed at the next try."""
    monkeypatch.setattr("controlplane.runtime.docker._REMOVE_RETRIES_S", (0.0, 0.0, 0.0))
    answers = iter([500, 409, 204])

    async def engine(_request: web.Request) -> web.StreamResponse:
        status = next(answers)
        if status == 204:
            return web.Response(status=204)
        return web.json_response({"message": "driver failed to remove root filesystem: busy"}, status=status)

    async with impostor(tmp_path, engine) as driver:
        await driver.destroy(CONTAINER_ID)

    assert next(answers, None) is None


async def test_destroy_gives_up_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be removed is told."""
    monkeypatch.setattr("controlplane.runtime.docker._REMOVE_RETRIES_S", (0.0, 0.0))
    tries = 0

    async def engine(_request: web.Request) -> web.StreamResponse:
        nonlocal tries
        tries += 1
        return web.json_response({"message": "busy for ever"}, status=500)

    async with impostor(tmp_path, engine) as driver:
        with pytest.raises(RuntimeFailure, match="busy for ever"):
            await driver.destroy(CONTAINER_ID)

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
        await driver.destroy(CONTAINER_ID)

    assert asked == [
        f"DELETE /v1.41/containers/{CONTAINER_ID}?force=1&v=1",
        f"POST /v1.41/containers/{CONTAINER_ID}/wait?condition=removed",
    ]
