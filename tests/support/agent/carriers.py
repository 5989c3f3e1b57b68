"""Carriers without a socket, and two endpoints joined by them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from execd.wire.aio import Endpoint, Stream
from execd.wire.connection import Connection, Role
from execd.wire.messages import Request
from tests.support.agent.wire_pair import HELLO

Pipe = asyncio.Queue[bytes | str | None]


class MemoryCarrier:
    """One end of a pipe of messages that holds a few, as a socket does. `None` is the end."""

    def __init__(
        self, incoming: asyncio.Queue[bytes | str | None], outgoing: asyncio.Queue[bytes | str | None]
    ) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes | str]:
        while (chunk := await self._incoming.get()) is not None:
            yield chunk

    async def send(self, message: bytes | str) -> None:
        """Wait for room, as a socket does."""
        if self.closed:
            raise ConnectionResetError("closed")
        await self._outgoing.put(message)

    async def close(self) -> None:
        """Both ends read the end after what is in the pipe. Needs room in it."""
        if not self.closed:
            self.closed = True
            await self._outgoing.put(None)
            await self._incoming.put(None)


def carrier_pair(room: int = 4) -> tuple[MemoryCarrier, MemoryCarrier]:
    """Two ends of one pipe each way, with room for so many messages."""
    there: Pipe = asyncio.Queue(room)
    back: Pipe = asyncio.Queue(room)
    return MemoryCarrier(back, there), MemoryCarrier(there, back)


class StuckCarrier:
    """A peer that reads nothing and says only what `say` is given."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.taken: list[bytes] = []  # what the endpoint wants to send
        self.unstuck = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes | str]:
        while (chunk := await self.said.get()) is not None:
            yield chunk

    async def send(self, message: bytes) -> None:
        """Take a message and hold the sender."""
        self.taken.append(message)
        await self.unstuck.wait()

    async def close(self) -> None:
        """End the reader."""
        self.said.put_nowait(None)


class Joined:
    """A control plane's endpoint and execd's, joined; execd's new streams are in `opened`."""

    def __init__(self) -> None:
        self.near, self.far = carrier_pair()
        self.opened: asyncio.Queue[tuple[Stream, Request]] = asyncio.Queue()
        self.control_plane = Endpoint(Connection(Role.CONTROL_PLANE, HELLO))
        self.agent = Endpoint(Connection(Role.AGENT, HELLO), lambda *pair: self.opened.put_nowait(pair))

    async def open(self, request: Request) -> tuple[Stream, Stream]:
        """Open a stream; return the control plane's end of it and execd's."""
        ours = await self.control_plane.open(request)
        theirs, _ = await self.opened.get()
        return ours, theirs

    async def lose(self) -> None:
        """Cut the link."""
        await self.near.close()


async def _run(endpoint: Endpoint, carrier: MemoryCarrier) -> None:
    with contextlib.suppress(ConnectionResetError):  # a writer may meet the end before the reader does
        await endpoint.run(carrier)


@contextlib.asynccontextmanager
async def joined() -> AsyncIterator[Joined]:
    """Run both endpoints; at the end, cut the link and wait for them."""
    pair = Joined()
    async with asyncio.TaskGroup() as group:
        group.create_task(_run(pair.control_plane, pair.near))
        group.create_task(_run(pair.agent, pair.far))
        await pair.control_plane.wait_hello()
        await pair.agent.wait_hello()
        yield pair
        await pair.lose()


async def until_idle() -> None:
    """Let everything that can run do so: nothing here waits for a clock or a socket."""
    for _ in range(200):
        await asyncio.sleep(0)
