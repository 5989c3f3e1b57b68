"""`sandlot doctor`: the checks of this machine, with a cure for each failure."""

from __future__ import annotations

from collections.abc import Callable

from controlplane.server.doctor.checks import findings
from controlplane.server.doctor.finding import Finding
from controlplane.settings.sections import Settings


async def examine(settings: Settings, announce: Callable[[str], None]) -> int:
    """Run all checks and print each. Return 0 if all pass, else 1."""
    failures = 0
    async for finding in findings(settings):
        announce(f"{_verdict(finding):5}{finding.check:12}{finding.text}")
        if finding.cure:
            failures += not finding.is_advice
            announce(f"{'':17}→ {finding.cure}")
    announce("all is well" if not failures else f"{failures} check(s) failed")
    return 1 if failures else 0


def _verdict(finding: Finding) -> str:
    if finding.cure:
        return "warn" if finding.is_advice else "FAIL"
    return "--" if finding.skipped else "ok"
