"""The dispatcher: one task for each stream, which runs the handler of the request and turns errors into resets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from execd.errors import ExecdError
from execd.wire.aio import BROKEN, Data, Stream
from execd.wire.frames import Channel
from execd.wire.messages import Reply, Request

log = logging.getLogger("execd")


class Replies(Protocol):
    """What a handler sends its replies to: a stream of the link, or a recording. The methods are those of `Stream`."""

    @property
    def is_broken(self) -> bool: ...

    @property
    def is_lost(self) -> bool: ...

    async def receive(self) -> Reply | Data | None: ...

    async def send(self, message: Reply) -> None: ...

    async def write(self, data: bytes | memoryview, channel: Channel) -> None: ...

    def write_nowait(self, data: bytes | memoryview, channel: Channel) -> int: ...

    def end(self) -> None: ...


# A handler serves one stream. It may read and write the stream, and returns when it has sent everything. Its task is
# cancelled when the control plane resets the stream, or when the link is lost. What must outlive the stream (background
# processes, contexts) belongs to a table, not to a handler.
Handler = Callable[[Stream, Any], Awaitable[None]]
# A handler whose replies may also be recorded.
RunHandler = Callable[[Replies, Any], Awaitable[None]]


class CarryOut(Protocol):
    """Carries a request out by its handler, for *actor*, under the name *op*. Raises what the handler raises."""

    def __call__(
        self,
        handler: Callable[[Any, Any], Awaitable[None]],
        stream: Replies,
        request: Request,
        actor: str = "",
        op: str = "",
    ) -> Awaitable[None]: ...


def directly(
    handler: Callable[[Any, Any], Awaitable[None]], stream: Replies, request: Request, actor: str = "", op: str = ""
) -> Awaitable[None]:
    """Carry a request out, and tell nobody."""
    return handler(stream, request)


class Dispatcher:
    """Runs the handlers of `main.py`."""

    def __init__(self, handlers: Mapping[type[Request], Handler], carry_out: CarryOut = directly) -> None:
        """Serve by *handlers*. *carry_out* is told of every request and of what is answered."""
        self._handlers = handlers
        self._carry_out = carry_out
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, stream: Stream, request: Request) -> None:
        """Start the handler of a stream that was just opened."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._serve(stream, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Not before the first step of the handler: what outlives the stream, such as a recorded run, begins in that
        # step.
        loop.call_soon(stream.on_broken, task.cancel)

    async def _serve(self, stream: Stream, request: Request) -> None:
        handler = self._handlers.get(type(request))
        if handler is None:
            stream.reset("request.unsupported", f"this execd does not know the request {type(request).__name__}")
            return
        try:
            await self._carry_out(handler, stream, request, stream.actor)
            stream.end()
        except ExecdError as error:
            stream.reset(error.code, error.message)
        except BROKEN:
            pass  # the stream or the link is over: nobody listens
        except Exception as error:
            log.exception("a request failed")
            stream.reset("internal", f"{type(error).__name__}: {error}")
