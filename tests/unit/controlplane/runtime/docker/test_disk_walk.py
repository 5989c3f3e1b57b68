"""What directories take: counted whatever those who made them do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controlplane.runtime.docker import disk, disk_walk
from controlplane.runtime.docker.disk import room_at, walk
from controlplane.runtime.docker.disk_walk import measure

MANY = 1 << 40


def test_bytes_and_files(tmp_path: Path) -> None:
    """What is on the disk, not what files say they hold; each name is a file, the bytes of one with two count once."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_bytes(os.urandom(100_000))
    (tmp_path / "again").hardlink_to(tmp_path / "inner" / "file")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    found = measure(str(tmp_path), MANY, MANY)
    assert found is not None
    taken, files = found
    assert 100_000 <= taken < 200_000
    assert files == 4


def test_nothing_outside_is_counted(tmp_path: Path) -> None:
    """A symbolic link is a file like others, at the root too."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(bytes(100_000))
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to("../outside")
    found = measure(str(tmp_path / "inside"), MANY, MANY)
    assert found is not None
    assert found[1] == 1
    assert found[0] < 10_000
    assert measure(str(tmp_path / "inside" / "link"), MANY, MANY) is None
    assert measure(str(tmp_path / "missing"), MANY, MANY) is None


def test_a_bound_ends_the_walk(tmp_path: Path) -> None:
    """With what was found until then, which is more than the bound."""
    for number in range(50):
        (tmp_path / str(number)).write_bytes(os.urandom(5000))
    assert measure(str(tmp_path), MANY, 10) == (pytest.approx(11 * 8192, abs=11 * 4096), 11)
    found = measure(str(tmp_path), 100_000, MANY)
    assert found is not None
    assert 100_000 < found[0] < 120_000


def test_depth_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path too long for any system call is walked; one too deep to be walked counts as too many files."""
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path)
        for _ in range(60):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        Path("file").write_bytes(os.urandom(300_000))
    finally:
        os.fchdir(before)
        os.close(before)
    found = measure(str(tmp_path), MANY, MANY)
    assert found is not None
    assert found[1] == 61
    assert found[0] >= 300_000
    monkeypatch.setattr(disk_walk, "MAX_DEPTH", 20)
    found = measure(str(tmp_path), MANY, 1000)
    assert found is not None
    assert found[1] == 1001


async def test_by_a_program_of_its_own(tmp_path: Path) -> None:
    """Those that cannot be read are left out."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "file").write_bytes(os.urandom(5000))
    found = await walk([str(tmp_path / "one"), str(tmp_path / "none")], MANY, MANY)
    assert found == {str(tmp_path / "one"): measure(str(tmp_path / "one"), MANY, MANY)}
    assert await walk([], MANY, MANY) == {}


def commands_of_children() -> list[bytes]:
    """Return the command lines of our processes."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children]


async def test_a_walk_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that hangs holds nobody up, and the program is ended."""
    monkeypatch.setattr(disk, "WALK_TIMEOUT_S", 0.0)
    with pytest.raises(TimeoutError):
        await walk([str(tmp_path)], MANY, MANY)
    assert not [command for command in commands_of_children() if b"diskwalk" in command]


def test_room() -> None:
    """Without what is kept for root; none where there is no such place."""
    room, disk = room_at("/"), os.statvfs("/")
    assert room is not None
    assert 0 < room.free_bytes == pytest.approx(disk.f_bavail * disk.f_frsize, rel=0.1)
    assert room_at("/no/such/place") is None
