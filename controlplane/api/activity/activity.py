"""The endpoint: a range of the activity as JSON, or the activity as it comes, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from controlplane.activity.activities import Activities, Watcher
from controlplane.api.activity.entries import AnyEntry
from controlplane.api.edge.parameters import flag, integer, sandbox_id_of, whole_number
from controlplane.api.edge.responses import Sink, StreamResponse
from controlplane.errors import Conflict, InvalidRequest
from controlplane.sandbox import State, how_it_ended
from execd.wire.messages import MAX_NUMBER, ActivityRange

if TYPE_CHECKING:
    from controlplane.lifecycle.sandboxes import Sandboxes

EVENTS = "text/event-stream"
MAX_LIMIT = 10_000  # entries of one answer
MAX_PAGE_BYTES = 8 << 20  # of one answer; its reader goes on with the next one
PING_INTERVAL_S = 15.0
_PING = b": ping\n\n"


class ActivityView(msgspec.Struct, frozen=True):
    """A range of an activity. `first` and `last` are the numbers of what is kept now; `first > last`: nothing is."""

    keep: str
    first: int
    last: int
    entries: Annotated[tuple[AnyEntry, ...], msgspec.Meta(max_length=MAX_LIMIT)]


class ActivityReading:
    """The endpoint."""

    def __init__(self, activities: Activities, sandboxes: Sandboxes) -> None:
        self._activities = activities
        self._sandboxes = sandboxes

    async def read(self, request: Request) -> ASGIApp:
        """Return what was done in the sandbox, after number `after`; reading it is no use of the sandbox.

        With `Accept: text/event-stream` the answer is a stream of entries: those that are kept, then each that comes,
        or only the former with `follow=false`. `Last-Event-ID` has precedence over `after`. A client that does not read
        gets the entry `skipped` for what it has missed.
        """
        sandbox_id = sandbox_id_of(request)
        after = integer(request, "after", most=MAX_NUMBER) or 0
        limit = integer(request, "limit", least=1, most=MAX_LIMIT) or MAX_LIMIT
        if EVENTS in request.headers.get("accept", ""):
            follow = "follow" not in request.query_params or flag(request, "follow")
            return await self._watch(sandbox_id, _last_event(request, after), follow=follow)
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox.state is not State.RUNNING:
            text = f"sandbox {sandbox_id} is {sandbox.state.value}, not Running{how_it_ended(sandbox)}"
            raise Conflict(text, code="sandbox.not_running")
        return await self._range(sandbox_id, after, limit)

    async def _range(self, sandbox_id: str, after: int, limit: int) -> StreamResponse:
        watcher = await self._activities.watch(sandbox_id, after, follow=False)
        try:
            kept = await watcher.kept()
        except BaseException:
            watcher.close()
            raise
        headers = ((b"content-type", b"application/json"),)
        return StreamResponse(partial(_write, pieces(watcher, kept, limit)), close=watcher.close, headers=headers)

    async def _watch(self, sandbox_id: str, after: int, *, follow: bool) -> StreamResponse:
        watcher = await self._activities.watch(sandbox_id, after, follow=follow)
        headers = ((b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache"))
        return StreamResponse(partial(_tell, watcher), close=watcher.close, headers=headers)


async def pieces(watcher: Watcher, kept: ActivityRange, limit: int) -> AsyncIterator[bytes]:
    """Yield an ActivityView as JSON, no faster than it is taken: at most *limit* entries, none after MAX_PAGE_BYTES.

    Raises:
        LinkLost, AgentError: it cannot be read any further.
    """
    head = msgspec.json.encode(ActivityView(kept.keep, kept.first, kept.last, ()))
    yield head.removesuffix(b"]}")
    count = size = 0
    while count < limit and size < MAX_PAGE_BYTES and (batch := await watcher.next()):
        some = batch[: limit - count]
        yield b"," * bool(count) + b",".join([entry.json for entry in some])
        count += len(some)
        size += sum(entry.size for entry in some)
    yield b"]}"


async def _write(text: AsyncIterator[bytes], sink: Sink) -> None:
    async for piece in text:
        await sink.write(piece)
    await sink.finish()


async def _tell(watcher: Watcher, sink: Sink) -> None:
    while True:
        try:
            async with asyncio.timeout(PING_INTERVAL_S):
                batch = await watcher.next()
        except TimeoutError:
            await sink.write(_PING)
            continue
        if not batch:
            await sink.finish()
            return
        await sink.write(b"".join([entry.sse for entry in batch]))


def _last_event(request: Request, after: int) -> int:
    text = request.headers.get("last-event-id", "")
    if not text:
        return after
    if (number := whole_number(text)) is None:
        raise InvalidRequest("Last-Event-ID: must be the number of an entry", code="request.query")
    return number
