"""Use puts a sandbox's end off, and its absence ends it, where that was asked for."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from controlplane.composition import ControlPlane
from controlplane.lifecycle.activity import IDLE_KEY, RENEWAL_KEY
from controlplane.lifecycle.reaper import reap_once
from controlplane.lifecycle.registry import utc_now
from controlplane.sandbox import Sandbox, State
from execd.wire.messages import ContextPrepare, SandboxClaim
from tests.control_plane import Home, a_request
from tests.fakes.agents import AgentEngine


@pytest.fixture
async def home() -> AsyncIterator[Home]:
    home = Home(AgentEngine("fake/image"))
    yield home
    await home.aclose()


@pytest.fixture
async def plane(home: Home) -> AsyncIterator[ControlPlane]:
    async with home.run() as plane:
        yield plane


def state_after(plane: ControlPlane, sandbox: Sandbox, seconds: float) -> State:
    """The state of a sandbox once the reaper has come by, so many seconds from now."""
    reap_once(plane.deadlines, plane.sandboxes.expire, time.time() + seconds)
    return plane.sandboxes.get(sandbox.id).state


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


async def test_a_paused_sandbox_is_not_idle(plane: ControlPlane) -> None:
    """Nobody can use it; its deadline goes on, though."""
    sandbox = await plane.sandboxes.create(a_request(timeout_s=600, extensions={IDLE_KEY: "30"}))
    await plane.pauses.pause(sandbox.id)
    assert state_after(plane, sandbox, 31) is State.PAUSED
    assert state_after(plane, sandbox, 599) is State.PAUSED
    assert state_after(plane, sandbox, 601) is State.STOPPING
    assert plane.sandboxes.get(sandbox.id).reason == "EXPIRED"


async def test_a_restart_counts_as_use(home: Home) -> None:
    """While no server ran, nobody could use it."""
    async with home.run() as plane:
        sandbox = await plane.sandboxes.create(a_request(extensions={IDLE_KEY: "30"}))
    async with home.run() as plane:
        assert state_after(plane, sandbox, 29) is State.RUNNING
        assert state_after(plane, sandbox, 31) is State.STOPPING
