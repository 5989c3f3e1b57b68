"""What is made of what other folders report: labels that no client can make many of."""

from __future__ import annotations

import math

import pytest

from controlplane.errors import StartFailed
from controlplane.telemetry.families import MAX_NAMES
from controlplane.telemetry.metrics import COLD, WARM, Metrics
from tests.support.samples import samples_of


def test_a_request_is_counted_and_timed() -> None:
    """By its operation, never by its path; a method or a status that nobody knows is folded."""
    metrics = Metrics()
    metrics.answered("sandbox.create", "POST", 201, 0.2, "")
    metrics.answered("", "GET", 404, 0.001, "NOT_FOUND")
    metrics.answered("port.forward", "BREW", 299, 0.001, "")
    metrics.answered("port.forward", "GET", 0, 0.001, "")
    assert samples_of(metrics.requests) == {
        "sandlot_requests_total[sandbox.create][POST][201]": 1,
        "sandlot_requests_total[none][GET][404]": 1,
        "sandlot_requests_total[port.forward][other][other]": 1,
        "sandlot_requests_total[port.forward][GET][0]": 1,
    }
    assert samples_of(metrics.request_duration)["sandlot_request_duration_seconds_sum[sandbox.create]"] == 0.2
    assert samples_of(metrics.request_errors) == {"sandlot_request_errors_total[NOT_FOUND]": 1}
    assert samples_of(metrics.denials) == {}


def test_denials_are_counted_by_code() -> None:
    """What a service in a sandbox says of its own callers has no code of ours, and is none."""
    metrics = Metrics()
    metrics.answered("", "GET", 401, 0.001, "INVALID_API_KEY")
    metrics.answered("", "GET", 429, 0.001, "TOO_MANY_FAILED_ATTEMPTS")
    metrics.answered("sandbox.create", "POST", 429, 0.001, "KUBERNETES::QUOTA_EXCEEDED")
    metrics.answered("port.forward", "GET", 401, 0.001, "")
    assert samples_of(metrics.denials) == {
        "sandlot_auth_failures_total[INVALID_API_KEY]": 1,
        "sandlot_auth_failures_total[TOO_MANY_FAILED_ATTEMPTS]": 1,
    }


def test_images_are_folded_but_for_those_of_the_settings() -> None:
    """Snapshots are told together: each is an image of its own."""
    metrics = Metrics(["sandlot/python"], snapshots="sandlot-snapshots:")
    for number in range(MAX_NAMES + 5):
        metrics.created(str(number), f"image-{number}", COLD, 1.0)
    metrics.created("a", "sandlot/python", WARM, 0.01)
    metrics.created("b", "sandlot-snapshots:1", COLD, 1.0)
    metrics.created("c", "sandlot-snapshots:2", COLD, 1.0)
    told = {name: value for name, value in samples_of(metrics.create_duration).items() if "_count" in name}
    assert len(told) == MAX_NAMES + len(("other", "sandlot/python", "snapshot"))
    assert told["sandlot_create_duration_seconds_count[sandlot/python][warm]"] == 1
    assert told["sandlot_create_duration_seconds_count[snapshot][cold]"] == 2
    assert told["sandlot_create_duration_seconds_count[other][cold]"] == 5


def test_the_first_value_of_a_sandbox_is_timed_once() -> None:
    """Of one that ended before, and of one that an earlier run of the server made, nothing is."""
    metrics = Metrics()
    for sandbox_id in ("one", "two"):
        metrics.created(sandbox_id, "image", WARM, 0.01)
    metrics.ended("two", "DELETED", 3.0)
    assert (metrics.is_first("one"), metrics.is_first("two"), metrics.is_first("three")) == (True, False, False)
    for sandbox_id in ("one", "one", "two", "three"):
        metrics.first_value(sandbox_id, 0.5)
    assert samples_of(metrics.first_value_duration)["sandlot_first_value_duration_seconds_count[image]"] == 1
    assert not metrics.is_first("one")


def test_ends_and_failures_are_counted_by_their_reasons() -> None:
    """And the life of a sandbox goes into a histogram."""
    metrics = Metrics()
    metrics.ended("one", "IDLE", 20.0)
    metrics.create_failed(StartFailed("no"))
    assert samples_of(metrics.ends) == {"sandlot_sandbox_ends_total[IDLE]": 1}
    assert samples_of(metrics.lifetime)["sandlot_sandbox_lifetime_seconds_bucket[60.0]"] == 1
    assert samples_of(metrics.lifetime)["sandlot_sandbox_lifetime_seconds_bucket[10.0]"] == 0
    assert samples_of(metrics.create_errors) == {"sandlot_create_errors_total[StartFailed]": 1}


def test_runs_are_counted_by_kind_language_and_cause() -> None:
    """Languages are folded: a client may name any."""
    metrics = Metrics()
    metrics.run_ended("process", "", "exit", wall_s=1.0, cpu_s=0.5, output_bytes=10)
    for number in range(MAX_NAMES + 3):
        metrics.run_ended("context", f"language-{number}", "ok", wall_s=1.0, cpu_s=0.25, output_bytes=1)
    told = samples_of(metrics.runs)
    assert told["sandlot_runs_total[command][][exit]"] == 1
    assert told["sandlot_runs_total[code][other][ok]"] == 3
    assert samples_of(metrics.run_cpu) == {
        "sandlot_run_cpu_seconds_total[command]": 0.5,
        "sandlot_run_cpu_seconds_total[code]": 0.25 * (MAX_NAMES + 3),
    }
    assert samples_of(metrics.run_output)["sandlot_run_output_bytes_total[command]"] == 10


@pytest.mark.attack(
    "agent",
    "A hijacked agent makes up causes, times and sizes of runs, for the metrics of the server",
    "Unknown causes are counted as one, impossible numbers as 0; the numbers of all others stay right",
)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1e9, 1e300])
def test_a_hijacked_agent_spoils_no_metric(number: float) -> None:
    metrics = Metrics()
    for kind in ("process", "context"):
        metrics.run_ended(kind, "", "ok", wall_s=1.0, cpu_s=0.5, output_bytes=10)
        for each in range(3):
            metrics.run_ended(kind, "", f"made-up-{each}", wall_s=number, cpu_s=number, output_bytes=int(-1e18))
    assert samples_of(metrics.runs) == {
        f"sandlot_runs_total[{kind}][][{cause}]": count
        for kind in ("command", "code")
        for cause, count in (("ok", 1), ("other", 3))
    }
    assert set(samples_of(metrics.run_cpu).values()) == {0.5}
    assert set(samples_of(metrics.run_output).values()) == {10}
    assert samples_of(metrics.run_duration)["sandlot_run_duration_seconds_sum[command][]"] == 1.0
