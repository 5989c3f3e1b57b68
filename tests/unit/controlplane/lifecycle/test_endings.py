"""Endings: what is written down, what is removed, and what is remembered."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from controlplane.errors import Conflict, EngineUnavailable, NotFound
from controlplane.lifecycle import endings
from controlplane.lifecycle.endings import FINISHED_RETENTION, MAX_CAUSE_CHARS
from controlplane.lifecycle.records.registry import utc_now
from controlplane.sandbox import DELETED, EXITED, EXITED_ERROR, EXPIRED, State
from tests.support.server.control_plane import until
from tests.support.server.parts import Parts, a_record


async def test_a_deleted_sandbox_is_forgotten_when_its_container_is_gone(world: Parts) -> None:
    """Clients do not find the sandbox from the moment of the answer on."""
    world.driver.hold_destroy = asyncio.Event()
    sandbox = world.put(lasts_s=60)
    world.uses.schedule(sandbox)
    await world.endings.delete(sandbox.id)
    with pytest.raises(NotFound):
        world.registry.get(sandbox.id)
    assert world.registry.find(sandbox.id) is not None
    assert world.deadlines.next_due() is None
    world.driver.hold_destroy.set()
    await until(lambda: world.registry.find(sandbox.id) is None)


async def test_a_sandbox_that_ended_by_itself_can_be_asked_about(world: Parts) -> None:
    """It is Terminated once its container is gone, and is forgotten after the retention."""
    sandbox = world.put()
    world.endings.stop(sandbox.id, reason=EXITED, message="the entrypoint ended")
    await until(lambda: world.registry.get(sandbox.id).state is State.TERMINATED)
    assert world.registry.get(sandbox.id).message == "the entrypoint ended"
    due = world.deadlines.next_due()
    assert due is not None
    assert due == pytest.approx((utc_now() + FINISHED_RETENTION).timestamp(), abs=30)
    world.endings.expire(sandbox.id, due)
    assert world.registry.find(sandbox.id) is None
    assert world.endings.expired == 0


async def test_a_deadline_ends_a_sandbox_once(world: Parts) -> None:
    sandbox = world.put(lasts_s=60)
    world.endings.expire(sandbox.id, world.now + 59)
    assert world.registry.get(sandbox.id).state is State.RUNNING
    world.endings.expire(sandbox.id, world.now + 61)
    assert world.registry.get(sandbox.id).reason == EXPIRED
    world.endings.expire(sandbox.id, world.now + 62)
    assert world.endings.expired == 1


@pytest.mark.parametrize("state", [State.PENDING, State.STOPPING, State.FAILED, State.TERMINATED])
async def test_only_a_claimed_sandbox_fails(world: Parts, state: State) -> None:
    """Another sandbox is being made, is meant to end, or has ended already."""
    record = world.registry.put(a_record(state))
    world.endings.fail(record.id, EXITED_ERROR, "it died")
    assert world.registry.find(record.id) == record


async def test_the_cause_of_a_failure_is_bounded_and_what_was_said_is_not_logged(world: Parts) -> None:
    """An agent names the cause; the last line of the entrypoint is for the owner."""
    sandbox = world.put()
    with capture_logs() as logs:
        world.endings.fail(sandbox.id, EXITED_ERROR, "x" * 2 * MAX_CAUSE_CHARS, said="a secret")
    assert world.registry.get(sandbox.id).message == "x" * MAX_CAUSE_CHARS + "; it said: a secret"
    assert "a secret" not in str(logs)


async def test_a_create_is_undone_whatever_is_written_down(world: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a record, with a record that is deleted meanwhile, and with an engine that hangs."""
    unwritten = a_record(State.PENDING, id="unwritten")
    await world.endings.undo(unwritten)
    deleted = world.registry.put(a_record(State.PENDING, id="deleted"))
    await world.endings.delete(deleted.id)
    await world.endings.undo(deleted)
    assert world.registry.all() == []
    monkeypatch.setattr(endings, "UNDO_TIMEOUT_S", 0.01)
    world.driver.hold_destroy = asyncio.Event()
    stuck = world.registry.put(a_record(State.PENDING, id="stuck"))
    await asyncio.wait_for(world.endings.undo(stuck), 5)
    assert world.registry.all() != []
    world.driver.hold_destroy.set()
    await until(lambda: world.registry.all() == [])


async def test_a_removal_that_failed_is_tried_again(world: Parts) -> None:
    """By the sweep, which finds the record as it was. While a removal goes on, a second one does nothing."""
    world.driver.fail_destroy = EngineUnavailable("the engine is away")
    sandbox = world.put()
    with capture_logs() as logs:
        world.endings.stop(sandbox.id, reason=DELETED)
        await until(lambda: logs[-1]["event"] == "sandbox.remove_failed")
    stopping = world.registry.find(sandbox.id)
    assert stopping is not None
    world.driver.fail_destroy, world.driver.hold_destroy = None, asyncio.Event()
    world.endings.remove(stopping)
    await until(lambda: world.driver.destroys_under_way)
    world.endings.remove(stopping)
    await asyncio.sleep(0.01)
    assert world.driver.destroys_under_way == 1
    world.driver.hold_destroy.set()
    await until(lambda: world.registry.find(sandbox.id) is None)


async def test_what_has_ended_cannot_be_stopped_again(world: Parts) -> None:
    sandbox = world.put()
    world.endings.stop(sandbox.id, reason=EXITED)
    with pytest.raises(Conflict):
        world.endings.stop(sandbox.id, reason=DELETED)
    await until(lambda: world.registry.get(sandbox.id).state is State.TERMINATED)
    await world.endings.delete(sandbox.id)
    assert world.registry.find(sandbox.id) is None
    assert world.deadlines.next_due() is None


async def test_sandboxes_of_an_earlier_run_keep_their_deadlines(world: Parts) -> None:
    """A living sandbox ends when it was to end; an ended one is forgotten when it was to be forgotten."""
    sandbox = world.put(lasts_s=60)
    world.endings.take_over(sandbox)
    assert sandbox.expires_at is not None
    assert world.deadlines.next_due() == sandbox.expires_at.timestamp()
    assert [entry.kind for entry in world.registry.journal.entries(sandbox.id)] == ["Recovered"]
    failed = world.registry.put(a_record(State.FAILED, state_changed_at=utc_now() - timedelta(days=1)))
    world.endings.take_over(failed)
    assert world.deadlines.next_due() == (failed.state_changed_at + FINISHED_RETENTION).timestamp()
