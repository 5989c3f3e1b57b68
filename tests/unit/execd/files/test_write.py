"""Files replaced whole: what they keep, where symlinks lead, and that nothing is left behind."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from execd.errors import ExecdError
from execd.files import read, write
from execd.files.write import Attributes, Replacement, replace_text

NOBODY = 65534
# No file system makes a file without a name by these: then it has one, as on an old overlay.
NO_FLAGS = os.O_RDWR | os.O_DIRECTORY


def put(path: Path, data: bytes, attributes: Attributes | None = None) -> os.stat_result:
    replacement = Replacement(str(path), attributes or Attributes())
    try:
        replacement.write([data])
        return replacement.commit()
    except BaseException:
        replacement.discard()
        raise


def replace(path: Path, old: bytes, new: bytes) -> int:
    *_, count = replace_text(str(path), old, new)
    return count


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A directory of nobody's, and nobody's rights."""
    assert os.geteuid() == 0, "the tests run as root, like the engine's own"
    folder = Path(tempfile.mkdtemp(prefix="sandlot-"))
    folder.chmod(0o777)
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield folder
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)
        shutil.rmtree(folder)


def test_a_new_file_gets_the_usual_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        found = put(tmp_path / "new", b"content")
    finally:
        os.umask(before)
    assert stat.S_IMODE(found.st_mode) == mode_of(tmp_path / "new") == 0o644
    assert found.st_size == 7
    assert (tmp_path / "new").read_bytes() == b"content"


def test_an_old_file_keeps_mode_and_owner_but_not_the_set_id_bits(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_text("a longer text than the new one")
    os.chown(path, 1234, 4321)
    path.chmod(0o6751)
    put(path, b"new")
    found = path.stat()
    assert path.read_bytes() == b"new"
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o751, 1234, 4321)


def test_attributes_are_set_before_the_file_appears(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replacement = Replacement(str(path), Attributes(0o4711, 1234, 4321))
    replacement.write([b"x"])
    assert list(tmp_path.iterdir()) == []
    assert stat.S_IMODE(os.fstat(replacement._fd).st_mode) == 0o600
    replacement.commit()
    assert list(tmp_path.iterdir()) == [path]
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o4711, 1234, 4321)


def test_where_every_file_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old overlay, a network's file system: the new file is hidden and only its owner's, and it goes in the end."""
    monkeypatch.setattr(write, "_UNNAMED", NO_FLAGS)
    path = tmp_path / "file"
    replacement = Replacement(str(path), Attributes())
    replacement.write([b"x"])
    (temporary,) = tmp_path.iterdir()
    assert (temporary.name.startswith("."), mode_of(temporary)) == (True, 0o600)
    replacement.commit()
    assert list(tmp_path.iterdir()) == [path]
    Replacement(str(path), Attributes()).discard()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [-1, 0o10000, 1 << 40])
def test_a_mode_of_other_bits_than_permissions_is_refused(mode: int) -> None:
    with pytest.raises(ExecdError) as caught:
        Attributes(mode)
    assert caught.value.code == "request.invalid"


def test_parents_are_made_and_taken_back_when_nothing_comes_of_it(tmp_path: Path) -> None:
    put(tmp_path / "a/b/file", b"")
    assert mode_of(tmp_path / "a/b") == 0o755
    Replacement(str(tmp_path / "a/c/d/file"), Attributes()).discard()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "file"]


def test_discarded_content_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    replacement = Replacement(str(tmp_path / "file"), Attributes())
    replacement.write([b"new"])
    replacement.discard()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_content_in_many_pieces_arrives_in_order(tmp_path: Path) -> None:
    pieces = [bytes([number % 256]) * (number % 7) for number in range(write.MAX_VECTOR * 3)]
    replacement = Replacement(str(tmp_path / "file"), Attributes())
    replacement.write(pieces)
    assert replacement.commit().st_size == sum(map(len, pieces))
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


# -- symlinks and what is no file ----------------------------------------


def test_a_symlink_is_written_through_and_stays(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/target").write_text("old")
    (tmp_path / "d/second").symlink_to("./target")
    (tmp_path / "first").symlink_to(tmp_path / "d/../d/second")
    put(tmp_path / "first", b"new")
    assert (tmp_path / "first").is_symlink()
    assert (tmp_path / "d/second").is_symlink()
    assert (tmp_path / "d/target").read_bytes() == b"new"
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["second", "target"]


def test_what_a_dangling_symlink_leads_to_is_made(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d/new")
    put(tmp_path / "link", b"x")
    assert (tmp_path / "d/new").read_bytes() == b"x"
    (tmp_path / "lost").symlink_to("nowhere/new")
    with pytest.raises(FileNotFoundError):
        put(tmp_path / "lost", b"x")


def test_a_loop_of_symlinks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        put(tmp_path / "a", b"x")


def test_a_directory_a_fifo_and_a_device_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    (tmp_path / "to-directory").symlink_to("directory/.")
    (tmp_path / "to-parent").symlink_to("..")
    reader, writer = os.pipe()
    (tmp_path / "to-pipe").symlink_to(f"/proc/self/fd/{writer}")
    for name, code in (
        ("fifo", "file.not_regular"),
        ("to-pipe", "file.not_regular"),
        ("/dev/null", "file.not_regular"),
        ("directory", "file.is_directory"),
        ("to-directory", "file.is_directory"),
        ("to-parent", "file.is_directory"),
    ):
        with pytest.raises(ExecdError) as caught:
            Replacement(str(tmp_path / name), Attributes())
        assert caught.value.code == code
    os.close(reader)
    os.close(writer)
    with pytest.raises(IsADirectoryError):
        Replacement("/", Attributes())


def test_a_refusal_leaves_no_descriptor_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("d")
    (tmp_path / "d").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ExecdError):
        Replacement(str(tmp_path / "link"), Attributes())
    put(tmp_path / "d/file", b"x")
    assert len(os.listdir("/proc/self/fd")) == before
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["d", "file", "link"]


def test_a_file_that_is_a_mount_point_is_written_in_place(tmp_path: Path) -> None:
    """Engines mount /etc/hosts and /etc/resolv.conf like this; nothing can be renamed over them."""
    (tmp_path / "origin").write_text("127.0.0.1 localhost and more of it")
    (tmp_path / "hosts").touch()
    subprocess.run(["mount", "--bind", tmp_path / "origin", tmp_path / "hosts"], check=True)
    try:
        found = put(tmp_path / "hosts", b"10.0.0.1 db", Attributes(0o600))
        assert found.st_size == 11
        assert (tmp_path / "origin").read_bytes() == b"10.0.0.1 db"
        assert mode_of(tmp_path / "origin") == 0o600
        assert sorted(path.name for path in tmp_path.iterdir()) == ["hosts", "origin"]
    finally:
        subprocess.run(["umount", tmp_path / "hosts"], check=True)


# -- without root's rights ----------------------------------------


def test_a_file_of_somebody_else_is_written_and_not_taken_over(as_nobody: Path) -> None:
    """As by a shell's `>`: who may write to it may change its content, and nothing else."""
    os.setresuid(0, 0, 0)
    (as_nobody / "roots").write_text("root's, and writable for all")
    (as_nobody / "roots").chmod(0o666)
    os.setresuid(NOBODY, NOBODY, 0)
    found = put(as_nobody / "roots", b"nobody's words", Attributes(0o666))
    assert replace(as_nobody / "roots", b"words", b"text") == 1
    assert (found.st_uid, mode_of(as_nobody / "roots")) == (0, 0o666)
    with pytest.raises(PermissionError):
        put(as_nobody / "roots", b"x", Attributes(0o644))
    assert (as_nobody / "roots").read_text() == "nobody's text"
    assert [path.name for path in as_nobody.iterdir()] == ["roots"]


