"""Paths as callers write them, and the kernel's refusals in our words."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from execd.errors import ExecdError
from execd.files.paths import absolute, make_parents, naming, refusal, text, unmake


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/a/b", "/a/b"),
        ("/", "/"),
        ("//a///b/./c/", "/a/b/c"),
        ("a/b", "/work/a/b"),
        (".", "/work"),
        ("~", "/home/ada"),
        ("~/x", "/home/ada/x"),
        ("~ada", "/work/~ada"),
        ("./~", "/work/~"),
        ("/a/..b/...", "/a/..b/..."),
        ("/Grüße/日本", "/Grüße/日本"),
        ("/" + "/".join(["d"] * 2000), "/" + "/".join(["d"] * 2000)),
    ],
)
def test_a_path_is_made_absolute_without_looking_anything_up(given: str, expected: str) -> None:
    assert absolute(given, "/work", "/home/ada") == expected


def test_the_sandbox_s_own_directories_may_be_written_in_any_way(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/deep")
    assert absolute("a", f"{tmp_path}/link/../", "/") == f"{tmp_path}/real/a"
    assert absolute("~/a", "/work", f"{tmp_path}/link/..") == f"{tmp_path}/real/a"
    assert absolute("~/a", "/work", "below") == "/work/below/a"
    assert absolute(".", "//work/.//", "/") == "/work"
    assert absolute(".", "/work/..", "/") == "/"
    assert absolute("~", "/work", "/") == "/"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "empty"),
        ("a\0b", "NUL"),
        ("..", "`..`"),
        ("/a/../b", "`..`"),
        ("~/../x", "`..`"),
        ("/a/..", "`..`"),
        ("/" + "x" * 256, "255 bytes"),
        ("/" + "ü" * 128, "255 bytes"),
        ("/d" * 2048, "4095 bytes"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused_with_the_reason(given: str, reason: str) -> None:
    with pytest.raises(ExecdError, match=reason) as caught:
        absolute(given, "/work", "/home/ada")
    assert caught.value.code == "file.bad_path"


def test_names_that_are_no_utf8_can_travel() -> None:
    name = os.fsdecode(b"bad-\xff\xfe-\xc3\xbc")
    assert text(name) == "bad-\ufffd\ufffd-ü"
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(text(name))) == text(name)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, "file.not_found"),
        (errno.EEXIST, "file.exists"),
        (errno.EISDIR, "file.is_directory"),
        (errno.ENOTDIR, "file.not_directory"),
        (errno.ELOOP, "file.bad_path"),
        (errno.ENAMETOOLONG, "file.bad_path"),
        (errno.EACCES, "file.denied"),
        (errno.EPERM, "file.denied"),
        (errno.EROFS, "file.denied"),
        (errno.ENOSPC, "file.no_space"),
        (errno.EDQUOT, "file.no_space"),
        (errno.EFBIG, "file.no_space"),
        (errno.EIO, "file.failed"),
    ],
)
def test_each_refusal_of_the_kernel_has_its_code_and_names_the_path(number: int, code: str) -> None:
    error = refusal(OSError(number, os.strerror(number), "some/temporary/name"), "as/given")
    assert error.code == code
    assert error.message == f"as/given: {os.strerror(number)}"


def test_naming_translates_only_what_the_kernel_says() -> None:
    with pytest.raises(ExecdError, match=r"^here: ") as caught, naming("here"):
        os.stat("/nothing/there")
    assert caught.value.code == "file.not_found"
    with pytest.raises(ExecdError, match="own words"), naming("here"):
        raise ExecdError("file.range", "own words")


def test_parents_that_were_made_are_taken_back_but_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    made = make_parents(f"{tmp_path}/a/b/c/file")
    assert made == [f"{tmp_path}/a/b", f"{tmp_path}/a/b/c"]
    unmake(made)
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]

    made = make_parents(f"{tmp_path}/a/b/c/file")
    (tmp_path / "a/b/other").touch()
    unmake(made)
    assert (tmp_path / "a/b/other").exists()
    assert not (tmp_path / "a/b/c").exists()


def test_parents_cannot_be_made_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        make_parents(f"{tmp_path}/file/b/c")
