"""One version, wherever it is said."""

from __future__ import annotations

import re
import tomllib

from execd.config import VERSION
from tests.architecture.sources import ROOT


def test_execd_says_the_version_of_the_distribution() -> None:
    """execd cannot ask importlib.metadata, so it has a copy."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


def test_the_changelog_begins_with_this_version() -> None:
    """What is new has been told."""
    headings = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:1] == [VERSION]
    assert headings == sorted(headings, key=lambda text: [int(part) for part in text.split(".")], reverse=True)
