"""How tests are shared out among processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.schedule import ALONE, FIRST, GROUPS, group_of

TESTS = Path(__file__).parents[2]
FILES = sorted(path.relative_to(TESTS.parent).as_posix() for path in TESTS.rglob("test_*.py"))


@pytest.mark.parametrize("beginning", GROUPS)
def test_a_row_is_of_tests_that_exist(beginning: str) -> None:
    """Otherwise tests that moved would run beside others."""
    assert any(file.startswith(f"tests/{beginning}") and group_of(file) == GROUPS[beginning] for file in FILES)


@pytest.mark.parametrize("group", FIRST)
def test_what_comes_first_exists(group: str) -> None:
    assert group in {group_of(f"{file}::test") for file in FILES}


def test_a_file_is_a_group_unless_the_table_says_otherwise() -> None:
    assert group_of("tests/unit/x/test_y.py::TestZ::test_a[1::2]") == "tests/unit/x/test_y.py"
    assert group_of("tests/e2e/test_clients.py::test_a") == group_of("tests/e2e/test_docs.py::test_b") == "e2e"
    assert group_of("tests/security/test_battery.py::test_a") == ALONE
    assert group_of("tests/security/test_syscalls.py::test_a") == "engine"
