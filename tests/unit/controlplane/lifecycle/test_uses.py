"""Use puts a sandbox's end off, and its absence ends it, where that was asked for."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message

from controlplane.lifecycle.deadlines import reap_once
from controlplane.lifecycle.records.registry import utc_now
from controlplane.lifecycle.uses import IDLE_KEY, RENEWAL_KEY
from controlplane.sandbox import Sandbox, State
from controlplane.server.composition import ControlPlane
from execd.wire.messages import ContextPrepare, SandboxClaim
from tests.support.server.application import application
from tests.support.server.control_plane import Home, a_request, until


class LaterClock:
    """The time of day, and as much later as a test wants."""

    def __init__(self) -> None:
        self.passed = 0.0  # s

    def __call__(self) -> float:
        return time.time() + self.passed


@pytest.fixture
def clock() -> LaterClock:
    return LaterClock()


@pytest.fixture
async def plane(home: Home, clock: LaterClock) -> AsyncIterator[ControlPlane]:
    async with home.run(clock=clock) as plane:
        yield plane


@pytest.fixture
def edge(plane: ControlPlane) -> ASGIApp:
    """All that clients can reach of it."""
    return application(plane)


@contextlib.asynccontextmanager
async def connected(edge: ASGIApp, path: str, key: str) -> AsyncIterator[None]:
    """A client's WebSocket, accepted, on which nobody says anything."""
    came: asyncio.Queue[Message] = asyncio.Queue()
    said: asyncio.Queue[Message] = asyncio.Queue()
    scope: dict[str, Any] = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"here"), (b"open-sandbox-api-key", key.encode())],
        "subprotocols": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
    }
    came.put_nowait({"type": "websocket.connect"})
    serving = asyncio.ensure_future(edge(scope, came.get, said.put))
    try:
        async with asyncio.timeout(20):
            assert (await said.get())["type"] == "websocket.accept"
        yield
    finally:
        came.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await serving


def state_after(plane: ControlPlane, sandbox: Sandbox, seconds: float) -> State:
    """The state of a sandbox once the reaper has come by, so many seconds from now."""
    reap_once(plane.deadlines, plane.endings.expire, time.time() + seconds)
    return plane.sandboxes.get(sandbox.id).state


def state_at(plane: ControlPlane, sandbox: Sandbox, clock: LaterClock, seconds: float) -> State:
    """Let time pass, until so many seconds after the test began; the state of a sandbox then."""
    clock.passed = seconds
    return state_after(plane, sandbox, seconds)


def deadline_of(plane: ControlPlane, sandbox: Sandbox) -> float:
    """In how many seconds a sandbox is to end, as its clients see it."""
    expires_at = plane.sandboxes.get(sandbox.id).expires_at
    assert expires_at is not None
    return (expires_at - utc_now()).total_seconds()


async def test_every_use_puts_the_deadline_off(plane: ControlPlane) -> None:
    """Clients see the new one; a use that would bring it nearer changes nothing."""
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60, extensions={RENEWAL_KEY: "300"}))
    await plane.relay.link(sandbox.id)
    expires_at = plane.sandboxes.get(sandbox.id).expires_at
    assert expires_at is not None
    assert timedelta(seconds=295) < expires_at - utc_now() <= timedelta(seconds=300)
    later = plane.sandboxes.renew(sandbox.id, utc_now() + timedelta(hours=1)).expires_at
    await plane.relay.link(sandbox.id)
    assert plane.sandboxes.get(sandbox.id).expires_at == later


async def test_without_the_extension_nothing_is_put_off(plane: ControlPlane) -> None:
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60))
    await plane.relay.link(sandbox.id)
    assert plane.sandboxes.get(sandbox.id).expires_at == sandbox.expires_at
    assert state_after(plane, sandbox, 61) is State.STOPPING


async def test_a_request_that_goes_on_is_use(plane: ControlPlane) -> None:
    """Neither its deadline nor its idle time ends a sandbox meanwhile; then the deadline is a full stretch away."""
    extensions = {RENEWAL_KEY: "300", IDLE_KEY: "30"}
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60, extensions=extensions))
    # Any request that is not answered: this one follows the entrypoint.
    request = SandboxClaim(id=sandbox.id, entrypoint=sandbox.spec.entrypoint)
    stream = await plane.relay.open(sandbox.id, request)
    assert state_after(plane, sandbox, 29.9) is State.RUNNING
    expires_at = plane.sandboxes.get(sandbox.id).expires_at
    assert expires_at is not None
    assert expires_at - utc_now() > timedelta(seconds=295)
    stream.close()
    assert state_after(plane, sandbox, 20) is State.RUNNING
    assert state_after(plane, sandbox, 31) is State.STOPPING


