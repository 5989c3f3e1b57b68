"""The life of a sandbox: the table says all."""

from __future__ import annotations

import pytest

from controlplane.errors import Conflict
from controlplane.lifecycle.records.states import LIVE, TRANSITIONS, Event, advance
from controlplane.sandbox import State


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_pair_either_stands_in_the_table_or_is_a_conflict(state: State, event: Event) -> None:
    """There is no third thing."""
    if (state, event) in TRANSITIONS:
        assert advance(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(Conflict, match=f"cannot {event.value} a sandbox that is {state.value}") as error:
            advance(state, event)
        assert error.value.code == "sandbox.bad_state"


def test_the_usual_life() -> None:
    """Created, deleted, gone."""
    state = State.PENDING
    for event, following in [
        (Event.STARTED, State.RUNNING),
        (Event.PAUSE, State.PAUSING),
        (Event.PAUSED, State.PAUSED),
        (Event.RESUME, State.RESUMING),
        (Event.RESUMED, State.RUNNING),
        (Event.STOP, State.STOPPING),
        (Event.GONE, State.TERMINATED),
    ]:
        state = advance(state, event)
        assert state is following


@pytest.mark.parametrize("state", State)
def test_every_state_but_the_last_can_be_ended(state: State) -> None:
    """Whatever a sandbox does, a delete ends it: no state is a trap."""
    reached, frontier = {state}, [state]
    while frontier:
        here = frontier.pop()
        following = {to for (source, _), to in TRANSITIONS.items() if source is here} - reached
        reached |= following
        frontier += following
    assert State.TERMINATED in reached
    if state not in (State.STOPPING, State.TERMINATED):
        assert advance(state, Event.STOP) is State.STOPPING


@pytest.mark.parametrize("state", sorted(LIVE - {State.STOPPING}, key=lambda state: state.value))
def test_whatever_lives_can_fail(state: State) -> None:
    """A container may die in any state in which there is one."""
    assert advance(state, Event.FAIL) is State.FAILED


def test_what_fails_on_the_way_goes_back() -> None:
    """An engine that does not pause leaves a running sandbox, one that does not resume a paused one."""
    assert advance(State.PAUSING, Event.PAUSE_FAILED) is State.RUNNING
    assert advance(State.RESUMING, Event.RESUME_FAILED) is State.PAUSED


def test_nothing_comes_back_to_life() -> None:
    """From an end there is no way to a state with a running container."""
    dead = {State.STOPPING, State.TERMINATED}
    assert all(to in dead for (source, _), to in TRANSITIONS.items() if source in dead)
    assert {to for (source, _), to in TRANSITIONS.items() if source is State.FAILED} == {State.STOPPING}
