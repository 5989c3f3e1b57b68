"""Lists, in pages: `page`, `pageSize` and `state` of a query."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TypeVar

from starlette.requests import Request

from controlplane.api.schema import Pagination, integer
from controlplane.errors import InvalidRequest

DEFAULT_PAGE_SIZE = 20
MAX_PAGE_SIZE = 200

E = TypeVar("E", bound=enum.Enum)
T = TypeVar("T")


def paginate(request: Request, items: Sequence[T]) -> tuple[Sequence[T], Pagination]:
    """Return the page that the query asks for, and what is said of it. Raises InvalidRequest."""
    page = integer(request, "page", least=1, code="request.invalid") or 1
    size = integer(request, "pageSize", least=1, most=MAX_PAGE_SIZE, code="request.invalid") or DEFAULT_PAGE_SIZE
    start = (page - 1) * size
    pages = -(-len(items) // size)
    return items[start : start + size], Pagination(page, size, len(items), pages, page < pages)


def chosen_states(request: Request, kind: type[E]) -> set[E]:
    """Return the states that the query names, any number of them. Raises InvalidRequest."""
    return {_state(text, kind) for text in request.query_params.getlist("state")}


def _state(text: str, kind: type[E]) -> E:
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(str(state.value) for state in kind)
        raise InvalidRequest(f"state: {text[:64]!r} is none of {known}") from None
