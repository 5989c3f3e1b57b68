"""What the pool should do now: a pure function of what it has and what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from controlplane.sandbox import Limits, Volume

# How far demand may raise a target above its configured size: twice as many, so that an idle server does not keep
# what one burst asked for.
MAX_BOOST = 2


class Template(msgspec.Struct, frozen=True):
    """What warm containers have in common: everything that cannot be bound when one is claimed."""

    image: str
    network: bool
    limits: Limits
    runtime: str = ""
    hardened: bool = False
    volumes: tuple[Volume, ...] = ()
    gpus: str = ""
    user_namespaces: bool = False


class Stock(msgspec.Struct, frozen=True):
    """What the pool has of one template, and what is asked of it."""

    target: int = 0  # configured size
    warm: tuple[str, ...] = ()  # sandbox ids, oldest first
    starting: int = 0
    adopting: int = 0  # of an earlier run; their agents should connect within a second, or they are given up
    waiting: int = 0  # claims that found nothing
    recent: int = 0  # claims within the demand window
    blocked: bool = False  # starts failed lately: wait before the next try
    turn: int = 0  # number of its last start; the lower one has waited longer for its turn


class Start(msgspec.Struct, frozen=True):
    """Start one container of a template."""

    template: Template


class Discard(msgspec.Struct, frozen=True):
    """Remove a warm container that is one too many."""

    sandbox_id: str


Action = Start | Discard


def plan(stocks: Mapping[Template, Stock], *, max_starting: int) -> list[Action]:
    """Decide what to start and what to discard.

    Claims that wait come first, taken round the templates, so that one busy template starves no other; then the
    templates are filled up, the emptiest (by share of its target) first. At most *max_starting* containers start at
    once, over all templates. Nothing is discarded while a claim waits: that would only keep the engine busy.
    """
    actions: list[Action] = []
    if not any(stock.waiting for stock in stocks.values()):
        for stock in stocks.values():
            surplus = len(stock.warm) - _desired(stock)
            actions += [Discard(sandbox_id) for sandbox_id in stock.warm[: max(0, surplus)]]
    free = max_starting - sum(stock.starting for stock in stocks.values())
    have = {template: len(stock.warm) + stock.starting for template, stock in stocks.items()}
    while free > 0 and (template := _neediest(stocks, have)) is not None:
        actions.append(Start(template))
        have[template] += 1
        free -= 1
    return actions


def _neediest(stocks: Mapping[Template, Stock], have: Mapping[Template, int]) -> Template | None:
    """Return the template that gets the next start."""
    # What is being adopted may never come: no claim waits for it.
    waiting = [template for template, stock in stocks.items() if have[template] < stock.waiting]
    if waiting:
        return min(waiting, key=lambda template: (have[template], stocks[template].turn))
    spare = {template: have[template] + stock.adopting - stock.waiting for template, stock in stocks.items()}
    unfilled = [
        template for template, stock in stocks.items() if not stock.blocked and spare[template] < _desired(stock)
    ]

    def emptiness(template: Template) -> tuple[float, int]:
        return spare[template] / _desired(stocks[template]), stocks[template].turn

    return min(unfilled, key=emptiness, default=None)


def _desired(stock: Stock) -> int:
    """How many to keep warm: the configured size, and more while claims come faster than that."""
    return max(stock.target, min(stock.recent, stock.target * MAX_BOOST))
