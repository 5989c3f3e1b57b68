"""The table of bounds in docs/security.md agrees with the code, the settings and the tests."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from controlplane.settings.sections import Settings
from tests.architecture.sources import ROOT

PAGE = ROOT / "docs" / "security.md"
UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "ms": 1e-3, "s": 1, "min": 60, "h": 3600}


class Bound(NamedTuple):
    """One row of the table."""

    input: str
    bound: str
    default: str
    where: str
    setting: str
    test: str


def _table(page: Path) -> list[Bound]:
    _, _, text = page.read_text().partition("\n## Bounds\n")
    text, _, _ = text.partition("\n## ")
    lines = [line.strip().strip("|") for line in text.splitlines() if line.startswith("|")]
    return [Bound(*(cell.strip().strip("`") for cell in line.split("|"))) for line in lines[2:]]


def _value(text: str) -> float:
    """Return a default in bytes, seconds or pieces."""
    number, _, unit = text.partition(" ")
    return float(number.replace(",", "")) * UNITS[unit]


def _setting(name: str) -> object:
    """Return the default of a setting that is written as "[section] key"."""
    section, _, key = name.partition("] ")
    return getattr(getattr(msgspec.convert({}, Settings), section.lstrip("[")), key)


BOUNDS = _table(PAGE)


def test_the_table_is_there() -> None:
    """A page that cannot be read would pass every test below."""
    assert BOUNDS
    assert len({(row.input, row.bound) for row in BOUNDS}) == len(BOUNDS)


@pytest.mark.parametrize("row", BOUNDS, ids=lambda row: f"{row.input}, {row.bound}")
def test_a_row_agrees_with_the_code(row: Bound) -> None:
    """A default that only the page has is a promise that nobody keeps."""
    if row.setting != "–":
        assert _setting(row.setting) == _value(row.default)
    if row.where != "–":
        module, _, name = row.where.partition(":")
        assert getattr(importlib.import_module(module), name) == _value(row.default)
    assert row.setting != "–" or row.where != "–"


@pytest.mark.parametrize("row", BOUNDS, ids=lambda row: f"{row.input}, {row.bound}")
def test_a_row_has_a_test(row: Bound) -> None:
    """A bound that no test goes through may have gone long ago."""
    file, _, name = row.test.partition("::")
    assert re.search(rf"^(async )?def {re.escape(name)}\(", (ROOT / file).read_text(), re.MULTILINE), row.test
