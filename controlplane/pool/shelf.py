"""The containers of one template: those that are warm, those that are being started, and the claims that wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

import msgspec

from controlplane.pool.plan import Stock, Template

DEMAND_WINDOW_S = 10.0
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0
# A start takes both cores of a small machine for a moment, which should not be that of the first requests after a
# claim. A claim without a warm container does not wait for this.
REFILL_DELAY_S = 0.3


class Warm(msgspec.Struct, frozen=True):
    """A container with a link, not yet claimed."""

    sandbox_id: str
    container_id: str
    template: Template


class Shelf:
    """The pool's containers of one template. None is warm while a claim waits."""

    def __init__(self, target: int, *, is_configured: bool = False) -> None:
        self.target = target
        self.is_configured = is_configured  # also with a target of 0
        self.hits = self.misses = 0  # claims that found a warm container, and the others
        self.warm: deque[Warm] = deque()
        self.starting = 0
        self.adopting: dict[str, Warm] = {}
        self.waiters: deque[asyncio.Future[Warm]] = deque()
        self.claims: deque[float] = deque()
        self.turn = 0
        self.failures_in_a_row = 0
        self.trouble = ""  # the reason of the last failed start, for clients
        self.retry_at = 0.0
        self.refill_at = 0.0
        self.edition = 0  # counts the images that the template's name has stood for

    def claimed(self, now: float) -> None:
        """Note a claim, and delay the refill. Further claims soon afterwards do not delay it more."""
        self.claims.append(now)
        if now >= self.refill_at:
            self.refill_at = now + REFILL_DELAY_S

    def succeeded(self) -> None:
        """Note a start that succeeded."""
        self.failures_in_a_row, self.retry_at = 0, 0.0

    def failed(self, now: float, trouble: str) -> bool:
        """Note a failed start, with the reason for clients; return whether it is the first one of its kind.

        Starts that ran side by side fail for one reason. They count once, and only the first delays the next start.
        """
        self.trouble = trouble
        if now < self.retry_at:
            return False
        self.failures_in_a_row += 1
        self.retry_at = now + min(FIRST_RETRY_S * 2 ** (self.failures_in_a_row - 1), LAST_RETRY_S)
        return True

    @property
    def why_empty(self) -> str:
        """Why no container is warm; "" if one is, or starts do not fail."""
        return self.trouble if self.target and not self.warm and self.failures_in_a_row else ""

    @property
    def not_before(self) -> float:
        """The time from which the shelf may be refilled."""
        return max(self.retry_at, self.refill_at)

    def changes_after(self, now: float) -> Iterator[float]:
        """Yield the moments from which the stock is another one although nothing happens."""
        if self.not_before > now:
            yield self.not_before
        if self.claims:
            yield self.claims[0] + DEMAND_WINDOW_S

    def stock(self, now: float) -> Stock:
        """Return what `plan` needs to know, without the claims that are too long ago to count."""
        while self.claims and self.claims[0] <= now - DEMAND_WINDOW_S:
            self.claims.popleft()
        return Stock(
            target=self.target,
            warm=tuple(warm.sandbox_id for warm in self.warm),
            starting=self.starting,
            adopting=len(self.adopting),
            waiting=len(self.waiters),
            recent=len(self.claims),
            blocked=now < self.not_before,
            turn=self.turn,
        )

    @property
    def is_empty(self) -> bool:
        """Whether the pool may forget the shelf."""
        return not (self.is_configured or self.target or self.warm or self.starting or self.adopting or self.waiters)
