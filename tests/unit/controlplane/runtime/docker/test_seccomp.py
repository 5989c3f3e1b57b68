"""The lists of system calls as the engine gets them. What they do in the kernel is for `tests/security` to show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from controlplane.errors import ConfigError
from controlplane.runtime.docker.seccomp import _TYPING, _all_but, load, profile

NAMESPACES = {"mount", "umount2", "pivot_root", "setns", "chroot"}


def allowed(text: str) -> set[str]:
    """Names that are allowed whatever their arguments."""
    rules: list[dict[str, Any]] = json.loads(text)["syscalls"]
    return {name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" and not rule["args"] for name in rule["names"]}


@pytest.mark.parametrize("user_namespaces", [False, True])
def test_it_is_a_list_of_what_is_allowed(user_namespaces: bool) -> None:
    """Whoever calls anything else hears so, and is not killed; no call has two answers."""
    found = json.loads(profile(user_namespaces=user_namespaces))
    assert found["defaultAction"] == "SCMP_ACT_ERRNO"
    assert {rule["action"] for rule in found["syscalls"]} == {"SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"}
    whole = [name for rule in found["syscalls"] if not rule["args"] for name in rule["names"]]
    by_arguments = {name for rule in found["syscalls"] if rule["args"] for name in rule["names"]}
    assert len(whole) == len(set(whole))
    assert not by_arguments & set(whole)
    assert not {"bpf", "keyctl", "io_uring_setup", "init_module"} & allowed(profile(user_namespaces=user_namespaces))


def test_namespaces_are_for_those_who_may_make_them() -> None:
    assert not NAMESPACES & allowed(profile())
    assert allowed(profile(user_namespaces=True)) >= NAMESPACES


def test_no_interface_has_two_doors() -> None:
    """Where 32-bit programs could run, they would make sockets by another call, whose arguments are out of reach."""
    assert all("subArchitectures" not in architecture for architecture in json.loads(profile())["archMap"])


def test_all_numbers_but_some() -> None:
    """Each number of the kernel's 32 bits is in one class, whatever stands above them; those left out are in none."""
    classes = list(_all_but(_TYPING))
    near = {number ^ 1 << bit for number in _TYPING for bit in range(32)} | {0, 0xFFFFFFFF, *range(0x5400, 0x5500)}
    for number in near - set(_TYPING):
        assert [number & bits == value for bits, value in classes].count(True) == 1, hex(number)
    for number in _TYPING:
        assert not [value for bits, value in classes if (number | 1 << 40) & bits == value]


def test_the_setting(tmp_path: Path) -> None:
    """Our lists, the engine's profile where it will do, or one from a file."""
    assert load("sandlot") == (ours := load("sandlot"))
    assert (ours.ordinary, ours.user_namespaces) == (profile(), profile(user_namespaces=True))
    assert load("engine").ordinary == ""
    assert load("engine").user_namespaces == profile(user_namespaces=True)
    file = tmp_path / "mine.json"
    file.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    assert load(str(file)).ordinary == load(str(file)).user_namespaces == file.read_text()


@pytest.mark.parametrize(
    ("text", "expected"), [(None, "No such file"), ("{", "cannot be read as a profile"), ("[]", "has no defaultAction")]
)
def test_a_file_that_holds_no_profile(tmp_path: Path, text: str | None, expected: str) -> None:
    """The message names the setting, the file, and what is wrong with it."""
    file = tmp_path / "mine.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=rf"\[engine\] seccomp: {file} .*{expected}"):
        load(str(file))
