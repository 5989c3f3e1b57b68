"""Moving, within a file system and out of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from execd.errors import ExecdError
from execd.files.move import lstat, make_directory, move
from execd.files.write import Attributes


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="sandlot-"))
    assert folder.stat().st_dev != tmp_path.stat().st_dev, "/dev/shm and the temporary files are on one file system"
    yield folder
    shutil.rmtree(folder)


def finish(steps: Iterator[object]) -> None:
    for _ in steps:
        pass


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def make_tree(root: Path) -> None:
    (root / "d/e").mkdir(parents=True)
    (root / "d/file").write_bytes(os.urandom(3_000_000))
    (root / "d/e/link").symlink_to("../file")
    (root / "d/file").chmod(0o750)
    (root / "d/e").chmod(0o2711)


def test_a_move_makes_parents(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    finish(move(f"{tmp_path}/file", f"{tmp_path}/a/b/moved"))
    assert names(tmp_path) == ["a", "a/b", "a/b/moved"]


def test_a_move_that_fails_takes_the_parents_back(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        finish(move(f"{tmp_path}/nothing", f"{tmp_path}/a/b/moved"))
    assert names(tmp_path) == []


def test_a_tree_moves_to_another_file_system_with_modes_and_symlinks(tmp_path: Path, elsewhere: Path) -> None:
    make_tree(tmp_path)
    content = (tmp_path / "d/file").read_bytes()
    finish(move(f"{tmp_path}/d", f"{elsewhere}/new/place"))
    assert names(tmp_path) == []
    assert names(elsewhere) == ["new", "new/place", "new/place/e", "new/place/e/link", "new/place/file"]
    assert (elsewhere / "new/place/file").read_bytes() == content
    assert (elsewhere / "new/place/file").stat().st_mode & 0o7777 == 0o750
    assert (elsewhere / "new/place/e").stat().st_mode & 0o7777 == 0o2711
    assert os.readlink(elsewhere / "new/place/e/link") == "../file"


@pytest.mark.parametrize("steps_taken", range(1, 8))
def test_a_move_stopped_on_its_way_has_not_begun_or_has_arrived(
    tmp_path: Path, elsewhere: Path, steps_taken: int
) -> None:
    make_tree(tmp_path)
    before = names(tmp_path)
    steps = move(f"{tmp_path}/d", f"{elsewhere}/new/place")
    for _ in range(steps_taken):
        next(steps)
    steps.close()
    if names(elsewhere):
        assert names(elsewhere) == ["new", "new/place", "new/place/e", "new/place/e/link", "new/place/file"]
    else:
        assert names(tmp_path) == before


def test_what_cannot_be_copied_stays_where_it_is(tmp_path: Path, elsewhere: Path) -> None:
    make_tree(tmp_path)
    os.mknod(tmp_path / "d/zero", 0o020600, os.makedev(1, 5))
    before = names(tmp_path)
    with pytest.raises(ExecdError) as caught:
        finish(move(f"{tmp_path}/d", f"{elsewhere}/place"))
    assert caught.value.code == "file.not_regular"
    assert names(tmp_path) == before
    assert names(elsewhere) == []


def test_nothing_at_a_path_is_told_from_no_answer(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    assert lstat(f"{tmp_path}/nothing") is None
    assert lstat(f"{tmp_path}/dangling") is not None
    with pytest.raises(NotADirectoryError):
        lstat("/proc/self/status/below")


def test_a_directory_that_exists_only_gets_its_attributes(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "d/kept").touch()
    make_directory(f"{tmp_path}/d", Attributes())
    assert (tmp_path / "d").stat().st_mode & 0o7777 == 0o700
    make_directory(f"{tmp_path}/d", Attributes(0o1777, 1234, 4321))
    found = (tmp_path / "d").stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o1777, 1234, 4321)
    assert names(tmp_path) == ["d", "d/kept"]


def test_a_directory_is_not_made_over_a_file_or_below_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in ("file", "file/below", "file/below/that"):
        with pytest.raises(NotADirectoryError):
            make_directory(f"{tmp_path}/{path}", Attributes())
    assert names(tmp_path) == ["file"]


def test_a_directory_whose_attributes_cannot_be_set_is_not_made(elsewhere: Path) -> None:
    """Nobody but root may give a directory to root."""
    elsewhere.chmod(0o777)
    os.setresuid(65534, 65534, 0)
    try:
        with pytest.raises(PermissionError):
            make_directory(f"{elsewhere}/a/b", Attributes(uid=0))
        assert names(elsewhere) == []
    finally:
        os.setresuid(0, 0, 0)
