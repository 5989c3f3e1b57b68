"""Changes that have happened, but are not in the store: they are valid, and are written as soon as that is possible.

A sandbox that ends has ended, whether or not the disk is full or another program holds the database. To refuse the end
would keep alive what fills the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from controlplane.errors import StoreError

log = structlog.get_logger()

RETRY_S = 1.0


class LateWrites:
    """Writes to the store that must not fail their callers.

    Memory is ahead of the store while something is late. A process that is killed meanwhile loses the difference; its
    next start finds containers that are gone, and says so in their records.
    """

    def __init__(self) -> None:
        self._late: dict[str, Callable[[], None]] = {}
        self._some = asyncio.Event()

    def write(self, record_id: str, write: Callable[[], None]) -> None:
        """Write the present state of a record, now or later. *write* raises StoreError while it cannot."""
        try:
            write()
        except StoreError as error:
            if record_id not in self._late:
                log.warning("store.late", record=record_id, error=error.message, retry_s=RETRY_S)
            self._late[record_id] = write
            self._some.set()
        else:
            self._late.pop(record_id, None)

    @property
    def count(self) -> int:
        """How many records the store does not have as they are."""
        return len(self._late)

    def is_late(self, record_id: str) -> bool:
        """Return whether the last change of a record is not yet in the store."""
        return record_id in self._late

    def written(self, record_id: str) -> None:
        """Forget the late write of a record that was written in another way."""
        self._late.pop(record_id, None)

    def catch_up(self) -> None:
        """Try to write what is late. The first failure ends the round: the others would meet the same."""
        for record_id, write in list(self._late.items()):
            try:
                write()
            except StoreError:
                return
            del self._late[record_id]
        self._some.clear()

    async def catch_up_forever(self) -> None:
        """Write what is late as soon as the store takes it again. Never returns."""
        while True:
            await self._some.wait()
            await asyncio.sleep(RETRY_S)
            self.catch_up()
            if not self._late:
                log.info("store.caught_up")
