"""Uses by themselves: renewals and idle time on a clock that stands still, without an engine and a pool."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from controlplane.errors import InvalidRequest, SandboxEnded, StoreError
from controlplane.lifecycle.uses import IDLE_KEY, RENEWAL_KEY, RENEWAL_STEP_S
from controlplane.sandbox import EXPIRED, IDLE, State
from tests.support.server.parts import Parts, a_record, parts


def lasts_s(world: Parts) -> float:
    """In how many seconds the one sandbox is to end, as its clients see it."""
    expires_at = world.registry.get("one").expires_at
    assert expires_at is not None
    return expires_at.timestamp() - world.now


async def test_a_use_puts_the_deadline_off_in_steps(world: Parts) -> None:
    """A use that would put the deadline off by less than a step is not written down."""
    world.put(extensions={RENEWAL_KEY: "300"}, lasts_s=300)
    world.now += RENEWAL_STEP_S - 1
    world.uses.on_use("one")
    assert lasts_s(world) == pytest.approx(301 - RENEWAL_STEP_S, abs=0.01)
    world.now += 2
    world.uses.on_use("one")
    assert lasts_s(world) == pytest.approx(300, abs=0.01)


async def test_uses_renew_up_to_the_longest_lifetime() -> None:
    async with parts(max_lifetime_s=100) as world:
        world.put(extensions={RENEWAL_KEY: "90"}, lasts_s=60)
        world.now += 50
        world.uses.on_use("one")
        assert lasts_s(world) == pytest.approx(50, abs=0.01)


@pytest.mark.parametrize("state", [State.PAUSED, State.STOPPING, State.FAILED])
async def test_only_a_running_sandbox_is_used(world: Parts, state: State) -> None:
    sandbox = world.put(extensions={RENEWAL_KEY: "300"}, lasts_s=60)
    world.registry.put(replace(sandbox, state=state))
    world.uses.on_use("one")
    world.uses.on_use("nobody")
    assert lasts_s(world) == pytest.approx(60, abs=0.01)


async def test_a_use_goes_on_where_the_store_fails(world: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next use tries again."""
    world.put(extensions={RENEWAL_KEY: "300"}, lasts_s=60)

    def fail(*_: object) -> None:
        raise StoreError("full")

    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(world.store, "put", fail)
        world.uses.on_use("one")
    assert [entry["event"] for entry in logs] == ["sandbox.renew_failed"]
    assert lasts_s(world) == pytest.approx(60, abs=0.01)
    world.uses.on_use("one")
    assert lasts_s(world) == pytest.approx(300, abs=0.01)


async def test_a_sandbox_is_over_at_its_deadline_or_after_its_idle_time(world: Parts) -> None:
    """Whichever is sooner. Until then, the next look is set."""
    sandbox = world.put(extensions={IDLE_KEY: "30"}, lasts_s=60)
    assert world.uses.why_over(sandbox, world.now + 29) is None
    assert world.deadlines.next_due() == pytest.approx(world.now + 30, abs=0.01)
    over = world.uses.why_over(sandbox, world.now + 31)
    assert over is not None
    assert over.reason == IDLE
    over = world.uses.why_over(sandbox, world.now + 61)
    assert over is not None
    assert over.reason == EXPIRED


async def test_a_connected_client_uses_a_sandbox_until_it_leaves(world: Parts) -> None:
    sandbox = world.put(extensions={IDLE_KEY: "30"})
    with world.uses.in_use("one"):
        world.now += 100
        assert world.uses.why_over(sandbox, world.now) is None
    world.now += 29
    assert world.uses.why_over(sandbox, world.now) is None
    world.now += 2
    assert world.uses.why_over(sandbox, world.now) is not None


async def test_earlier_uses_do_not_change_an_explicit_deadline(world: Parts) -> None:
    world.put(extensions={RENEWAL_KEY: "300"}, lasts_s=60)
    world.uses.on_use("one")
    sandbox = world.uses.renew("one", datetime.fromtimestamp(world.now + 20, UTC))
    over = world.uses.why_over(sandbox, world.now + 21)
    assert over is not None
    assert over.reason == EXPIRED


async def test_lifetimes_have_one_bound_for_creates_and_renewals() -> None:
    """The setting is named where there is one."""
    async with parts(max_lifetime_s=100) as world:
        assert world.uses.lifetime(None) == world.uses.lifetime(100) == timedelta(seconds=100)
        with pytest.raises(InvalidRequest, match=r"at most 100 s .*\[sandbox\] max_lifetime"):
            world.uses.lifetime(101)
        world.put()
        with pytest.raises(InvalidRequest, match="at most 100 s"):
            world.uses.renew("one", datetime.fromtimestamp(world.now + 101, UTC))
    async with parts() as world:
        assert world.uses.lifetime(None) is None
        with pytest.raises(InvalidRequest, match="more than 0"):
            world.uses.lifetime(0)
        with pytest.raises(InvalidRequest) as refused:
            world.uses.lifetime(1 << 40)
        assert "max_lifetime" not in refused.value.message


async def test_a_sandbox_that_has_ended_is_not_renewed(world: Parts) -> None:
    world.registry.put(a_record(State.FAILED))
    with pytest.raises(SandboxEnded):
        world.uses.renew("one", datetime.fromtimestamp(world.now + 20, UTC))
