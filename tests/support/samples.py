"""What Prometheus would read, as numbers by name and labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client import Metric

Samples = dict[str, float]


class Source(Protocol):
    """A collector, or a registry of some."""

    def collect(self) -> Iterable[Metric]:
        """Yield families."""


def samples_of(*sources: Source) -> Samples:
    """Return all samples, by the name with the values of the labels in their order: `name[value][value]`."""
    return {
        sample.name + "".join(f"[{value}]" for value in sample.labels.values()): sample.value
        for source in sources
        for family in source.collect()
        for sample in family.samples
    }
