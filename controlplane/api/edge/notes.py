"""What the access log and the audit log tell of a request beyond its method, path and status."""

from __future__ import annotations

from starlette.types import Scope

_KEY = "sandlot.notes"


def open_notes(scope: Scope) -> dict[str, str]:
    """Give a connection its notes and return them. Copies of the scope share them."""
    notes: dict[str, str] = {}
    scope[_KEY] = notes
    return notes


def notes_of(scope: Scope) -> dict[str, str]:
    """Return the notes of a connection so far."""
    notes: dict[str, str] = scope.get(_KEY, {})
    return notes


def note(scope: Scope, **values: str) -> None:
    """Write down values for these logs. Never a secret."""
    scope.get(_KEY, {}).update(values)
