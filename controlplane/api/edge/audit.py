"""`/audit`, and what is written there: one entry for each operation, when its answer begins. Metrics count the same."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from controlplane.access.audit import MAX_PAGE, MAX_TEXT_CHARS, Audit, Entry, Outcome
from controlplane.access.scopes import Caller
from controlplane.api.edge.bodies import json_answer
from controlplane.api.edge.guard import find_caller
from controlplane.api.edge.notes import notes_of
from controlplane.api.edge.operation import ON_STREAM, WEBSOCKET, Operation
from controlplane.api.edge.parameters import integer
from controlplane.telemetry.metrics import Metrics

DEFAULT_PAGE = 100
# Statuses that say that a caller may not: these are kept whatever was asked.
_DENIED = frozenset({401, 403, 429})
VISIT_S = 60.0  # requests to a port by the same caller in this time are one visit
CONSOLE = "console"  # by which way a person came who has signed in
MAX_VISITS = 10_000  # remembered; the oldest is forgotten for a new one


class AuditLog:
    """Writes entries for the edge; the endpoint that reads them."""

    def __init__(
        self, audit: Audit, clock: Callable[[], float] = time.monotonic, *, metrics: Metrics | None = None
    ) -> None:
        self._audit = audit
        self._metrics = metrics or Metrics()
        self._clock = clock
        self._visits: OrderedDict[tuple[str, ...], float] = OrderedDict()  # when each began, the oldest first

    async def read(self, request: Request) -> Response:
        """Return the entries of the audit log after the id `after`, or the last ones.

        `key` is the id or the name of a key. The oldest entry comes first. An answer reads at most 20,000 entries, so
        with a filter it may be empty although more entries follow: `next` is the `after` of the next request.
        """
        limit = integer(request, "limit", least=1, most=MAX_PAGE, code="request.invalid") or DEFAULT_PAGE
        after = integer(request, "after", code="request.invalid")
        query = request.query_params
        return json_answer(await self._audit.read(after, limit, query.get("key", ""), query.get("sandbox", "")))

    def note(self, scope: Scope, operation: Operation | None, status: int, began: float, *, code: str = "") -> None:
        """Write an entry for a request, and count it.

        *operation* is None if the request has reached none, *status* is 0 if there was no answer, and *began* is a time
        of `time.perf_counter`.
        """
        caller, notes = find_caller(scope), notes_of(scope)
        code = code or notes.get("code", "")
        # A socket's own operation is to open it; any other came on the native stream.
        is_socket = operation is None or operation.method == WEBSOCKET
        method = scope.get("method") or (WEBSOCKET if is_socket else ON_STREAM)
        seconds = time.perf_counter() - began
        self._metrics.answered(operation.name if operation is not None else "", method, status, seconds, code)
        matters = status in _DENIED or (operation is not None and operation.is_change)
        if matters and operation is not None and operation.is_visit and caller is not None:
            matters = self._is_new_visit(scope, caller)
        if not self._audit.keeps(matters=matters):
            return
        client: tuple[str, int] | None = scope.get("client")
        places: dict[str, str] = scope.get("path_params", {})
        targets = (value for name, value in places.items() if name not in ("sandbox_id", "rest"))
        entry = Entry(
            at=self._audit.now(),
            key_id=caller.key_id if caller is not None else "",
            key_name=caller.name if caller is not None else "",
            via=CONSOLE if caller is not None and caller.sign_in else "",
            client=f"{client[0]}:{client[1]}" if client else "",
            request_id=notes.get("request_id", ""),
            operation=operation.name if operation is not None else "",
            sandbox_id=_short(notes.get("sandbox") or places.get("sandbox_id", "")),
            target=_short(notes.get("target") or " ".join(targets)),
            outcome=_outcome(status),
            status=status,
            code=_short(code),
            ms=round(seconds * 1000, 1),
        )
        self._audit.record(entry)

    def _is_new_visit(self, scope: Scope, caller: Caller) -> bool:
        """Return whether a request opens a port. A page makes many, and strangers may visit a signed address."""
        if scope["type"] != "http":
            return True
        places, now = scope["path_params"], self._clock()
        visit = (caller.key_id, caller.name, places["sandbox_id"], places["port"])
        if now - self._visits.get(visit, -VISIT_S) < VISIT_S:
            return False
        self._visits.pop(visit, None)
        self._visits[visit] = now
        if len(self._visits) > MAX_VISITS:
            self._visits.popitem(last=False)
        return True


def _outcome(status: int) -> Outcome:
    if not status:
        return "abandoned"
    return "done" if status < 400 else "refused" if status < 500 else "failed"


def _short(text: str) -> str:
    return text[:MAX_TEXT_CHARS]
