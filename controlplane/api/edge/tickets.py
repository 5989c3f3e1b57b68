"""Tickets: for a browser, which can send no header with a WebSocket. Each opens one stream, once.

The stream is that of one sandbox, or the events of the server.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from controlplane.access.scopes import Caller
from controlplane.api.edge.bodies import Wire, json_answer, utc
from controlplane.api.edge.guard import caller_of
from controlplane.api.edge.parameters import sandbox_id_of
from controlplane.sandbox import Sandbox

LIFETIME_S = 30.0
MAX_TICKETS = 100  # of one sandbox, or of one key for the events
_EVENTS = "events of "  # before the id of a key, where tickets of a sandbox have the id of the sandbox


class TicketView(Wire, frozen=True):
    """A ticket, which a client sends as `?ticket=` to open the stream."""

    ticket: str
    expires_at: datetime


class Tickets:
    """The unused tickets, in memory."""

    def __init__(self, find: Callable[[str], Sandbox], clock: Callable[[], float] = time.time) -> None:
        self._find = find
        self._clock = clock
        # ticket → sandbox, expiry and caller; the oldest first
        self._open: dict[str, tuple[str, float, Caller]] = {}
        self._of: dict[str, deque[str]] = {}  # sandbox → its tickets, oldest first

    async def issue(self, request: Request) -> Response:
        """Create a ticket, which opens the native stream of a sandbox once, without a key."""
        sandbox = self._find(sandbox_id_of(request))
        ticket, expires = self.make(sandbox.id, caller_of(request.scope))
        return json_answer(TicketView(ticket, utc(expires)), 201, {"Cache-Control": "no-store"})

    def make(self, sandbox_id: str, issuer: Caller) -> tuple[str, float]:
        """Return a ticket for a sandbox, and when it expires (Unix time). *issuer* is who asks for it.

        A client that requests too many loses its first ones; tickets of other sandboxes stay.
        """
        self._forget_expired()
        mine = self._of.setdefault(sandbox_id, deque())
        if len(mine) >= MAX_TICKETS:
            self._open.pop(mine.popleft(), None)
        ticket, expires = secrets.token_urlsafe(24), self._clock() + LIFETIME_S
        self._open[ticket] = (sandbox_id, expires, issuer)
        mine.append(ticket)
        return ticket, expires

    def make_for_events(self, issuer: Caller) -> tuple[str, float]:
        """Return a ticket for the events of the server, and when it expires (Unix time)."""
        return self.make(_EVENTS + issuer.key_id, issuer)

    def redeem_for_events(self, ticket: str) -> Caller | None:
        """Return who asked for this ticket if it opens the events; afterwards it opens none."""
        place = self._open[ticket][0] if ticket in self._open else ""
        return self.redeem(place, ticket) if place.startswith(_EVENTS) else None

    def _forget_expired(self) -> None:
        now = self._clock()
        while self._open:
            ticket, (sandbox_id, expires, _) = next(iter(self._open.items()))
            if expires > now:
                return
            self._drop(ticket, sandbox_id)

    def _drop(self, ticket: str, sandbox_id: str) -> None:
        del self._open[ticket]
        mine = self._of[sandbox_id]
        mine.remove(ticket)
        if not mine:
            del self._of[sandbox_id]

    def redeem(self, sandbox_id: str, ticket: str) -> Caller | None:
        """Return who asked for this ticket if it opens a stream of that sandbox; afterwards it opens none."""
        if (found := self._open.get(ticket)) is None:
            return None
        known, expires, issuer = found
        self._drop(ticket, known)
        return issuer if known == sandbox_id and expires > self._clock() else None
