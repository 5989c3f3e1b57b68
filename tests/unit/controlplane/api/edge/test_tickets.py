"""Tickets for streams: each opens one, once, for a while."""

from __future__ import annotations

import pytest

from controlplane.access.scopes import OPERATOR
from controlplane.api.edge import tickets as tickets_module
from controlplane.api.edge.tickets import LIFETIME_S, MAX_TICKETS, Tickets
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tickets(clock: Clock) -> Tickets:
    return Tickets(lambda _: None, clock)  # type: ignore[arg-type,return-value]


def test_a_ticket_opens_one_sandbox_once(tickets: Tickets) -> None:
    """And at another one it is used up."""
    ticket, _ = tickets.make("a", OPERATOR)
    assert tickets.redeem("a", ticket) is OPERATOR
    assert tickets.redeem("a", ticket) is None
    other, _ = tickets.make("a", OPERATOR)
    assert tickets.redeem("b", other) is None
    assert tickets.redeem("a", other) is None


def test_a_ticket_expires(tickets: Tickets, clock: Clock) -> None:
    """And is forgotten."""
    ticket, expires = tickets.make("a", OPERATOR)
    assert expires == clock.now + LIFETIME_S
    clock.now += LIFETIME_S
    assert tickets.redeem("a", ticket) is None
    for _ in range(3):
        tickets.make("b", OPERATOR)
        clock.now += LIFETIME_S
    tickets.make("c", OPERATOR)
    assert len(tickets._open) == len(tickets._of) == 1


@pytest.mark.attack(
    "edge",
    "tickets for one sandbox are asked for without end",
    "its first ones are forgotten, and tickets of other sandboxes stay",
)
def test_whoever_asks_for_too_many_loses_his_own(tickets: Tickets, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a larger bound, more are kept."""
    other, _ = tickets.make("other", OPERATOR)
    first, _ = tickets.make("a", OPERATOR)
    for _ in range(20 * MAX_TICKETS):
        last, _ = tickets.make("a", OPERATOR)
    assert len(tickets._open) == MAX_TICKETS + 1
    assert tickets.redeem("a", first) is None
    assert tickets.redeem("a", last) is OPERATOR
    assert tickets.redeem("other", other) is OPERATOR
    monkeypatch.setattr(tickets_module, "MAX_TICKETS", 2 * MAX_TICKETS)
    for _ in range(3 * MAX_TICKETS):
        tickets.make("a", OPERATOR)
    assert len(tickets._open) == 2 * MAX_TICKETS
