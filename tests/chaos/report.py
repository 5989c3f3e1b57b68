"""The summary of a run as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.chaos.ledger import Kind


def table(summary: Mapping[str, Any]) -> str:
    """Return the lines that say what was done, what went wrong, and whether anything was lost or leaked."""
    return "\n".join(_lines(summary))


def _lines(summary: Mapping[str, Any]) -> Iterator[str]:
    yield f"seed {summary['seed']}: {summary['rounds']} rounds in {summary['seconds']:g} s"
    yield ""
    yield f"{'operation':<14}" + "".join(f"{kind.value:>9}" for kind in Kind)
    for name, counts in summary["operations"].items():
        yield f"{name:<14}" + "".join(f"{counts.get(kind.value, 0):>9}" for kind in Kind)
    for title in ("errors", "disasters", "wrongs_of_the_engine"):
        yield ""
        yield f"{title.replace('_', ' ')}:" + (" none" if not summary[title] else "")
        yield from (f"  {count:>6}  {name}" for name, count in summary[title].items())
    yield ""
    yield f"lost, leaked or untrue: {len(summary['violations'])}"
    yield from (f"  {violation}" for violation in summary["violations"])