def test_a_file_that_may_not_be_written_is_not_replaced_either(as_nobody: Path) -> None:
    (as_nobody / "read-only").write_text("old")
    (as_nobody / "read-only").chmod(0o444)
    with pytest.raises(PermissionError):
        put(as_nobody / "read-only", b"x")
    assert (as_nobody / "read-only").read_text() == "old"


def test_an_owner_that_may_not_be_given_changes_nothing(as_nobody: Path) -> None:
    (as_nobody / "mine").write_text("old")
    with pytest.raises(PermissionError):
        put(as_nobody / "mine", b"x", Attributes(uid=0))
    with pytest.raises(PermissionError):
        put(as_nobody / "new", b"x", Attributes(uid=0))
    assert [(path.name, path.read_text()) for path in as_nobody.iterdir()] == [("mine", "old")]


def test_a_file_of_somebody_else_in_a_sticky_directory(as_nobody: Path) -> None:
    """Such as /tmp, where it may not be renamed over either."""
    os.setresuid(0, 0, 0)
    as_nobody.chmod(0o1777)
    os.chown(as_nobody, 0, 0)
    (as_nobody / "roots").write_text("old and long")
    (as_nobody / "roots").chmod(0o666)
    os.setresuid(NOBODY, NOBODY, 0)
    assert put(as_nobody / "roots", b"new").st_size == 3
    assert [(path.name, path.read_text()) for path in as_nobody.iterdir()] == [("roots", "new")]


# -- replacing text ----------------------------------------


@given(
    st.lists(st.sampled_from([b"a", b"b", b"ab", b"\n", b"\xff"]), max_size=60).map(b"".join),
    st.lists(st.sampled_from([b"a", b"b"]), min_size=1, max_size=4).map(b"".join),
    st.binary(max_size=5),
)
@settings(deadline=None)
def test_text_is_replaced_wherever_the_pieces_are_cut(data: bytes, old: bytes, new: bytes) -> None:
    """With pieces of a few bytes every match gets cut somewhere."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "SMALL_BYTES", 1)
        path = Path(folder) / "file"
        path.write_bytes(data)
        assert replace(path, old, new) == data.count(old)
        assert path.read_bytes() == data.replace(old, new)
        assert [found.name for found in path.parent.iterdir()] == ["file"]


def test_a_file_without_the_text_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (read.SMALL_BYTES * 2 + 1))
    before = path.stat()
    assert replace(path, b"y", b"z") == 0
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_stopped_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "_UNNAMED", NO_FLAGS)
    path = tmp_path / "file"
    path.write_bytes(b"ab" * 100_000)
    steps = replace_text(str(path), b"a", b"c" * 100)
    next(steps)
    assert len(list(tmp_path.iterdir())) == 2
    steps.close()
    assert path.read_bytes() == b"ab" * 100_000
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_replaced_file_keeps_mode_and_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one two one")
    os.chown(path, 1234, 4321)
    path.chmod(0o640)
    assert replace(path, b"one", b"three") == 2
    found = path.stat()
    assert path.read_text() == "three two three"
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 1234, 4321)
