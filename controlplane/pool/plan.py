"""The pool's next steps, as a pure function of its stock and the demand."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from controlplane.sandbox import Limits, Network, Volume

# Demand may raise a target to twice its configured size, so that an idle server does not keep the containers of one
# burst.
MAX_BOOST = 2


class Template(msgspec.Struct, frozen=True):
    """The common properties of warm containers: everything that a claim cannot change."""

    image: str
    network: Network
    limits: Limits
    runtime: str = ""
    hardened: bool = False
    volumes: tuple[Volume, ...] = ()
    gpus: str = ""
    user_namespaces: bool = False


class Stock(msgspec.Struct, frozen=True):
    """The pool's containers of one template, and the demand for them."""

    target: int = 0  # configured size
    warm: tuple[str, ...] = ()  # sandbox ids, oldest first
    starting: int = 0
    adopting: int = 0  # containers of an earlier run, whose agents should connect within a second
    waiting: int = 0  # claims that wait for a container
    recent: int = 0  # claims within the demand window
    blocked: bool = False  # a start failed lately: wait before the next try
    turn: int = 0  # number of its last start; a template with a lower one has waited longer


class Start(msgspec.Struct, frozen=True):
    """Start one container of a template."""

    template: Template


class Discard(msgspec.Struct, frozen=True):
    """Remove a surplus warm container."""

    sandbox_id: str


Action = Start | Discard


def plan(stocks: Mapping[Template, Stock], *, max_starting: int) -> list[Action]:
    """Return the containers to start and to discard.

    Waiting claims come first, in turn for each template, so that one busy template starves no other; then the templates
    are filled, the emptiest (by share of its target) first. At most *max_starting* containers start at once, over all
    templates. Nothing is discarded while a claim waits, because that would keep the engine busy.
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
    # An adoption may fail, so no claim waits for one.
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
    """Return the number of containers to keep warm: the configured size, or more if claims come faster."""
    return max(stock.target, min(stock.recent, stock.target * MAX_BOOST))
