"""Counters, gauges and histograms: what they tell, and that their number is bounded."""

from __future__ import annotations

import itertools

import pytest

from controlplane.telemetry import families
from controlplane.telemetry.families import Counter, Gauge, Histogram, Names
from tests.support.samples import samples_of


def test_a_counter_counts_by_labels() -> None:
    """One without labels is there from the beginning, and one with labels from its first count on."""
    plain, labelled = Counter("plain", "Plain."), Counter("labelled", "Labelled.", "one", "two")
    assert samples_of(plain, labelled) == {"plain_total": 0}
    plain.add(by=2.5)
    labelled.add("a", "b")
    labelled.add("a", "b")
    labelled.add("a", "c")
    assert samples_of(plain, labelled) == {"plain_total": 2.5, "labelled_total[a][b]": 2, "labelled_total[a][c]": 1}
    assert labelled.total == 3


def test_a_gauge_grows_and_shrinks() -> None:
    """By differences, or to a value."""
    gauge = Gauge("open", "Open.", "type")
    gauge.add("http")
    gauge.add("http")
    gauge.add("http", by=-1)
    gauge.set("disk", to=7)
    gauge.set("disk", to=5)
    assert samples_of(gauge) == {"open[http]": 1, "open[disk]": 5}


def test_a_histogram_has_buckets_that_add_up() -> None:
    """A value at an edge belongs to the bucket below the edge, and none is lost beyond the last."""
    histogram = Histogram("time_seconds", "Time.", "image", bounds=(0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 1.0, 99.0):
        histogram.observe(seconds, "python")
    assert samples_of(histogram) == {
        "time_seconds_bucket[python][0.1]": 2,
        "time_seconds_bucket[python][1.0]": 4,
        "time_seconds_bucket[python][+Inf]": 5,
        "time_seconds_count[python]": 5,
        "time_seconds_sum[python]": pytest.approx(100.65),
    }


def test_a_histogram_without_labels_is_there_from_the_beginning() -> None:
    """A rate of what has not happened yet is 0, and not unknown."""
    assert samples_of(Histogram("lag_seconds", "Lag."))["lag_seconds_count"] == 0


def test_the_series_of_a_family_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after the last is counted together, so that nothing is lost."""
    monkeypatch.setattr(families, "MAX_SERIES", 3)
    counter, gauge, histogram = Counter("c", "C.", "x", "y"), Gauge("g", "G.", "x"), Histogram("h", "H.", "x")
    for number in range(10):
        counter.add(str(number), "same")
        gauge.set(str(number), to=number)
        histogram.observe(1.0, str(number))
    told = samples_of(counter)
    assert told.keys() == {"c_total[0][same]", "c_total[1][same]", "c_total[2][same]", "c_total[other][other]"}
    assert told["c_total[other][other]"] == 7
    assert samples_of(gauge).keys() == {"g[0]", "g[1]", "g[2]", "g[other]"}
    assert samples_of(histogram)["h_count[other]"] == 7


def test_names_that_clients_choose_are_folded() -> None:
    """The first are told, all later ones are not; and those of the settings always are."""
    names = Names(["ours"], most=2)
    asked = ["a", "b", "c", "a", "ours", "d"]
    assert [names.fold(name) for name in asked] == ["a", "b", "other", "a", "ours", "other"]
    assert {names.fold(str(number)) for number in itertools.islice(itertools.count(), 1000)} == {"other"}
