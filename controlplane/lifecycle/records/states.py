"""The life of a sandbox, as a table. What is not in it cannot happen."""

from __future__ import annotations

import enum

from controlplane.errors import Conflict
from controlplane.sandbox import State


class Event(enum.Enum):
    """What happens to a sandbox."""

    STARTED = "started"  # claimed, and its entrypoint runs
    PAUSE = "pause"
    PAUSED = "paused"
    PAUSE_FAILED = "pause failed"  # it runs on
    RESUME = "resume"
    RESUMED = "resumed"
    RESUME_FAILED = "resume failed"  # it stays paused
    STOP = "stop"  # deleted, expired, or its entrypoint ended well
    GONE = "gone"  # the container is removed
    FAIL = "fail"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.PENDING, Event.STARTED): State.RUNNING,
    (State.RUNNING, Event.PAUSE): State.PAUSING,
    (State.PAUSING, Event.PAUSED): State.PAUSED,
    (State.PAUSING, Event.PAUSE_FAILED): State.RUNNING,
    (State.PAUSED, Event.RESUME): State.RESUMING,
    (State.RESUMING, Event.RESUMED): State.RUNNING,
    (State.RESUMING, Event.RESUME_FAILED): State.PAUSED,
    **{
        (state, Event.STOP): State.STOPPING
        for state in (State.PENDING, State.RUNNING, State.PAUSING, State.PAUSED, State.RESUMING, State.FAILED)
    },
    **{
        (state, Event.FAIL): State.FAILED
        for state in (State.PENDING, State.RUNNING, State.PAUSING, State.PAUSED, State.RESUMING)
    },
    (State.STOPPING, Event.GONE): State.TERMINATED,
}

# Changes that are refused if the store cannot keep them. All other changes have already happened, or cannot be undone.
INTENTS = frozenset({Event.STARTED, Event.PAUSE, Event.RESUME})

# States in which a sandbox has an owner: claimed, and not about to end.
CLAIMED = frozenset({State.RUNNING, State.PAUSING, State.PAUSED, State.RESUMING})
# States in which a sandbox has, or may have, a container.
LIVE = CLAIMED | {State.PENDING, State.STOPPING}


def advance(state: State, event: Event) -> State:
    """Return the state that follows.

    Raises:
        Conflict: the event cannot happen in that state.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise Conflict(f"cannot {event.value} a sandbox that is {state.value}", code="sandbox.bad_state") from None
