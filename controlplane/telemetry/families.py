"""Counters, gauges and histograms with labels, whose number of series is bounded.

They are written on the event loop alone, so they need no locks: an observation costs less than a microsecond. A
registry of the library `prometheus_client` reads them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

# A family never has more series. What comes later is counted under OTHER in every label.
MAX_SERIES = 2000
# Names that clients choose, such as images, and that are told by themselves. Those of the settings are always told.
MAX_NAMES = 20
OTHER = "other"

Labels = tuple[str, ...]

# Seconds, from what the server does by itself to what a machine under load makes clients wait for.
SHORT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# Seconds of what programs of clients do.
LONG_S = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
# Seconds that sandboxes live.
LIFE_S = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0, 604800.0)


class Names:
    """Folds names that clients choose: the first MAX_NAMES are told, and of all later ones OTHER."""

    def __init__(self, always: Iterable[str] = (), most: int = MAX_NAMES) -> None:
        """Tell *always*, whatever comes before them."""
        self._told = set(always)
        self._room = most

    def fold(self, name: str) -> str:
        """Return the name as a label has it."""
        if name in self._told:
            return name
        if not self._room:
            return OTHER
        self._room -= 1
        self._told.add(name)
        return name


class Counter(Collector):
    """A number for each combination of labels, which only grows."""

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._series: dict[Labels, float] = {} if labels else {(): 0.0}

    @property
    def total(self) -> float:
        """The sum over all labels."""
        return sum(self._series.values())

    def add(self, *values: str, by: float = 1.0) -> None:
        """Add to the number of these values of the labels."""
        if values not in self._series:
            values = _bounded(values, self._series)
            self._series.setdefault(values, 0.0)
        self._series[values] += by

    def collect(self) -> Iterator[Metric]:
        """Yield the family."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, number in self._series.items():
            family.add_metric(values, number)
        yield family


class Gauge(Counter):
    """A number for each combination of labels, which grows and shrinks."""

    def set(self, *values: str, to: float) -> None:
        """Replace the number of these values of the labels."""
        if values not in self._series:
            values = _bounded(values, self._series)
        self._series[values] = to

    def collect(self) -> Iterator[Metric]:
        """Yield the family."""
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for values, number in self._series.items():
            family.add_metric(values, number)
        yield family


class _Buckets:
    """The series of a histogram: how often a value was in each bucket, and the sum of all values."""

    __slots__ = ("counts", "sum")

    def __init__(self, size: int) -> None:
        self.counts = [0] * size
        self.sum = 0.0


class Histogram(Collector):
    """How often a value was in which bucket, for each combination of labels. Values are in seconds."""

    def __init__(self, name: str, text: str, *labels: str, bounds: tuple[float, ...] = SHORT_S) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._bounds = bounds
        self._series: dict[Labels, _Buckets] = {}
        if not labels:
            self._series[()] = _Buckets(len(bounds) + 1)

    def observe(self, seconds: float, *values: str) -> None:
        """Count one value."""
        buckets = self._series.get(values)
        if buckets is None:
            values = _bounded(values, self._series)
            buckets = self._series.setdefault(values, _Buckets(len(self._bounds) + 1))
        buckets.counts[bisect_left(self._bounds, seconds)] += 1
        buckets.sum += seconds

    def collect(self) -> Iterator[Metric]:
        """Yield the family."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        edges = [*map(str, self._bounds), "+Inf"]
        for values, buckets in self._series.items():
            so_far, told = 0, []
            for edge, count in zip(edges, buckets.counts, strict=True):
                so_far += count
                told.append((edge, so_far))
            family.add_metric(values, told, buckets.sum)
        yield family


def _bounded(values: Labels, series: dict[Labels, float] | dict[Labels, _Buckets]) -> Labels:
    """Return the labels of a new series: as they are while there is room."""
    return values if len(series) < MAX_SERIES else (OTHER,) * len(values)
