"""What holds for every plan, whatever the pool has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from controlplane.pool.plan import MAX_BOOST, Discard, Start, Stock, Template, plan
from controlplane.sandbox import Limits, Network

TEMPLATES = [Template(image=name, network=Network.NONE, limits=Limits()) for name in "ABCD"]
FEW = st.integers(0, 6)


@st.composite
def pools(draw: st.DrawFn) -> dict[Template, Stock]:
    """Any stocks, also ones that a pool never reaches by itself."""
    stocks = {}
    for template in draw(st.lists(st.sampled_from(TEMPLATES), unique=True)):
        warm = draw(FEW)
        stocks[template] = Stock(
            target=draw(FEW),
            warm=tuple(f"{template.image}{number}" for number in range(warm)),
            starting=draw(FEW),
            adopting=draw(st.integers(0, 2)),
            waiting=draw(FEW),
            recent=draw(st.integers(0, 20)),
            blocked=draw(st.booleans()),
            turn=draw(FEW),
        )
    return stocks


BOUNDS = st.integers(1, 8)


def applied(stocks: dict[Template, Stock], max_starting: int) -> dict[Template, Stock]:
    """The stocks when the plan has been carried out."""
    after = dict(stocks)
    for action in plan(stocks, max_starting=max_starting):
        match action:
            case Start(template):
                after[template] = replace(after[template], starting=after[template].starting + 1)
            case Discard(sandbox_id):
                ((template, stock),) = [(t, s) for t, s in after.items() if sandbox_id in s.warm]
                after[template] = replace(stock, warm=tuple(one for one in stock.warm if one != sandbox_id))
    return after


def started(template: Template, before: dict[Template, Stock], after: dict[Template, Stock]) -> int:
    return after[template].starting - before[template].starting


def have(stock: Stock) -> int:
    return len(stock.warm) + stock.starting


def desired(stock: Stock) -> int:
    return max(stock.target, min(stock.recent, MAX_BOOST * stock.target))


@given(pools(), BOUNDS)
def test_never_more_than_the_bound_start_at_once(stocks: dict[Template, Stock], bound: int) -> None:
    """Over all templates together; when more run already, none is added."""
    running = sum(stock.starting for stock in stocks.values())
    after = sum(stock.starting for stock in applied(stocks, bound).values())
    assert after <= max(bound, running)


@given(pools(), BOUNDS)
def test_never_more_than_is_asked_for(stocks: dict[Template, Stock], bound: int) -> None:
    """A start is for a claim that waits, or for the size to keep beside those."""
    after = applied(stocks, bound)
    for template, stock in stocks.items():
        if started(template, stocks, after):
            assert have(after[template]) <= stock.waiting + max(0, desired(stock) - stock.adopting)


@given(pools(), BOUNDS)
def test_claims_come_first(stocks: dict[Template, Stock], bound: int) -> None:
    """As long as a claim has no container coming, no container is started to be kept."""
    after = applied(stocks, bound)
    if any(have(stock) < stock.waiting for stock in after.values()):
        for template, stock in after.items():
            assert started(template, stocks, after) == 0 or have(stock) <= stock.waiting


@given(pools(), BOUNDS)
def test_claims_are_served_round_the_templates(stocks: dict[Template, Stock], bound: int) -> None:
    """No template gets a further start while another with waiting claims has less than it."""
    after = applied(stocks, bound)
    for template in after:
        if started(template, stocks, after):
            for other in after.values():
                assert have(other) >= min(other.waiting, have(after[template]) - 1)


@given(pools(), BOUNDS)
def test_a_free_place_means_that_nobody_needs_it(stocks: dict[Template, Stock], bound: int) -> None:
    """The plan does all that can be done now."""
    after = applied(stocks, bound)
    if sum(stock.starting for stock in after.values()) < bound:
        for stock in after.values():
            assert have(stock) >= stock.waiting
            assert stock.blocked or have(stock) + stock.adopting >= stock.waiting + desired(stock)


@given(pools(), BOUNDS)
def test_carried_out_there_is_nothing_left_to_do(stocks: dict[Template, Stock], bound: int) -> None:
    """The same plan twice would start twice."""
    assert plan(applied(stocks, bound), max_starting=bound) == []


@given(pools(), BOUNDS)
def test_a_blocked_template_only_serves_claims(stocks: dict[Template, Stock], bound: int) -> None:
    """Whatever its target is."""
    after = applied(stocks, bound)
    for template, stock in after.items():
        if stock.blocked and started(template, stocks, after):
            assert have(stock) <= stock.waiting


@given(pools(), BOUNDS)
def test_only_surplus_is_discarded_and_never_while_a_claim_waits(stocks: dict[Template, Stock], bound: int) -> None:
    """The oldest, down to the size to keep and no further; what is discarded is not started again."""
    discards = [action.sandbox_id for action in plan(stocks, max_starting=bound) if isinstance(action, Discard)]
    assert len(set(discards)) == len(discards)
    after = applied(stocks, bound)
    for template, stock in stocks.items():
        gone = [one for one in discards if one in stock.warm]
        assert gone == list(stock.warm[: len(gone)])
        if gone:
            assert len(after[template].warm) == desired(stock)
            assert started(template, stocks, after) == 0
    if any(stock.waiting for stock in stocks.values()):
        assert discards == []


@given(st.integers(2, 4), st.integers(1, 3))
def test_with_few_places_everybody_gets_a_turn(count: int, bound: int) -> None:
    """Templates whose claims never stop coming share the places: in any row of starts, all get the same, give or take
    one. (The caller counts the turns.)"""
    stocks = {template: Stock(waiting=50) for template in TEMPLATES[:count]}
    served = dict.fromkeys(stocks, 0)
    turn = 0
    for _ in range(12 * count):
        for action in plan(stocks, max_starting=bound):
            assert isinstance(action, Start)
            turn += 1
            served[action.template] += 1
            stock = stocks[action.template]
            stocks[action.template] = replace(stock, starting=stock.starting + 1, turn=turn)
        # The longest-running start ends and serves a claim, and another claim comes.
        oldest = min((one for one in stocks if stocks[one].starting), key=lambda one: stocks[one].turn)
        stocks[oldest] = replace(stocks[oldest], starting=stocks[oldest].starting - 1)
    assert max(served.values()) - min(served.values()) <= 1
