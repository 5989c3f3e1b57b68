"""The pool's plan, by example. `tests/property/test_plan.py` says what holds always."""

from __future__ import annotations

from controlplane.pool.plan import Discard, Start, Stock, Template, plan
from controlplane.sandbox import Limits, Network

A, B, C = (Template(image=name, network=Network.NONE, limits=Limits()) for name in "ABC")


def starts(stocks: dict[Template, Stock], max_starting: int = 4) -> str:
    """The images to start, in order; nothing is to be discarded."""
    actions = plan(stocks, max_starting=max_starting)
    assert all(isinstance(action, Start) for action in actions)
    return "".join(action.template.image for action in actions if isinstance(action, Start))


def test_an_empty_pool_is_filled_up_to_the_bound() -> None:
    """Four of five at first; the fifth when a place is free."""
    assert starts({A: Stock(target=5)}) == "AAAA"
    assert starts({A: Stock(target=5, warm=("1",), starting=3)}) == "A"
    assert starts({A: Stock(target=5, warm=("1", "2"), starting=3)}) == ""


def test_a_template_without_a_target_is_started_for_claims_only() -> None:
    """One for each claim that waits, and none to keep."""
    assert starts({A: Stock(waiting=2)}) == "AA"
    assert starts({A: Stock(waiting=2, starting=1)}) == "A"
    assert starts({A: Stock(recent=9)}) == ""


def test_claims_come_before_filling_up() -> None:
    """Even when the pool of another is empty."""
    assert starts({A: Stock(target=5), B: Stock(waiting=3)}) == "BBBA"


def test_claims_are_served_round_the_templates() -> None:
    """A crowd before one template does not keep others waiting."""
    assert starts({A: Stock(waiting=100), B: Stock(waiting=1), C: Stock(waiting=2)}) == "ABCA"
    assert starts({A: Stock(waiting=100, starting=3), B: Stock(waiting=1)}) == "B"


def test_with_one_place_the_turn_goes_round() -> None:
    """Who was started last is last."""
    assert starts({A: Stock(waiting=9, turn=7), B: Stock(waiting=9, turn=3)}, max_starting=1) == "B"
    assert starts({A: Stock(target=1, turn=7), B: Stock(target=1, turn=3)}, max_starting=1) == "B"


def test_the_emptiest_is_filled_first() -> None:
    """By share of its target."""
    assert starts({A: Stock(target=10, warm=("1", "2")), B: Stock(target=2, warm=("3",))}, max_starting=3) == "AAA"
    assert starts({A: Stock(target=2, warm=("1",)), B: Stock(target=10, warm=("2",))}, max_starting=2) == "BB"


def test_demand_raises_a_target_to_twice_its_size_at_most() -> None:
    """More claims than warm containers lately: keep more."""
    assert starts({A: Stock(target=2, warm=("1", "2"), recent=3)}) == "A"
    assert starts({A: Stock(target=2, warm=("1", "2"), recent=100)}) == "AA"
    assert starts({A: Stock(target=2, warm=("1", "2"), recent=1)}) == ""


def test_what_is_being_adopted_counts_for_filling_but_not_for_claims() -> None:
    """It will probably come, but no claim may wait for it."""
    assert starts({A: Stock(target=3, adopting=2)}) == "A"
    assert starts({A: Stock(target=3, adopting=3, waiting=1)}) == "A"


def test_a_blocked_template_serves_claims_only() -> None:
    """Its starts failed lately; who asks for it still gets an answer."""
    assert starts({A: Stock(target=5, blocked=True)}) == ""
    assert starts({A: Stock(target=5, blocked=True, waiting=1)}) == "A"
    assert starts({A: Stock(target=5, blocked=True), B: Stock(target=1)}) == "B"


def test_surplus_is_discarded_oldest_first() -> None:
    """When demand has gone, or the target was lowered."""
    assert plan({A: Stock(target=1, warm=("old", "mid", "new"))}, max_starting=4) == [Discard("old"), Discard("mid")]


def test_nothing_is_discarded_while_a_claim_waits() -> None:
    """The engine has better things to do."""
    stocks = {A: Stock(warm=("1", "2")), B: Stock(waiting=1)}
    assert plan(stocks, max_starting=4) == [Start(B)]
