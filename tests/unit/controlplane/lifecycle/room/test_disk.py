"""Who is ended for what it takes of the disk, and when containers are measured at all."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from controlplane.access.key import Quotas
from controlplane.access.keys import Keys
from controlplane.lifecycle.room.disk import BLIND_S, LEAST_STEP_BYTES, QUIET_S, SHORT_S, DiskLimits, DiskWatch
from controlplane.lifecycle.room.disk_quotas import DiskQuotas
from controlplane.runtime.driver import DiskRoom, DiskUsage

GIB = 1 << 30
LIMITS = DiskLimits(sandbox_bytes=10 * GIB, sandbox_files=1_000_000, least_free_bytes=2 * GIB, least_free_files=50_000)
FILLING = pytest.mark.attack(
    "resources",
    "a sandbox fills the disk of the machine, or makes files until there can be no more, in its own file system, in "
    "a volume of its image or in a named volume",
    "it is ended before the machine has no room, with the cause in its status; others go on",
)


class Machine:
    """An engine's disk, as a driver tells of it, and a clock."""

    def __init__(self, limits: DiskLimits = LIMITS) -> None:
        self.now = 1000.0
        self.room: DiskRoom | None = DiskRoom(100 * GIB, 10_000_000)
        self.usages: dict[str, DiskUsage] = {}
        self.measurements = 0
        self.ended: dict[str, str] = {}
        self.keys = Keys({})
        self.owners: dict[str, str] = {}  # of sandboxes with a quota
        self.quotas = DiskQuotas(self.keys.list, lambda sandbox_id: self.owners.get(sandbox_id, ""))
        self.watch = DiskWatch(self, limits, self.end, self.quotas, clock=lambda: self.now)  # type: ignore[arg-type]

    @property
    def containers(self) -> Machine:
        return self

    async def disk_room(self) -> DiskRoom | None:
        return self.room

    async def disk_usage(self, max_bytes: int, max_files: int) -> tuple[DiskUsage, ...]:
        self.measurements += 1
        return tuple(self.usages.values())

    def end(self, sandbox_id: str, why: str) -> None:
        assert sandbox_id not in self.ended
        self.ended[sandbox_id] = why

    def takes(self, sandbox_id: str, size: int = 0, files: int = 1, *, claims: tuple[int, int] = (0, 0)) -> None:
        """Let a sandbox take so much, and the disk have that much less room."""
        before = self.usages.get(sandbox_id, DiskUsage(sandbox_id, 0, 0, 0, 0))
        self.usages[sandbox_id] = after = DiskUsage(sandbox_id, size, files, *claims)
        assert self.room is not None
        grown = after.own_bytes + after.named_bytes - before.own_bytes - before.named_bytes
        made = after.own_files + after.named_files - before.own_files - before.named_files
        self.room = DiskRoom(self.room.free_bytes - grown, (self.room.free_files or 0) - made)

    def removed(self, sandbox_id: str) -> None:
        """Let its container be gone."""
        self.takes(sandbox_id, 0, 0)
        del self.usages[sandbox_id]

    async def look(self, after_s: float = 0.5) -> list[str]:
        """Look once more, after some time; return who was ended."""
        before = set(self.ended)
        self.now += after_s
        await self.watch.look()
        return sorted(set(self.ended) - before)


@FILLING
async def test_who_takes_more_than_one_may_have_is_ended() -> None:
    """Bytes and files; the sentence says what the bound is and where it is set. Without bounds nobody is."""
    machine, free = Machine(), Machine(DiskLimits(0, 0, 0, 0))
    for world in (machine, free):
        world.takes("small", 9 * GIB)
        assert await world.look() == []
        world.takes("large", 11 * GIB)
        world.takes("many", 1 * GIB, 1_000_001)
        await world.look()
    assert set(machine.ended) == {"large", "many"}
    assert machine.ended["large"].endswith("a sandbox may have: 10 GiB ([sandbox] disk_limit)")
    assert machine.ended["many"].endswith("a sandbox may have: 1,000,000 files ([sandbox] file_limit)")
    assert free.ended == {}


@FILLING
async def test_a_named_volume_counts_by_what_it_grows() -> None:
    """Not by what was in it before: that is nobody's in particular."""
    machine = Machine()
    machine.room = DiskRoom(500 * GIB, 10_000_000)
    machine.takes("user", 1 * GIB, claims=(50 * GIB, 5))
    machine.takes("reader", 1 * GIB, claims=(50 * GIB, 5))
    assert await machine.look() == []
    machine.takes("user", 1 * GIB, claims=(58 * GIB, 5))
    assert await machine.look() == []
    machine.takes("user", 1 * GIB, claims=(60 * GIB, 5))
    assert await machine.look() == ["user"]