async def test_an_idle_sandbox_ends(plane: ControlPlane) -> None:
    """Its idle time starts anew with each use, and says why it ended; without a deadline, too."""
    sandbox = await plane.sandboxes.create(a_request(extensions={IDLE_KEY: "30"}))
    assert state_after(plane, sandbox, 29) is State.RUNNING
    await plane.relay.call(sandbox.id, ContextPrepare(), object)  # type: ignore[type-var]
    assert state_after(plane, sandbox, 29) is State.RUNNING
    assert state_after(plane, sandbox, 31) is State.STOPPING
    assert plane.sandboxes.get(sandbox.id).reason == "IDLE"


async def test_who_is_connected_to_a_paused_sandbox_does_not_keep_it(plane: ControlPlane) -> None:
    """Its deadline is the one that it had when it was paused."""
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60, extensions={RENEWAL_KEY: "300"}))
    with plane.sandboxes.in_use(sandbox.id):
        await plane.pauses.pause(sandbox.id)
        assert state_after(plane, sandbox, 299) is State.PAUSED
        assert state_after(plane, sandbox, 301) is State.STOPPING


async def test_a_paused_sandbox_is_not_idle(plane: ControlPlane) -> None:
    """Nobody can use it; its deadline goes on, though."""
    sandbox = await plane.sandboxes.create(a_request(timeout_s=600, extensions={IDLE_KEY: "30"}))
    await plane.pauses.pause(sandbox.id)
    assert state_after(plane, sandbox, 31) is State.PAUSED
    assert state_after(plane, sandbox, 599) is State.PAUSED
    assert state_after(plane, sandbox, 601) is State.STOPPING
    assert plane.sandboxes.get(sandbox.id).reason == "EXPIRED"


@pytest.mark.parametrize("by_client", [True, False])
async def test_to_resume_a_sandbox_is_to_use_it(
    plane: ControlPlane, home: Home, clock: LaterClock, *, by_client: bool
) -> None:
    """However long it was paused, its idle time begins anew; also when somebody at the engine lets it go on."""
    extensions = {RENEWAL_KEY: "300", IDLE_KEY: "30"}
    sandbox = await plane.sandboxes.create(a_request(timeout_s=1000, extensions=extensions))
    await plane.pauses.pause(sandbox.id)
    assert state_at(plane, sandbox, clock, 900) is State.PAUSED
    if by_client:
        resumed = await plane.pauses.resume(sandbox.id)
        assert resumed == plane.sandboxes.get(sandbox.id)
    else:
        home.engine.pause(sandbox.container_id, resume=True)
        await until(lambda: plane.sandboxes.get(sandbox.id).state is State.RUNNING)
    assert 1190 < deadline_of(plane, sandbox) < 1205
    assert state_at(plane, sandbox, clock, 925) is State.RUNNING
    assert state_at(plane, sandbox, clock, 935) is State.STOPPING
    assert plane.sandboxes.get(sandbox.id).reason == "IDLE"


async def test_an_idle_time_begins_when_a_request_ends(plane: ControlPlane, clock: LaterClock) -> None:
    """Not when it began, also if nobody looked at the sandbox meanwhile."""
    extensions = {RENEWAL_KEY: "300", IDLE_KEY: "30"}
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60, extensions=extensions))
    request = SandboxClaim(id=sandbox.id, entrypoint=sandbox.spec.entrypoint)
    stream = await plane.relay.open(sandbox.id, request)
    clock.passed = 25
    stream.close()
    assert 320 < deadline_of(plane, sandbox) < 330
    assert state_at(plane, sandbox, clock, 50) is State.RUNNING
    assert state_at(plane, sandbox, clock, 60) is State.STOPPING


async def test_a_console_that_is_connected_is_use(plane: ControlPlane, edge: ASGIApp, clock: LaterClock) -> None:
    """Although nobody types: as an attached terminal; the idle time begins when it leaves."""
    extensions = {RENEWAL_KEY: "300", IDLE_KEY: "30"}
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60, extensions=extensions))
    path = f"/v1/sandboxes/{sandbox.id}/stream"
    async with connected(edge, path, plane.made_key):
        async with connected(edge, path, plane.made_key):
            assert state_at(plane, sandbox, clock, 100) is State.RUNNING
        assert state_at(plane, sandbox, clock, 1000) is State.RUNNING
    assert 1290 < deadline_of(plane, sandbox) < 1305
    assert state_at(plane, sandbox, clock, 1025) is State.RUNNING
    assert state_at(plane, sandbox, clock, 1035) is State.STOPPING
    assert plane.sandboxes.get(sandbox.id).reason == "IDLE"


