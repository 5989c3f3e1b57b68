"""From a request to the handler that serves it: one task a stream, and one place where errors become resets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from execd.errors import ExecdError
from execd.wire.aio import BROKEN, Stream
from execd.wire.messages import Request

log = logging.getLogger("execd")

# A handler serves one stream: it may read and write it, and returns when it has said all. Its task is cancelled when
# the control plane resets the stream or the link is lost; what must live on (background processes, contexts) belongs
# to a table, not to a handler.
Handler = Callable[[Stream, Any], Awaitable[None]]


class Dispatcher:
    """Runs handlers. The handler table is put together in `main.py`."""

    def __init__(self, handlers: Mapping[type[Request], Handler]) -> None:
        self._handlers = handlers
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, stream: Stream, request: Request) -> None:
        """Start the handler of a stream that has just been opened."""
        task = asyncio.get_running_loop().create_task(self._serve(stream, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        stream.on_broken(task.cancel)

    async def _serve(self, stream: Stream, request: Request) -> None:
        handler = self._handlers.get(type(request))
        if handler is None:
            stream.reset("request.unsupported", f"this execd does not know {type(request).__name__}")
            return
        try:
            await handler(stream, request)
            stream.end()
        except ExecdError as error:
            stream.reset(error.code, error.message)
        except BROKEN:
            pass  # the stream or the link is over: nobody is listening
        except Exception as error:
            log.exception("request failed")
            stream.reset("internal", f"{type(error).__name__}: {error}")
