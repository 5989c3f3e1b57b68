"""Who acts: the caller on whose behalf this task sends requests to agents, and whom an activity names.

The edge says it once for each connection. Tasks that a connection starts inherit it.
"""

from __future__ import annotations

from contextvars import ContextVar

_ACTOR: ContextVar[str] = ContextVar("actor", default="")


def act_for(name: str) -> None:
    """Say on whose behalf the present task acts from now on."""
    _ACTOR.set(name)


def actor() -> str:
    """Return on whose behalf the present task acts; "" for the server itself."""
    return _ACTOR.get()
