"""The life of a stream: the table is whole, and the page in docs/ says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from execd.wire.states import TRANSITIONS, StreamEvent, StreamState

PAGE = Path(__file__).parents[4] / "docs" / "link.md"
DASH = "–"


def _table_of_the_page() -> dict[tuple[str, str], str]:
    lines = PAGE.read_text().splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("| | send |"))
    events = [cell.strip() for cell in lines[start].strip("|").split("|")][1:]
    table = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        state, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        table.update({(state, event): cell for event, cell in zip(events, cells, strict=True)})
    return table


def test_the_page_has_a_cell_for_every_state_and_event() -> None:
    """What is not allowed is said too."""
    assert set(_table_of_the_page()) == {(s.value, e.value) for s in StreamState for e in StreamEvent}


def test_the_page_and_the_code_are_the_same_table() -> None:
    """docs/link.md is what people read, TRANSITIONS is what runs."""
    page = {key: cell for key, cell in _table_of_the_page().items() if cell != DASH}
    code = {(state.value, event.value): after.value for (state, event), after in TRANSITIONS.items()}
    assert page == code


def test_every_state_can_be_reached_from_open() -> None:
    """No dead rows."""
    reached, fresh = set(), {StreamState.OPEN}
    while fresh:
        reached |= fresh
        fresh = {after for (before, _), after in TRANSITIONS.items() if before in reached} - reached
    assert reached == set(StreamState)


def test_closed_is_the_end() -> None:
    """Nothing happens to a closed stream."""
    assert [key for key in TRANSITIONS if key[0] is StreamState.CLOSED] == []


@pytest.mark.parametrize("state", [state for state in StreamState if state is not StreamState.CLOSED])
def test_every_living_stream_can_be_reset_by_either_side(state: StreamState) -> None:
    """A reset never comes at a bad time."""
    assert TRANSITIONS[state, StreamEvent.SEND_RESET] is StreamState.CLOSED
    assert TRANSITIONS[state, StreamEvent.RECEIVE_RESET] is StreamState.CLOSED


def test_the_table_is_its_own_mirror() -> None:
    """What one side sends the other receives: swap the sides and the table is the same."""
    mirror_state = {StreamState.LOCAL_DONE: StreamState.PEER_DONE, StreamState.PEER_DONE: StreamState.LOCAL_DONE}
    mirror_event = {
        StreamEvent.SEND: StreamEvent.RECEIVE,
        StreamEvent.SEND_END: StreamEvent.RECEIVE_END,
        StreamEvent.SEND_RESET: StreamEvent.RECEIVE_RESET,
    }
    mirror_event |= {there: here for here, there in mirror_event.items()}
    mirrored = {
        (mirror_state.get(before, before), mirror_event[event]): mirror_state.get(after, after)
        for (before, event), after in TRANSITIONS.items()
    }
    assert mirrored == TRANSITIONS