async def test_a_door_behind_which_no_agent_is_asked(plane: ControlPlane, edge: ASGIApp, clock: LaterClock) -> None:
    """It is use as all others, also by the names without a version; what has no right to be there is none."""
    sandbox = await plane.sandboxes.create(a_request(extensions={IDLE_KEY: "30"}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(edge), base_url="http://here") as client:
        for seconds, prefix in ((25, "/v1"), (50, "")):
            assert state_at(plane, sandbox, clock, seconds) is State.RUNNING
            url = f"{prefix}/sandboxes/{sandbox.id}/proxy/18080/policy"
            answer = await client.get(url, headers={"OPEN-SANDBOX-API-KEY": plane.made_key})
            assert answer.status_code in (200, 404), answer.text
        clock.passed = 75
        assert (await client.get(url)).status_code == 401
    assert state_at(plane, sandbox, clock, 79) is State.RUNNING
    assert state_at(plane, sandbox, clock, 85) is State.STOPPING


async def test_a_deadline_that_was_brought_nearer_stays_so(plane: ControlPlane, clock: LaterClock) -> None:
    """Uses before it do not undo it; one after it does."""
    extensions = {RENEWAL_KEY: "300"}
    used, left = [await plane.sandboxes.create(a_request(timeout_s=600, extensions=extensions)) for _ in range(2)]
    for sandbox in (used, left):
        await plane.relay.link(sandbox.id)
        plane.sandboxes.renew(sandbox.id, utc_now() + timedelta(seconds=60))
    assert state_at(plane, used, clock, 50) is State.RUNNING
    await plane.relay.link(used.id)
    assert 340 < deadline_of(plane, used) < 355
    assert state_at(plane, left, clock, 61) is State.STOPPING
    assert plane.sandboxes.get(left.id).reason == "EXPIRED"
    assert plane.sandboxes.get(used.id).state is State.RUNNING


async def test_what_nobody_used_is_not_kept_by_use(plane: ControlPlane) -> None:
    """To be created is not to be used: it ends when its `timeout` said."""
    sandbox = await plane.sandboxes.create(a_request(timeout_s=60, extensions={RENEWAL_KEY: "300"}))
    assert state_after(plane, sandbox, 59) is State.RUNNING
    assert 55 < deadline_of(plane, sandbox) <= 60
    assert state_after(plane, sandbox, 61) is State.STOPPING


async def test_a_restart_begins_the_idle_time_anew(home: Home) -> None:
    """While no server ran, nobody could use it."""
    async with home.run() as plane:
        sandbox = await plane.sandboxes.create(a_request(extensions={IDLE_KEY: "30"}))
    async with home.run() as plane:
        assert state_after(plane, sandbox, 29) is State.RUNNING
        assert state_after(plane, sandbox, 31) is State.STOPPING


async def test_a_restart_puts_no_deadline_off(home: Home) -> None:
    """Neither of what nobody used, nor one that was brought nearer; what a use had put off before stays put off."""
    extensions = {RENEWAL_KEY: "300"}
    async with home.run() as plane:
        unused, shortened, used = [
            await plane.sandboxes.create(a_request(timeout_s=60, extensions=extensions)) for _ in range(3)
        ]
        for sandbox in (shortened, used):
            await plane.relay.link(sandbox.id)
        plane.sandboxes.renew(shortened.id, utc_now() + timedelta(seconds=60))
        home.driver.cut = True
    async with home.run() as plane:
        assert state_after(plane, used, 61) is State.RUNNING
        assert {plane.sandboxes.get(one.id).state for one in (unused, shortened)} == {State.STOPPING}
        assert state_after(plane, used, 301) is State.STOPPING


async def test_a_use_that_goes_on_is_written_down_while_it_does(home: Home, clock: LaterClock) -> None:
    """A server that is killed loses no more than half of what it is worth."""
    async with home.run(clock=clock) as plane:
        sandbox = await plane.sandboxes.create(a_request(timeout_s=60, extensions={RENEWAL_KEY: "300"}))
        request = SandboxClaim(id=sandbox.id, entrypoint=sandbox.spec.entrypoint)
        await plane.relay.open(sandbox.id, request)
        for seconds in range(0, 1000, 10):
            assert state_at(plane, sandbox, clock, seconds) is State.RUNNING
            assert deadline_of(plane, sandbox) - seconds > 139
