"""The check before every route: whether the caller may do the operation, and whether the sandbox exists for the caller.

The answer for a sandbox of another owner is exactly that for a sandbox that does not exist, and precedes every other
check of the request: no status, no body and no order of checks distinguishes the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.access.scopes import Caller, Needs
from controlplane.api.edge.notes import note
from controlplane.api.edge.operation import Operation, set_operation
from controlplane.api.edge.problems import error_answer
from controlplane.errors import Forbidden, SandlotError
from controlplane.lifecycle.records.registry import no_such_sandbox
from controlplane.lifecycle.snapshots import no_such_snapshot
from controlplane.link.actor import act_for
from controlplane.sandbox import Sandbox, Snapshot

if TYPE_CHECKING:
    from controlplane.lifecycle.sandboxes import Sandboxes
    from controlplane.lifecycle.snapshots import Snapshots

_CALLER = "sandlot.caller"


def set_caller(scope: Scope, caller: Caller) -> None:
    """Write down who asks."""
    scope[_CALLER] = caller


def caller_of(scope: Scope) -> Caller:
    """Return who asks. Raises KeyError for an operation that needs no key."""
    caller: Caller = scope[_CALLER]
    return caller


def find_caller(scope: Scope) -> Caller | None:
    """Return who asks, if that was found out."""
    return scope.get(_CALLER)


class Guard:
    """Checks callers against what an operation needs."""

    def __init__(self, sandboxes: Sandboxes, snapshots: Snapshots) -> None:
        self._sandboxes = sandboxes
        self._snapshots = snapshots

    def check(self, scope: Scope, needs: Needs) -> None:
        """Check a request whose path names what it asks for, if it names anything.

        Raises:
            NotFound: the sandbox or the snapshot does not exist for the caller.
            Forbidden: the caller's scopes are not enough.
        """
        place: dict[str, str] = scope["path_params"]
        if "sandbox_id" in place:
            self.check_sandbox(HTTPConnection(scope), place["sandbox_id"], needs)
        elif "snapshot_id" in place:
            self.check_snapshot(caller_of(scope), place["snapshot_id"], needs)
        elif (caller := find_caller(scope)) is not None:  # none where a setting opens /metrics
            _check_scopes(caller, needs, "")

    def check_sandbox(self, connection: HTTPConnection, sandbox_id: str, needs: Needs) -> Sandbox:
        """Return a sandbox, for a route whose path does not name it.

        Raises:
            NotFound: it does not exist for the caller.
            Forbidden: the caller's scopes are not enough.
        """
        caller = caller_of(connection.scope)
        sandbox = self._sandboxes.get(sandbox_id)
        if not caller.sees(sandbox.owner, sandbox_id):
            raise no_such_sandbox(sandbox_id)
        _check_scopes(caller, needs, sandbox_id)
        return sandbox

    def check_snapshot(self, caller: Caller, snapshot_id: str, needs: Needs) -> Snapshot:
        """Return a snapshot. Raises as `check_sandbox`."""
        snapshot = self._snapshots.get(snapshot_id)
        if not caller.sees(snapshot.owner, snapshot.sandbox_id):
            raise no_such_snapshot(snapshot_id)
        _check_scopes(caller, needs, snapshot.sandbox_id)
        return snapshot


class Guarded:
    """ASGI middleware before one operation: what the caller may not do is refused."""

    def __init__(self, app: ASGIApp, operation: Operation, guard: Guard) -> None:
        self._app = app
        self._operation = operation
        self._guard = guard
        self._is_for_some = operation.needs not in (Needs.NOTHING, Needs.KEY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        set_operation(scope, self._operation)
        note(scope, operation=self._operation.name)
        try:
            if self._is_for_some:
                self._guard.check(scope, self._operation.needs)
            if (caller := find_caller(scope)) is not None:
                act_for(caller.actor)
        except SandlotError as error:
            await error_answer(error, scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _check_scopes(caller: Caller, needs: Needs, sandbox_id: str) -> None:
    if not caller.may(needs, sandbox_id):
        raise Forbidden(f"this needs a key with {needs.value}; the key {caller.name} has another")
