"""Names of users and groups, as the sandbox's own files have them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from execd.errors import ExecdError
from execd.files.owners import Owners


@pytest.fixture
def owners(tmp_path: Path) -> Owners:
    (tmp_path / "passwd").write_text(
        "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\ntoor:x:0:0::/:\nbroken\n:x:7:7::/:\n"
        "far:x:99999999999999999999:0::/:\nneg:x:-5:0::/:\nleave:x:4294967295:0::/:\n1234:x:42:42::/:\n"
    )
    (tmp_path / "group").write_text("wheel:x:0:\nstaff:x:50:ada\n")
    owners = Owners(str(tmp_path / "passwd"), str(tmp_path / "group"))
    owners.refresh()
    return owners


def test_a_number_has_the_name_of_its_first_line(owners: Owners) -> None:
    assert (owners.user(0), owners.user(1000), owners.group(50)) == ("root", "ada", "staff")


def test_a_number_without_a_name_is_its_own_text(owners: Owners) -> None:
    assert (owners.user(7), owners.user(4711), owners.group(4711)) == ("7", "4711", "4711")


def test_owners_are_given_by_name_or_number_and_the_name_comes_first(owners: Owners) -> None:
    assert (owners.uid("ada"), owners.uid("toor"), owners.uid("4711"), owners.uid("1234")) == (1000, 0, 4711, 42)
    assert (owners.gid("staff"), owners.gid("51")) == (50, 51)
    assert (owners.uid(""), owners.gid("")) == (None, None)


@pytest.mark.parametrize("name", ["nobody-here", "-1", "4294967295", "99999999999", "²", "far", "neg", "leave", " 0"])
def test_an_unknown_owner_is_refused(owners: Owners, name: str) -> None:
    with pytest.raises(ExecdError) as caught:
        owners.uid(name)
    assert caught.value.code == "request.invalid"


def test_a_changed_file_is_read_again(owners: Owners, tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("ada:x:1001:1001::/home/ada:/bin/sh\n")
    owners.refresh()
    assert owners.user(1001) == "ada"
    assert owners.user(1000) == "1000"


def test_what_hostile_code_puts_in_place_of_the_files_only_hides_the_names(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "passwd")
    (tmp_path / "group").write_bytes(b"\xff\xfe:x:5:\n" * 3)
    owners = Owners(str(tmp_path / "passwd"), str(tmp_path / "group"))
    owners.refresh()
    assert owners.user(0) == "0"
    assert owners.group(5) == "\ufffd\ufffd"


def test_images_without_accounts_have_numbers(tmp_path: Path) -> None:
    owners = Owners(str(tmp_path / "passwd"), str(tmp_path / "group"))
    owners.refresh()
    assert (owners.user(0), owners.uid("0")) == ("0", 0)
