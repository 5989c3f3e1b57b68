"""What the machine and the settings let sandboxes ask for: each of them, and all of them together."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn

import msgspec
import structlog

from controlplane.access.scopes import OPERATOR, Caller
from controlplane.errors import Field, InvalidRequest, KeyQuotaExceeded, QuotaExceeded
from controlplane.runtime.driver import EngineInfo
from controlplane.sandbox import UNLIMITED_BYTES, Limits
from controlplane.settings.sections import SandboxSettings

log = structlog.get_logger()

RATE_WINDOW_S = 60.0  # of creates a minute
# Used if the time of the next free room is unknown: a client may delete a sandbox at any moment.
RETRY_GUESS_S = 10
MAX_RETRY_S = 60  # official clients wait no longer than this


class Held(msgspec.Struct, frozen=True, eq=False):
    """The share of one sandbox in its owner's room, and in the room of all."""

    owner: str
    limits: Limits
    created_at: float  # Unix time, s
    expires_at: float | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What some sandboxes take together: their number, the sums of their limits, and what they have written."""

    sandboxes: int = 0
    cpus: float = 0.0
    memory_bytes: int = 0
    disk_bytes: int = 0


class Most(msgspec.Struct, frozen=True, kw_only=True):
    """The most that some sandboxes may take together."""

    sandboxes: float = math.inf
    cpus: float = math.inf
    memory_bytes: float = math.inf

    def exceeded(self, all_limits: Sequence[Limits]) -> str:
        """Return the name of a bound that sandboxes with these limits exceed together; "" if they exceed none."""
        if len(all_limits) > self.sandboxes:
            return "sandboxes"
        if round(sum(each.cpus for each in all_limits), 6) > self.cpus:  # sums of tenths are no tenths
            return "cpus"
        return "memory" if sum(each.memory_bytes for each in all_limits) > self.memory_bytes else ""


class Capacity:
    """The bounds on requested resources: of all owners together, and of the owner of each key.

    Args:
        settings: The maxima of `[sandbox]`.
        present: Return what all sandboxes hold that have not ended, without those that `reserve` holds.
        clock: Unix time, s.
    """

    def __init__(
        self, settings: SandboxSettings, present: Callable[[], Iterable[Held]], clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._present = present
        self._clock = clock
        self._reserved: list[Held] = []
        self._released = asyncio.Event()
        self._creates: dict[str, deque[float]] = {}  # when, by owner; of owners whose keys bound that
        self._machine = Limits(cpus=0, memory_bytes=0)  # until `learn`: unknown, so no bound
        # What the sandboxes of an owner took on the disk when they were last measured, in bytes.
        self.disk_taken: Callable[[str], int] = lambda _: 0

    def learn(self, engine: EngineInfo) -> None:
        """Take over the size of the engine's machine. A default that is larger than the machine is logged."""
        self._machine = Limits(cpus=engine.cpus, memory_bytes=engine.memory_bytes)
        defaults = self._settings.limits
        if defaults.cpus > engine.cpus:
            log.warning("config.more_than_machine", setting="[sandbox] cpu_quota", cpus=engine.cpus)
        if defaults.memory_bytes > engine.memory_bytes:
            log.warning("config.more_than_machine", setting="[sandbox] memory_limit", memory=engine.memory_bytes)

    @property
    def most(self) -> Limits:
        """The most that one sandbox may ask for; 0 where there is no bound.

        A default of the operator's may be asked for, even if the machine is smaller.
        """
        defaults = self._settings.limits
        return Limits(
            cpus=self._settings.max_cpus or max(self._machine.cpus, defaults.cpus),
            memory_bytes=self._settings.max_memory * 1024 or max(self._machine.memory_bytes, defaults.memory_bytes),
        )

    def check(self, limits: Limits) -> None:
        """Refuse what no sandbox may have.

        Raises:
            InvalidRequest: the message names the bound.
        """
        most = self.most
        if most.cpus and limits.cpus > most.cpus:
            raise InvalidRequest(
                f"a sandbox may have at most {most.cpus:g} CPUs on this server "
                f"({self._source('max_cpus')}), not {limits.cpus:g}",
                field=Field.CPUS,
            )
        if most.memory_bytes and limits.memory_bytes > most.memory_bytes:
            raise InvalidRequest(
                f"a sandbox may have at most {most.memory_bytes >> 20}Mi on this server "
                f"({self._source('max_memory')}), not {limits.memory_bytes >> 20}Mi",
                field=Field.MEMORY,
            )

    @contextlib.contextmanager
    def reserve(self, limits: Limits, by: Caller = OPERATOR) -> Iterator[None]:
        """Hold room for one more sandbox of a caller while it is created.

        Raises:
            QuotaExceeded: there are as many as there may be, or their limits would add up to too much.
            KeyQuotaExceeded: the same of the caller's own; the error says when to try again.
        """
        held = Held(by.owner, limits, self._clock())
        everybody = [held, *self._reserved, *self._present()]
        self._check_room([each.limits for each in everybody])
        self._check_quotas([each for each in everybody if each.owner == by.owner], by)
        creates = self._count_create(held, by, everybody)
        self._reserved.append(held)
        try:
            yield
        except BaseException:
            if creates is not None and held.created_at in creates:
                creates.remove(held.created_at)
            raise
        finally:
            self._reserved.remove(held)
            self._released.set()
            self._released = asyncio.Event()

    async def wait_created(self, owner: str) -> None:
        """Return when no sandbox of an owner is being created any more."""
        while any(held.owner == owner for held in self._reserved):
            await self._released.wait()

    def usages(self) -> dict[str, Usage]:
        """Return what the sandboxes of each owner take now, those that are being created included."""
        by_owner: dict[str, list[Limits]] = {}
        for each in (*self._reserved, *self._present()):
            by_owner.setdefault(each.owner, []).append(each.limits)
        return {
            owner: Usage(
                sandboxes=len(all_limits),
                cpus=sum(limits.cpus for limits in all_limits),
                memory_bytes=sum(limits.memory_bytes for limits in all_limits),
                disk_bytes=self.disk_taken(owner),
            )
            for owner, all_limits in by_owner.items()
        }

    def _check_room(self, all_limits: Sequence[Limits]) -> None:
        settings = self._settings
        cpus = self._machine.cpus * settings.cpu_overcommit
        memory = int(self._machine.memory_bytes * settings.memory_overcommit)
        most = Most(
            sandboxes=settings.max_sandboxes or math.inf, cpus=cpus or math.inf, memory_bytes=memory or math.inf
        )
        match most.exceeded(all_limits):
            case "sandboxes":
                raise QuotaExceeded(
                    f"there are {settings.max_sandboxes} sandboxes, as many as this server allows "
                    "([sandbox] max_sandboxes); end one, or try again later"
                )
            case "cpus":
                raise QuotaExceeded(
                    f"the limits of all sandboxes would add up to more than {cpus:g} CPUs "
                    "([sandbox] cpu_overcommit); end one, or ask for less"
                )
            case "memory":
                raise QuotaExceeded(
                    f"the limits of all sandboxes would add up to more than {memory >> 20}Mi of memory "
                    "([sandbox] memory_overcommit); end one, or ask for less"
                )

    def _check_quotas(self, mine: Sequence[Held], by: Caller) -> None:
        quotas = by.quotas
        most = Most(
            sandboxes=math.inf if quotas.sandboxes is None else quotas.sandboxes,
            cpus=math.inf if quotas.cpus is None else quotas.cpus,
            memory_bytes=math.inf if quotas.memory_bytes is None else quotas.memory_bytes,
        )
        match most.exceeded([self._as_taken(each.limits) for each in mine]):
            case "sandboxes":
                self._refuse(by, mine, f"as many sandboxes as it may have at once: {quotas.sandboxes}")
            case "cpus":
                self._refuse(by, mine, f"sandboxes whose limits would add up to more than {quotas.cpus:g} CPUs")
            case "memory":
                mebibytes = (quotas.memory_bytes or 0) >> 20
                self._refuse(by, mine, f"sandboxes whose limits would add up to more than {mebibytes}Mi of memory")

        if quotas.disk_bytes is not None and self.disk_taken(by.owner) >= quotas.disk_bytes:
            size = f"{quotas.disk_bytes / 2**30:.3g} GiB"
            self._refuse(by, mine, f"sandboxes that have written as much as its quota of disk, {size}")

    def _as_taken(self, limits: Limits) -> Limits:
        """Return limits as a quota counts them: a sandbox without a limit may take the whole machine."""
        return Limits(
            cpus=limits.cpus or self._machine.cpus or math.inf,
            memory_bytes=limits.memory_bytes or self._machine.memory_bytes or UNLIMITED_BYTES,
        )

    def _refuse(self, by: Caller, mine: Sequence[Held], has: str) -> NoReturn:
        ends = [each.expires_at - self._clock() for each in mine if each.expires_at is not None]
        soonest = min(ends, default=math.inf)
        wait_s = max(1, math.ceil(soonest)) if soonest <= MAX_RETRY_S else RETRY_GUESS_S
        raise KeyQuotaExceeded(
            f"the key {by.name} has {has}; end one, or ask the administrator for a larger quota", retry_after_s=wait_s
        )

    def _count_create(self, held: Held, by: Caller, everybody: Sequence[Held]) -> deque[float] | None:
        """Count a create against the rate of its key, and return where; None where there is no such bound."""
        if (most := by.quotas.creates_per_minute) is None:
            self._creates.pop(by.owner, None)
            return None
        begin = held.created_at - RATE_WINDOW_S
        if (creates := self._creates.get(by.owner)) is None:
            # First since the start: the records know what was created before, as far as it is still there.
            before = sorted(each.created_at for each in everybody if each.owner == by.owner and each is not held)
            creates = self._creates[by.owner] = deque(before)
        while creates and not begin < creates[0] <= held.created_at:  # over, or the clock was set back
            creates.popleft()
        if len(creates) >= most:
            wait_s = math.ceil(creates[len(creates) - most] - begin) if most else MAX_RETRY_S
            raise KeyQuotaExceeded(
                f"the key {by.name} may create {most} sandboxes a minute; try again in {wait_s} s",
                retry_after_s=max(1, wait_s),
            )
        creates.append(held.created_at)
        return creates

    def _source(self, key: str) -> str:
        return f"[sandbox] {key}" if getattr(self._settings, key) else f"the machine's size; [sandbox] {key} may set it"
