"""A tree of a hostile sandbox is never written outside of the directory that it is copied to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controlplane.client.tree import Tree, parts_below
from controlplane.errors import InvalidRequest


@pytest.mark.attack(
    "agent",
    "The listing of a sandbox's directory names paths that lead elsewhere",
    "`sandlot cp` refuses them",
)
@pytest.mark.parametrize(
    "path",
    ["/x", "/app", "/app/", "/app/../etc", "/app/a/../../b", "/app//etc", "/app/./a", "/apple/a", "", "/app/a\0"],
)
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(InvalidRequest, match="which is not below"):
        parts_below("/app", path)


def test_paths_below() -> None:
    assert parts_below("/app", "/app/a/b") == ("a", "b")
    assert parts_below("/", "/etc/x") == ("etc", "x")


@pytest.mark.attack(
    "agent",
    "A copied tree has the path of a link that leads out of the destination",
    "`sandlot cp` does not follow the link: the copy fails, or replaces the link itself",
)
def test_links_are_not_followed(tmp_path: Path) -> None:
    """Neither a link to a directory on the way, nor a link in the place of a file."""
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (outside / "kept").write_text("kept")
    (target / "way").symlink_to(outside)
    (target / "file").symlink_to(outside / "kept")
    tree = Tree(str(target))
    with pytest.raises(OSError, match="way"):
        tree.file(("way", "new"), 0o644, 0.0)
    with pytest.raises(OSError, match="way"):
        tree.directory(("way", "new"), 0o755, 0.0)
    file = tree.file(("file",), 0o644, 1.0)
    file.write(b"new")
    file.commit()
    file.close()
    tree.close()
    assert sorted(each.name for each in outside.iterdir()) == ["kept"]
    assert (outside / "kept").read_text() == "kept"
    assert not (target / "file").is_symlink()
    assert (target / "file").read_text() == "new"


def test_modes_are_kept_without_rights_beyond(tmp_path: Path) -> None:
    """A directory that may not be written gets its mode when it is full; nothing becomes set-user-ID."""
    tree = Tree(str(tmp_path / "t"))
    tree.directory(("d",), 0o555, 5.0)
    file = tree.file(("d", "f"), 0o4755, 7.0)
    file.write(b"x")
    file.commit()
    file.close()
    tree.close()
    found = os.stat(tmp_path / "t/d/f")
    assert (found.st_mode & 0o7777, found.st_mtime) == (0o755, 7.0)
    assert os.stat(tmp_path / "t/d").st_mode & 0o7777 == 0o555
    assert os.stat(tmp_path / "t/d").st_mtime == 5.0


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    (tmp_path / "d").mkdir()
    tree = Tree(str(tmp_path))
    file = tree.file(("f",), 0o644, 0.0)
    file.write(b"half")
    assert (tmp_path / "f").read_text() == "old"
    file.close()
    with pytest.raises(OSError, match="d is a directory"):
        tree.file(("d",), 0o644, 0.0)
    tree.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["d", "f"]
    assert (tmp_path / "f").read_text() == "old"