@FILLING
@pytest.mark.parametrize("what", ["bytes", "files"])
async def test_when_room_is_short_the_one_that_grows_most_is_ended(what: str) -> None:
    """Not the one that has been large for long; and as soon as what it took comes back, nobody else."""
    machine = Machine()
    machine.room = DiskRoom(20 * GIB, 1_000_000)
    machine.takes("old", 9 * GIB, 400_000)
    machine.takes("writer", 1 * GIB, 1000)
    assert await machine.look() == []
    if what == "bytes":
        machine.takes("writer", 9 * GIB, 1000)
    else:
        machine.takes("writer", 1 * GIB, 580_000)
    machine.takes("bystander", GIB // 10, 500)
    assert await machine.look() == ["writer"]
    assert "the server's disk was nearly full" in machine.ended["writer"]
    for _ in range(20):
        assert await machine.look() == []  # its container is being removed
    machine.removed("writer")
    for _ in range(20):
        assert await machine.look() == []


async def test_a_second_writer_is_ended_as_well() -> None:
    """When what the first one gives back is not enough."""
    machine = Machine()
    machine.room = DiskRoom(28 * GIB // 10, 10_000_000)
    assert await machine.look() == []
    machine.takes("first", GIB // 2)
    machine.takes("second", 4 * GIB // 10)
    assert await machine.look() == ["first"]
    machine.takes("second", 2 * GIB)
    assert await machine.look(after_s=3) == ["second"]


async def test_who_is_large_goes_when_nobody_grows() -> None:
    """A slow writer, or one of an earlier run of the server."""
    machine = Machine()
    machine.room = DiskRoom(9 * GIB, 10_000_000)
    machine.takes("small", GIB // 100)
    machine.takes("large", 8 * GIB)
    assert await machine.look() == ["large"]


async def test_nobody_is_ended_for_what_others_take() -> None:
    """The disk is full of something else: that is said, and measured now and then."""
    machine = Machine()
    machine.takes("one", GIB // 10)
    assert await machine.look() == []
    machine.room = DiskRoom(GIB, 10_000_000)
    with capture_logs() as logs:
        assert await machine.look() == []
    assert [entry["event"] for entry in logs] == ["disk.short"]
    before = machine.measurements
    for _ in range(round(SHORT_S)):
        assert await machine.look() == []
    assert machine.measurements - before <= 1


async def test_it_measures_when_something_has_been_written() -> None:
    """Nothing is measured while nothing happens, but for a look each minute."""
    machine = Machine()
    await machine.look()
    assert machine.measurements == 1
    for _ in range(round(QUIET_S)):
        await machine.look()
    assert machine.measurements == 1
    machine.takes("one", LEAST_STEP_BYTES)
    await machine.look()
    assert machine.measurements == 1  # a fraction of what it may have
    machine.takes("one", 2 * GIB)
    await machine.look()
    assert machine.measurements == 2
    machine.takes("one", 2 * GIB, 200_000)
    await machine.look()
    assert machine.measurements == 3
    await machine.look(after_s=QUIET_S)
    assert machine.measurements == 4


async def test_room_that_others_free_hides_no_writer() -> None:
    """The most room since the last measurement is what it is compared with."""
    machine = Machine()
    await machine.look()
    assert machine.room is not None
    machine.room = DiskRoom(machine.room.free_bytes + 20 * GIB, machine.room.free_files)
    await machine.look()
    machine.takes("one", 11 * GIB)
    assert await machine.look() == ["one"]


async def test_on_an_engine_elsewhere() -> None:
    """Whose disk nobody sees from here: it is asked now and then."""
    machine = Machine()
    machine.takes("one", 11 * GIB, -1)
    machine.room = None
    assert await machine.look() == ["one"]
    await machine.look()
    assert machine.measurements == 1
    await machine.look(after_s=BLIND_S)
    assert machine.measurements == 2


# -- quotas of keys ----------------------------------------


@pytest.mark.attack(
    "resources",
    "the sandboxes of a key write more than the key's quota of disk, each of them less than a sandbox may have",
    "the largest of them ends, and those of other keys go on",
)
async def test_who_takes_most_for_its_owner_is_ended() -> None:
    """Without the quota nobody is."""
    for quota, ended in ((5 * GIB, ["b"]), (None, [])):
        machine = Machine()
        key, _ = machine.keys.create("bot", ("create",), Quotas(disk_bytes=quota))
        machine.owners = {"a": key.owner, "b": key.owner, "other": "other"}
        machine.takes("a", 1 * GIB)
        machine.takes("other", 9 * GIB)
        assert await machine.look() == []
        machine.takes("b", 4 * GIB + 1)
        await machine.look(QUIET_S)
        assert sorted(machine.ended) == ended
        assert machine.quotas.taken_by(key.owner) == 5 * GIB + 1
        machine.owners.pop("b")  # it has ended
        assert await machine.look(QUIET_S) == []
        assert machine.quotas.taken_by(key.owner) == 1 * GIB


async def test_the_largest_quota_of_an_owner_counts() -> None:
    """Of the keys that make its sandboxes; where one has none, there is none."""
    machine = Machine()
    one, _ = machine.keys.create("one", ("create",), Quotas(disk_bytes=1 * GIB))
    machine.keys.create("reader", ("read",), Quotas(disk_bytes=9 * GIB), owner=one.owner)
    machine.owners = {"a": one.owner}
    machine.takes("a", 2 * GIB)
    two, _ = machine.keys.create("two", ("create",), Quotas(disk_bytes=3 * GIB), owner=one.owner)
    assert await machine.look() == []
    machine.keys.change(two.id, quotas=Quotas())
    machine.takes("a", 4 * GIB)
    assert await machine.look(QUIET_S) == []
    machine.keys.withdraw(two.id)
    assert await machine.look(QUIET_S) == ["a"]
    assert machine.ended["a"].endswith("the key's quota, 1 GiB, and it took most")


async def test_a_small_quota_is_looked_at_sooner() -> None:
    """As soon as the room has shrunk by a part of it, not of what a sandbox may have."""
    machine = Machine()
    machine.takes("a", 0)
    await machine.look()
    machine.takes("a", 128 << 20)
    await machine.look()
    assert machine.measurements == 1
    machine.keys.create("bot", ("create",), Quotas(disk_bytes=1 * GIB))
    await machine.look()
    assert machine.measurements == 2
