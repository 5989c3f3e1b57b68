"""docs/metrics.md lists all that a server tells, with its labels, and says what to do at each alert."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client import Metric

from controlplane.server.metrics import make_registry
from controlplane.telemetry.load import Loads
from tests.support.pages import ROOT, anchors
from tests.support.server.control_plane import Home

PAGES = [ROOT / "docs" / "metrics.md", ROOT / "docs" / "zh" / "metrics.md"]
RULES = (ROOT / "deploy" / "prometheus" / "sandlot.rules.yml").read_text()
ROW = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) \| (.+) \|$", re.MULTILINE)


class Family(NamedTuple):
    """A row of the tables."""

    name: str
    kind: str
    labels: tuple[str, ...]


def family_of(metric: Metric) -> Family:
    """Return the row that a metric should have."""
    name = metric.name + ("_total" if metric.type == "counter" else "")
    return Family(name, metric.type, tuple(getattr(metric, "_labelnames", ())))


def families_on(page: Path) -> list[Family]:
    """Return the rows of a page."""
    rows = ROW.findall(page.read_text())
    return [Family(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows]


@pytest.mark.parametrize("page", PAGES, ids=["en", "zh"])
async def test_the_tables_list_all_metrics_with_their_labels(page: Path, home: Home) -> None:
    """Each once, and none that the server does not tell."""
    async with home.run() as plane:
        registry = make_registry(plane, Loads(plane.driver.containers, dict), home.path)
        told = [family_of(metric) for metric in registry.collect()]
    assert len(told) > 50
    assert sorted(families_on(page)) == sorted(told)


def test_each_alert_leads_to_what_to_do() -> None:
    """And nothing is said of an alert that does not exist."""
    alerts = re.findall(r"- alert: (\w+)", RULES)
    runbooks = re.findall(r"runbook: (\S+)#(\w+)", RULES)
    assert runbooks == [("docs/metrics.md", alert.lower()) for alert in alerts]
    assert {anchor for anchor in anchors(PAGES[0]) if anchor.startswith("sandlot")} == {each.lower() for each in alerts}
