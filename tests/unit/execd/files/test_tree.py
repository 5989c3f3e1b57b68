"""Trees that change while execd goes through them, and trees made to hurt."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from execd.errors import ExecdError
from execd.files import tree
from execd.files.move import remove_directory
from execd.files.tree import Entry


def build(root: Path) -> None:
    """A small tree: files, directories in directories, a symlink, a FIFO."""
    (root / "a/b/c").mkdir(parents=True)
    (root / "a/one").write_text("1")
    (root / "a/b/two").write_text("22")
    (root / "a/b/c/three").write_text("333")
    (root / "z").mkdir()
    (root / "z/link").symlink_to("../a")
    os.mkfifo(root / "z/pipe")


def finish(steps: Iterator[object]) -> None:
    for _ in steps:
        pass


def remove(path: Path) -> None:
    finish(remove_directory(str(path)))


@pytest.fixture
def precious(tmp_path: Path) -> Iterator[Path]:
    """What must survive whatever is done to other trees."""
    folder = tmp_path / "precious"
    (folder / "b/c").mkdir(parents=True)
    for name in ("one", "b/two", "b/c/three"):
        (folder / name).write_text("precious")
    yield folder
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == [
        "b",
        "b/c",
        "b/c/three",
        "b/two",
        "one",
    ]


# -- walking ----------------------------------------


def walked(root: Path, depth: int | None = None) -> list[str]:
    return [entry.path.removeprefix(f"{root}/") for entry in tree.walk(str(root), depth)]


def test_a_walk_is_in_order_and_does_not_follow_symlinks(tmp_path: Path) -> None:
    build(tmp_path)
    assert walked(tmp_path) == ["a", "a/b", "a/b/c", "a/b/c/three", "a/b/two", "a/one", "z", "z/link", "z/pipe"]
    assert walked(tmp_path, 1) == ["a", "z"]
    assert walked(tmp_path, 2) == ["a", "a/b", "a/one", "z", "z/link", "z/pipe"]


def test_a_walk_of_a_symlink_walks_what_it_leads_to(tmp_path: Path) -> None:
    build(tmp_path)
    assert walked(tmp_path / "z/link", 1) == ["b", "one"]


def test_what_is_not_wanted_is_not_looked_at(tmp_path: Path) -> None:
    build(tmp_path)
    entries = list(tree.walk(str(tmp_path), None, lambda path, is_directory: path.endswith("two") and not is_directory))
    assert [entry.path for entry in entries if entry.found] == [f"{tmp_path}/a/b/two"]


def test_what_vanishes_during_a_walk_is_left_out(tmp_path: Path) -> None:
    build(tmp_path)
    seen: list[str] = []
    for entry in tree.walk(str(tmp_path), None):
        seen.append(entry.path.removeprefix(f"{tmp_path}/"))
        if seen[-1] == "a":
            shutil.rmtree(tmp_path / "a")
    assert seen == ["a", "z", "z/link", "z/pipe"]


def test_a_directory_with_too_many_entries_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "MAX_DIRECTORY_ENTRIES", 10)
    for number in range(10):
        (tmp_path / f"{number}").touch()
    assert len(walked(tmp_path)) == 10
    (tmp_path / "more").touch()
    with pytest.raises(ExecdError, match="more than 10 entries") as caught:
        walked(tmp_path)
    assert caught.value.code == "request.invalid"


def test_a_closed_walk_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    build(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    steps = tree.walk(str(tmp_path), None)
    assert isinstance(next(steps), Entry)
    next(steps)
    steps.close()
    assert len(os.listdir("/proc/self/fd")) == before


# -- removing ----------------------------------------


def test_a_tree_is_removed_whole_and_what_its_symlinks_lead_to_stays(tmp_path: Path, precious: Path) -> None:
    build(tmp_path / "tree")
    (tmp_path / "tree/a/out").symlink_to(precious)
    (tmp_path / "tree/a/b/out").symlink_to(precious / "one")
    (tmp_path / "tree/dangling").symlink_to("nowhere")
    remove(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_a_tree_with_unpleasant_names_is_removed(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "tree")
    os.makedirs(root + b"/new\nline/\xff\xfe")
    for name in (b" ", b"\x01", b"-rf", b"\xff", b"...", b"*", b"x" * 255):
        with open(root + b"/new\nline/\xff\xfe/" + name, "wb"):
            pass
    remove(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_a_tree_deeper_than_any_path_and_any_descriptor_table_is_walked_and_removed(tmp_path: Path) -> None:
    """Names of 200 bytes: from level 20 on no path reaches it. A descriptor a level would run out at 1,024."""
    levels = 2000
    descent = tree.Descent(os.open(tmp_path, tree.DIRECTORY))
    for _ in range(levels):
        os.mkdir("d" * 200, dir_fd=descent.fd)
        descent.enter("d" * 200)
    descent.close()
    assert 10 < len(walked(tmp_path)) < 30
    remove(tmp_path / ("d" * 200))
    assert list(tmp_path.iterdir()) == []


def test_many_directories_in_one_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "SWEEP_DIRECTORIES", 7)
    for number in range(50):
        (tmp_path / f"tree/d{number}/e").mkdir(parents=True)
        (tmp_path / f"tree/f{number}").touch()
    remove(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def interrupted_at_each_step(tmp_path: Path, interfere: Callable[[Path], None]) -> int:
    """Remove a tree again and again; before its first, second, third … step somebody interferes. Count the tries."""
    for try_number in range(1000):
        root = tmp_path / f"tree{try_number}"
        build(root)
        steps = remove_directory(str(root))
        for _ in range(try_number):
            if next(steps, "end") == "end":
                return try_number
        interfere(root)
        try:
            finish(steps)
        except OSError:
            pass  # to give up is allowed; to go astray is not
    raise AssertionError("a removal without end")


def test_a_directory_swapped_for_a_symlink_at_any_moment_leads_nowhere(tmp_path: Path, precious: Path) -> None:
    def swap(root: Path) -> None:
        for victim in (root / "a/b", root / "a"):
            if victim.exists():
                victim.rename(tmp_path / f"aside-{root.name}-{victim.name}")
                victim.symlink_to(precious)

    assert interrupted_at_each_step(tmp_path, swap) > 10


def test_a_directory_moved_elsewhere_at_any_moment_does_not_take_the_removal_with_it(
    tmp_path: Path, precious: Path
) -> None:
    for victim in ("a/b/c", "a/b"):

        def move_away(root: Path, victim: str = victim) -> None:
            if (root / victim).exists():
                (root / victim).rename(precious / "moved")

        def tidy(root: Path, move_away: Callable[[Path], None] = move_away) -> None:
            shutil.rmtree(precious / "moved", ignore_errors=True)
            move_away(root)

        assert interrupted_at_each_step(tmp_path, tidy) > 10
        shutil.rmtree(precious / "moved", ignore_errors=True)
        for leftover in tmp_path.glob("tree*"):
            shutil.rmtree(leftover)


def test_a_directory_that_is_refilled_at_any_moment_is_still_removed(tmp_path: Path) -> None:
    def refill(root: Path) -> None:
        for directory in (root, root / "a", root / "a/b"):
            if directory.exists():
                (directory / "new").mkdir(exist_ok=True)
                (directory / "new/file").touch()

    assert interrupted_at_each_step(tmp_path, refill) > 10
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_refilled_for_ever_ends_the_removal(tmp_path: Path) -> None:
    build(tmp_path / "tree")

    def refill() -> None:
        for number, _ in enumerate(remove_directory(str(tmp_path / "tree"))):
            (tmp_path / f"tree/{number}").mkdir()

    with pytest.raises(OSError, match="not empty"):
        refill()


def test_somebody_swapping_directories_and_symlinks_all_the_time_loses(tmp_path: Path, precious: Path) -> None:
    root = tmp_path / "tree"
    swaps = 0
    is_over = threading.Event()

    def attack() -> None:
        nonlocal swaps
        while not is_over.is_set():
            try:
                os.rename(root / "a", root / "aside")
                os.symlink(precious, root / "a")
                swaps += 1
                os.unlink(root / "a")
                os.rename(root / "aside", root / "a")
            except OSError:
                pass

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        rounds = 0
        while rounds < 50 or swaps < 50:
            rounds += 1
            build(tmp_path / "next")
            os.rename(tmp_path / "next", root)
            try:
                remove(root)
            except OSError:  # refused halfway is well; what is left goes out of the attacker's reach, in one step
                os.rename(root, tmp_path / f"refused-{rounds}")
    finally:
        is_over.set()
        attacker.join()


# -- copying ----------------------------------------


def copy(source: Path, target: Path) -> None:
    parent = os.open(source.parent, os.O_PATH)
    other = os.open(target.parent, os.O_PATH)
    try:
        finish(tree.copy(parent, source.name, other, target.name))
    finally:
        os.close(parent)
        os.close(other)


def described(root: Path) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for path in [root, *sorted(root.rglob("*"))]:
        found = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(found.st_mode) else os.readlink(path) if path.is_symlink() else None
        rows.append((path.relative_to(root), found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, content))
    return rows


def test_a_copied_tree_has_modes_owners_times_symlinks_and_fifos(tmp_path: Path) -> None:
    source = tmp_path / "source"
    build(source)
    (source / "a/one").chmod(0o4751)
    (source / "a/big").write_bytes(os.urandom(3_000_000))
    os.utime(source / "a/one", ns=(1, 1_000_000_007))
    os.utime(source / "z/link", ns=(1, 2_000_000_007), follow_symlinks=False)
    if os.geteuid() == 0:
        os.chown(source / "a/b", 1234, 4321)
    (source / "z").chmod(0o711)
    copy(source, tmp_path / "target")
    expected = [row if row[0] != Path("z/pipe") else row[:4] for row in described(source)]
    assert [row if row[0] != Path("z/pipe") else row[:4] for row in described(tmp_path / "target")] == expected


def test_a_file_and_a_symlink_are_copied_as_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    copy(tmp_path / "file", tmp_path / "file2")
    copy(tmp_path / "link", tmp_path / "link2")
    assert (tmp_path / "file2").read_text() == "text"
    assert os.readlink(tmp_path / "link2") == "file"


def test_nothing_is_copied_over_what_exists(tmp_path: Path) -> None:
    build(tmp_path / "source")
    (tmp_path / "target").write_text("kept")
    for source in (tmp_path / "source", tmp_path / "source/a/one"):
        with pytest.raises(FileExistsError):
            copy(source, tmp_path / "target")
    assert (tmp_path / "target").read_text() == "kept"
