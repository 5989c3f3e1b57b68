"""The table of attacks in docs/security.md is the one that the tests and the battery make."""

from __future__ import annotations

import ast

import pytest

from tests.security import table
from tests.security.table import CATEGORIES, PAGE, REGENERATE


def test_the_table_is_current() -> None:
    """A row that nobody tries any more is a promise that nobody keeps."""
    assert PAGE.read_text() == table.page(), f"run `{REGENERATE}`"


def test_there_are_as_many_groups_as_were_promised() -> None:
    """And every category has some; a category of another name would stand nowhere."""
    found = table.rows()
    assert len(found) >= 95
    assert {row.category for row in found} == set(CATEGORIES)
    assert len({(row.tries, row.where) for row in found}) == len(found)


def test_markers_are_read_as_they_are_written() -> None:
    """On a test, and by a name that several tests share; what is no plain text is refused."""
    source = (
        "SHARED = pytest.mark.attack('edge', 'a | b', 'it ends.')\n"
        "@SHARED\ndef test_one(): ...\n@SHARED\ndef test_two(): ...\n"
        "@pytest.mark.attack('host', 'x', 'y')\n@pytest.mark.timeout(5)\nasync def test_three(): ...\n"
    )
    three, shared = table._of_file("f.py", ast.parse(source))
    assert str(three) == "| host | X | Y | held | `f.py::test_three` |"
    assert str(shared) == "| edge | A \\| b | It ends | held | `f.py::test_one` and 1 more |"
    with pytest.raises(ValueError, match="three plain texts"):
        list(table._of_file("f.py", ast.parse("@pytest.mark.attack(a, b, c)\ndef test_x(): ...")))
    with pytest.raises(ValueError, match="no test carries"):
        list(table._of_file("f.py", ast.parse("LOST = pytest.mark.attack('host', 'x', 'y')")))
