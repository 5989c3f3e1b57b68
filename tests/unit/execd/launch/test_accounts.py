"""/etc/passwd and /etc/group, read by hand."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from execd.launch.accounts import MAX_FILE_BYTES, find_user, read_regular, supplementary_groups


def test_this_machines_own_accounts_read_as_the_c_library_reads_them() -> None:
    """Names, numbers and homes agree with getpwent and getgrent."""
    for entry in pwd.getpwall():
        user = find_user(entry.pw_name)
        assert user is not None
        assert (user.uid, user.gid, user.home) == (entry.pw_uid, entry.pw_gid, entry.pw_dir)
        groups = [group.gr_gid for group in grp.getgrall() if entry.pw_name in group.gr_mem]
        assert supplementary_groups(entry.pw_name) == groups


def test_users_are_found_by_name_and_by_number_and_never_by_a_number_that_is_a_name(tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_text("1001:x:7:7::/seven:\nann:x:1001:100::/home/ann:/bin/sh\n")

    assert (user := find_user(1001, str(passwd))) is not None
    assert user.name == "ann"
    assert (user := find_user("1001", str(passwd))) is not None
    assert user.uid == 7
    assert find_user("bob", str(passwd)) is None


def test_broken_lines_are_skipped(tmp_path: Path) -> None:
    passwd, group = tmp_path / "passwd", tmp_path / "group"
    passwd.write_bytes(b"\xff\xfe\n:::\nx:x:a:b::/:\n\n+::::::\nann:x:1:2:\xfc:/home/ann:/bin/sh")
    group.write_bytes(b"broken\nx:x:y:ann\n\nvideo:x:44:ann\n")

    assert (user := find_user("ann", str(passwd))) is not None
    assert user == ("ann", 1, 2, "/home/ann")
    assert supplementary_groups("ann", str(group)) == [44]


def test_missing_files_mean_no_accounts(tmp_path: Path) -> None:
    assert find_user(0, str(tmp_path / "passwd")) is None
    assert supplementary_groups("root", str(tmp_path / "group")) == []


def test_what_would_block_or_fill_memory_is_not_read(tmp_path: Path) -> None:
    """Whoever runs in the sandbox may replace these files by anything."""
    fifo, large = tmp_path / "fifo", tmp_path / "large"
    os.mkfifo(fifo)
    with large.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)

    for path in (fifo, large, tmp_path, Path("/dev/zero"), "nul\0byte"):
        assert read_regular(str(path)) == ""


def test_a_symlink_is_followed_only_where_the_owner_does_not_matter(tmp_path: Path) -> None:
    """Some systems link /etc/passwd; a file in /tmp must be what it seems."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("x")
    link.symlink_to(real)

    assert read_regular(str(link)) == "x"
    assert read_regular(str(link), frozenset((os.geteuid(),))) == ""
    assert read_regular(str(real), frozenset((os.geteuid(),))) == "x"
    assert read_regular(str(real), frozenset((os.geteuid() + 1,))) == ""


@pytest.mark.parametrize("undecodable", [b"\xff", b"\xed\xa0\x80"])
def test_undecodable_bytes_come_through(tmp_path: Path, undecodable: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(undecodable)

    assert os.fsencode(read_regular(str(path))) == undecodable
