"""Lists, in pages: what is wanted of all, `page`, `pageSize` and `state` of a query."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from starlette.requests import Request

from controlplane.api.edge.parameters import integer
from controlplane.api.lifecycle.schema import Pagination
from controlplane.errors import InvalidRequest
from controlplane.turns import TURN_ITEMS

DEFAULT_PAGE_SIZE = 20
MAX_PAGE_SIZE = 200

E = TypeVar("E", bound=enum.Enum)
T = TypeVar("T")


async def select(items: Sequence[T], is_wanted: Callable[[T], bool]) -> list[T]:
    """Return the items that are wanted. The event loop serves others after every TURN_ITEMS of them."""
    chosen: list[T] = []
    for start in range(0, len(items), TURN_ITEMS):
        if start:
            await asyncio.sleep(0)
        chosen += filter(is_wanted, items[start : start + TURN_ITEMS])
    return chosen


def paginate(request: Request, items: Sequence[T]) -> tuple[Sequence[T], Pagination]:
    """Return the page that the query asks for, and what is said of it. Raises InvalidRequest."""
    page = integer(request, "page", least=1, code="request.invalid") or 1
    size = integer(request, "pageSize", least=1, most=MAX_PAGE_SIZE, code="request.invalid") or DEFAULT_PAGE_SIZE
    start = (page - 1) * size
    pages = -(-len(items) // size)
    return items[start : start + size], Pagination(page, size, len(items), pages, page < pages)


def chosen_states(request: Request, kind: type[E], foreign: Collection[str] = ()) -> set[E] | None:
    """Return the states that the query names, any number of them; None when it names none.

    *foreign* are states that the contract has and nothing here is ever in: they are accepted and match nothing.

    Raises:
        InvalidRequest: there is no such state.
    """
    texts = request.query_params.getlist("state")
    return {_state(text, kind) for text in texts if text not in foreign} if texts else None


def _state(text: str, kind: type[E]) -> E:
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(str(state.value) for state in kind)
        raise InvalidRequest(f"state: {text[:64]!r} is none of {known}") from None
