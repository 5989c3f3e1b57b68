"""The live links of all sandboxes, and the tasks that wait for one."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import msgspec

from controlplane.errors import LinkLost, SandlotError
from controlplane.link.link import Link


class DirectoryStatistics(msgspec.Struct, frozen=True):
    """The totals over all links at a moment."""

    links: int
    streams: int
    bytes_in: int
    bytes_out: int


class Arrival:
    """A wait for a sandbox's link that begins with the `with` block: `wait()` misses no link of that time."""

    def __init__(self, directory: Directory, sandbox_id: str) -> None:
        self._directory = directory
        self._sandbox_id = sandbox_id
        self._link: asyncio.Future[Link]

    def __enter__(self) -> Self:
        self._link = self._directory._expect(self._sandbox_id)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._directory._withdraw(self._sandbox_id, self._link)

    async def wait(self, *, timeout_s: float) -> Link:
        """Return the link. Cancellation is safe. Raises what `Directory.wait` raises."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._link
        except TimeoutError:
            raise LinkLost(
                f"the agent of sandbox {self._sandbox_id} has not connected within {timeout_s:g} s"
            ) from None


class Directory:
    """The live links by sandbox id. `accept.py` adds them, and `relay.py` looks them up."""

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}
        self._waiters: dict[str, list[asyncio.Future[Link]]] = {}
        self._bytes_in = 0  # of closed links
        self._bytes_out = 0

    def put(self, link: Link) -> None:
        """Add a link that is ready: execd has said hello."""
        self._links[link.sandbox_id] = link
        for waiter in self._waiters.pop(link.sandbox_id, []):
            if not waiter.done():
                waiter.set_result(link)

    def fail(self, sandbox_id: str, error: SandlotError) -> None:
        """Fail every wait for the link of a sandbox with *error*, because no link will come."""
        for waiter in self._waiters.pop(sandbox_id, []):
            if not waiter.done():
                waiter.set_exception(error)

    def remove(self, link: Link) -> None:
        """Remove a closed link. A newer link of the same sandbox stays."""
        if self._links.get(link.sandbox_id) is link:
            del self._links[link.sandbox_id]
        statistics = link.statistics()
        self._bytes_in += statistics.bytes_in
        self._bytes_out += statistics.bytes_out

    def get(self, sandbox_id: str) -> Link | None:
        """Return the live link of a sandbox, or None."""
        return self._links.get(sandbox_id)

    def expect(self, sandbox_id: str) -> Arrival:
        """Return a wait for the link of a sandbox, for a `with` block."""
        return Arrival(self, sandbox_id)

    async def wait(self, sandbox_id: str, *, timeout_s: float) -> Link:
        """Wait for the link of a sandbox, and return it. Cancellation is safe.

        Raises:
            LinkLost: no link came in time.
            SandlotError: the error that `fail()` was called with, for example StartFailed.
        """
        with self.expect(sandbox_id) as arrival:
            return await arrival.wait(timeout_s=timeout_s)

    def statistics(self) -> DirectoryStatistics:
        """Return the totals over all links. The bytes include those of closed links."""
        rows = [link.statistics() for link in self._links.values()]
        return DirectoryStatistics(
            links=len(rows),
            streams=sum(row.streams for row in rows),
            bytes_in=self._bytes_in + sum(row.bytes_in for row in rows),
            bytes_out=self._bytes_out + sum(row.bytes_out for row in rows),
        )

    # -- for Arrival

    def _expect(self, sandbox_id: str) -> asyncio.Future[Link]:
        waiter: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
        if (link := self._links.get(sandbox_id)) is not None:
            waiter.set_result(link)
        else:
            self._waiters.setdefault(sandbox_id, []).append(waiter)
        return waiter

    def _withdraw(self, sandbox_id: str, waiter: asyncio.Future[Link]) -> None:
        waiters = self._waiters.get(sandbox_id, [])
        if waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[sandbox_id]
        if not waiter.cancel() and not waiter.cancelled():
            waiter.exception()  # marks the error as retrieved: perhaps nobody waits for it
