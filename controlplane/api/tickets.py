"""Tickets: for a browser, which can send no header with a WebSocket. Each opens one stream of one sandbox, once."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.schema import Wire, json_answer, utc
from controlplane.sandbox import Sandbox

LIFETIME_S = 30.0
MAX_TICKETS = 10_000


class TicketView(Wire, frozen=True):
    """A ticket, to be sent as `?ticket=` when the stream is opened."""

    ticket: str
    expires_at: datetime


class Tickets:
    """Those that are not used up, in memory."""

    def __init__(self, find: Callable[[str], Sandbox], clock: Callable[[], float] = time.time) -> None:
        self._find = find
        self._clock = clock
        self._open: dict[str, tuple[str, float]] = {}  # ticket → sandbox, and when it expires; oldest first

    async def issue(self, request: Request) -> Response:
        """POST /sandboxes/{id}/stream/tickets: 201."""
        ticket, expires = self.make(self._find(request.path_params["sandbox_id"]).id)
        return json_answer(TicketView(ticket, utc(expires)), 201, {"Cache-Control": "no-store"})

    def make(self, sandbox_id: str) -> tuple[str, float]:
        """Return a ticket for a sandbox, and when it expires (Unix time)."""
        now = self._clock()
        for ticket, (_, expires) in list(self._open.items()):
            if expires > now and len(self._open) < MAX_TICKETS:
                break
            del self._open[ticket]
        ticket, expires = secrets.token_urlsafe(24), now + LIFETIME_S
        self._open[ticket] = (sandbox_id, expires)
        return ticket, expires

    def redeem(self, sandbox_id: str, ticket: str) -> bool:
        """Whether this ticket opens a stream of that sandbox; afterwards it opens none."""
        known, expires = self._open.pop(ticket, ("", 0.0))
        return known == sandbox_id and expires > self._clock()
