"""A real link inside one event loop: execd's own shell dials a Unix socket where the control plane's Link answers."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Self

from websockets.asyncio.server import Server, ServerConnection, unix_serve

from controlplane.errors import LinkLost
from controlplane.link.link import Link
from controlplane.link.stream import Stream, T
from execd.dispatch import Dispatcher, Handler
from execd.server import serve_forever
from execd.wire.aio import MAX_CHUNK_BYTES
from execd.wire.messages import Request


async def collect(stream: Stream, kind: type[T]) -> list[T]:
    """Return all replies up to the end, each of which must be a *kind*."""
    replies: list[T] = []
    while (reply := await stream.receive()) is not None:
        assert isinstance(reply, kind)
        replies.append(reply)
    return replies


def note(last: object, items: object) -> None:
    """Print what a run gave, and what came last: pytest shows it if the test fails, whatever the test looks at."""
    print(f"a run gave {last!r:.1000} after {items!r:.3000}")  # noqa: T201


class ControlPlaneEnd:
    """Listens where execd dials; each dial is a new link."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._server: Server | None = None
        self._links: asyncio.Queue[Link] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        self._server = await unix_serve(
            self._answer, str(self._socket_path), compression=None, ping_interval=None, max_size=MAX_CHUNK_BYTES
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def next_link(self) -> Link:
        """Return the next link that execd makes, ready for use."""
        async with asyncio.timeout(10):
            while True:
                link = await self._links.get()
                with contextlib.suppress(LinkLost):
                    await link.wait_hello()
                    return link

    async def _answer(self, websocket: ServerConnection) -> None:
        link = Link("0123456789abcdef", websocket)
        self._links.put_nowait(link)
        await link.run()


@contextlib.asynccontextmanager
async def control_plane_of(handlers: Mapping[type[Request], Handler]) -> AsyncIterator[ControlPlaneEnd]:
    """Serve *handlers* by execd's shell in this loop; yield the other end."""
    with tempfile.TemporaryDirectory(prefix="sandlot-") as directory:
        socket_path = Path(directory) / "link.sock"
        async with ControlPlaneEnd(socket_path) as end:
            execd = asyncio.ensure_future(serve_forever(str(socket_path), Dispatcher(handlers)))
            try:
                yield end
            finally:
                execd.cancel()
                await asyncio.wait([execd])
