"""Ends sandboxes that take too much of the engine's disk: more than the limit of a sandbox, or the last free space.

Room on the disk is looked at all the time, which costs nothing. Containers are measured, which costs CPU, when that
room has shrunk by something that one of them may have taken.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import msgspec
import structlog

from controlplane.errors import SandlotError
from controlplane.lifecycle.room.disk_quotas import DiskQuotas
from controlplane.runtime.abilities import Ability
from controlplane.runtime.driver import DiskRoom, DiskUsage, Driver

log = structlog.get_logger()

LOOK_S = 0.5
# Without a view of the room (another machine's engine): measure so often.
BLIND_S = 30.0
# One sandbox may free as much as another takes: measure so often if nothing shrinks, and the longer a walk took, the
# less often, so that walks take no more than a twentieth of one CPU.
QUIET_S = 60.0
QUIET_SHARE = 20
# Measure again when the room has shrunk by this part of what one sandbox may have, or of what is left.
STEPS = 8
LEAST_STEP_BYTES, LEAST_STEP_FILES = 64 << 20, 10_000
# The time between measurements while room is short, after an end or a search in vain.
ENDING_S, SHORT_S = 2.0, 10.0
RETRY_S = 5.0
# A sandbox that takes less than this is not ended when room is short, because its end would not help.
LEAST_WORTH_BYTES, LEAST_WORTH_FILES = 256 << 20, 25_000


class DiskLimits(msgspec.Struct, frozen=True):
    """What a sandbox may take, and what must be left. 0: no bound."""

    sandbox_bytes: int
    sandbox_files: int
    least_free_bytes: int
    least_free_files: int

    @property
    def any(self) -> bool:
        """Whether there is anything to watch."""
        return any(msgspec.structs.astuple(self))


class _Taken(msgspec.Struct, frozen=True):
    """What a sandbox takes: its own files, and how much its named volumes have grown since the first measurement."""

    bytes: int
    files: int


_NOTHING = _Taken(0, 0)


class DiskWatch:
    """Measures the use of the disk, and ends sandboxes beyond a limit.

    Args:
        end: Ends a sandbox, with the sentence that says why. May be called again for one that is ending.
        quotas: What the sandboxes of each owner may take together.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        driver: Driver,
        limits: DiskLimits,
        end: Callable[[str, str], None],
        quotas: DiskQuotas,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._driver = driver
        self._limits = limits
        self._end = end
        self._quotas = quotas
        self._clock = clock
        self._measured_at = -1e9
        self._walk_s = 0.0
        self._most_room: DiskRoom | None = None  # since the last measurement
        self._named: dict[str, tuple[int, int]] = {}  # when a sandbox was first measured
        self._taken: dict[str, _Taken] = {}  # at the last measurement
        self._ended: set[str] = set()
        self._is_short = False
        self._pause_s = ENDING_S

    async def watch_forever(self) -> None:
        """Look twice a second. Never returns."""
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._is_wanted():
                continue
            try:
                await self.look()
            except SandlotError as error:
                log.warning("disk.not_measured", error=error.message)
                await asyncio.sleep(RETRY_S)
            except Exception:
                # A bug. Without this task, one sandbox could fill the machine.
                log.exception("disk.watch_broken")
                await asyncio.sleep(RETRY_S)

    async def look(self) -> None:
        """Measure if it is time, and end who takes too much. Raises RuntimeFailure."""
        room = await self._driver.disk_room()
        if self._is_time(room):
            self._most_room = room
            began = self._clock()
            bounds = self._limits.sandbox_bytes or 1 << 62, self._limits.sandbox_files or 1 << 62
            usages = await self._driver.containers.disk_usage(*bounds)
            self._measured_at = self._clock()
            self._walk_s = self._measured_at - began
            self._judge(usages, await self._driver.disk_room())

    def _is_wanted(self) -> bool:
        """Return whether a setting bounds the disk of sandboxes, and the engine can measure it."""
        return (self._limits.any or self._quotas.least_bytes > 0) and Ability.DISK_USAGE in self._driver.abilities.can

    # -- when

    def _is_time(self, room: DiskRoom | None) -> bool:
        since = self._clock() - self._measured_at
        if room is None:
            return since >= BLIND_S
        before, self._most_room = self._most_room, _more(self._most_room, room)
        if self._is_low(room) and (not self._is_short or since >= self._pause_s):
            self._is_short = True
            return True
        if since >= max(QUIET_S, QUIET_SHARE * self._walk_s):
            return True
        return before is not None and self._has_shrunk(before, room)

    def _has_shrunk(self, before: DiskRoom, room: DiskRoom) -> bool:
        limits = self._limits
        free = room.free_bytes - limits.least_free_bytes
        most = min(filter(None, (limits.sandbox_bytes, self._quotas.least_bytes)), default=0)
        if before.free_bytes - room.free_bytes >= _step(most, free, LEAST_STEP_BYTES):
            return True
        if before.free_files is None or room.free_files is None:
            return False
        free = room.free_files - limits.least_free_files
        return before.free_files - room.free_files >= _step(limits.sandbox_files, free, LEAST_STEP_FILES)

    def _is_low(self, room: DiskRoom | None) -> bool:
        return room is not None and (self._lacks_bytes(room) or self._lacks_files(room))

    def _lacks_bytes(self, room: DiskRoom) -> bool:
        return room.free_bytes < self._limits.least_free_bytes

    def _lacks_files(self, room: DiskRoom) -> bool:
        return room.free_files is not None and room.free_files < self._limits.least_free_files

    # -- who

    def _judge(self, usages: Iterable[DiskUsage], room: DiskRoom | None) -> None:
        before, self._taken = self._taken, {usage.sandbox_id: self._taken_by(usage) for usage in usages}
        self._named = {sandbox_id: known for sandbox_id, known in self._named.items() if sandbox_id in self._taken}
        self._ended &= set(self._taken)
        for sandbox_id, taken in self._taken.items():
            self._judge_one(sandbox_id, taken)
        self._quotas.learn({one: taken.bytes for one, taken in self._taken.items() if one not in self._ended})
        for sandbox_id, why in self._quotas.exceeded():
            self._end_once(sandbox_id, why)
        self._is_short = self._is_low(room)
        if room is not None and self._is_short:
            self._make_room(room, before)

    def _taken_by(self, usage: DiskUsage) -> _Taken:
        first = self._named.setdefault(usage.sandbox_id, (usage.named_bytes, usage.named_files))
        return _Taken(
            usage.own_bytes + max(0, usage.named_bytes - first[0]),
            usage.own_files + max(0, usage.named_files - first[1]),
        )

    def _judge_one(self, sandbox_id: str, taken: _Taken) -> None:
        limits = self._limits
        if 0 < limits.sandbox_bytes < taken.bytes:
            size = f"{limits.sandbox_bytes / 2**30:.3g} GiB"
            self._end_once(sandbox_id, f"it took more disk than a sandbox may have: {size} ([sandbox] disk_limit)")
        elif 0 < limits.sandbox_files < taken.files:
            count = f"{limits.sandbox_files:,} files"
            self._end_once(sandbox_id, f"it made more files than a sandbox may have: {count} ([sandbox] file_limit)")

    def _make_room(self, room: DiskRoom, before: dict[str, _Taken]) -> None:
        """End the one that takes most of what is short: of those that grow, if there are some."""
        if self._lacks_bytes(room):
            count, least, missing = _bytes, LEAST_WORTH_BYTES, self._limits.least_free_bytes - room.free_bytes
        else:
            count, least, missing = _files, LEAST_WORTH_FILES, self._limits.least_free_files - (room.free_files or 0)
        coming = sum(count(self._taken[one]) for one in self._ended)
        self._pause_s = ENDING_S
        if coming >= missing:
            return  # as soon as those are removed
        living = {one: taken for one, taken in self._taken.items() if one not in self._ended}
        growth = {one: count(taken) - count(before.get(one, _NOTHING)) for one, taken in living.items()}
        sizes = {one: count(taken) for one, taken in living.items()}
        worst = _largest(growth, least) or _largest(sizes, least)
        if worst is None:
            self._pause_s = SHORT_S
            log.error("disk.short", free_bytes=room.free_bytes, free_files=room.free_files, why="no sandbox takes it")
            return
        taken = living[worst]
        self._end_once(
            worst,
            "the server's disk was nearly full, and this sandbox took most of it: "
            f"{taken.bytes / 2**30:.3g} GiB in {max(0, taken.files):,} files",
        )

    def _end_once(self, sandbox_id: str, why: str) -> None:
        if sandbox_id not in self._ended:
            self._ended.add(sandbox_id)
            log.warning("disk.sandbox_ended", sandbox=sandbox_id, reason=why)
            self._end(sandbox_id, why)


def _bytes(taken: _Taken) -> int:
    return taken.bytes


def _files(taken: _Taken) -> int:
    return taken.files


def _largest(amounts: dict[str, int], least: int) -> str | None:
    """Return whose amount is the largest, if it is not less than *least*."""
    worst = max(amounts, key=amounts.__getitem__, default=None)
    return worst if worst is not None and amounts[worst] >= least else None


def _step(limit: int, free: int, least: int) -> int:
    """Return how much the room may shrink before containers are measured."""
    steps = [part // STEPS for part in (limit, free) if part > 0]
    return max(least, min(steps, default=least))


def _more(one: DiskRoom | None, other: DiskRoom) -> DiskRoom:
    """Return the larger room of two."""
    if one is None:
        return other
    has_count = one.free_files is not None and other.free_files is not None
    files = max(one.free_files or 0, other.free_files or 0) if has_count else other.free_files
    return DiskRoom(max(one.free_bytes, other.free_bytes), files)
