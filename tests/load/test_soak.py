"""A short soak: `make soak` is the long one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.load.soak import MAX_GROWTH_BYTES, Load, complaints, growth_bytes, most_overtaken, soak, summary, table

SUMMARY = Path(__file__).parents[2] / "build" / "soak.json"
MIB = 1 << 20


@pytest.mark.attack(
    "resources",
    "Many clients of the official SDKs use the server at once for minutes: code, commands, files, ports, pauses",
    "No operation fails, and the server's memory stays flat",
)
@pytest.mark.timeout(600)
def test_no_operation_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """With a crowd of sandboxes and commands in the end. Times are printed, and never fail the test."""
    result = soak(Load(seconds=20, clients=4, live=10, commands=25))
    SUMMARY.parent.mkdir(exist_ok=True)
    SUMMARY.write_text(json.dumps(result, indent=2) + "\n")
    with capsys.disabled():
        print(f"\n{table(result)}")
    assert complaints(result) == []
    assert {"first value", "command", "kill", "command, of a crowd"} <= result["operations"].keys()


def test_memory_that_grows_is_found() -> None:
    """And neither what fills in the beginning nor noise is taken for it."""
    noise = [(second / 2, 80 * MIB + second * 7919 % 8 * MIB) for second in range(400)]
    assert abs(growth_bytes(noise)) < 2 * MIB
    filling = [(at, size - max(0, 40 - int(at)) * MIB) for at, size in noise]
    assert growth_bytes(filling) < MAX_GROWTH_BYTES
    leaking = [(at, size + int(at) * MIB // 4) for at, size in noise]
    assert growth_bytes(leaking) > MAX_GROWTH_BYTES


def test_whoever_is_overtaken_is_found() -> None:
    """Asked and answered: the second one waits until two others that came later have theirs."""
    assert most_overtaken([(0, 1), (1, 2), (2, 3)]) == 0
    assert most_overtaken([(0, 1), (1, 9), (2, 3), (3, 4)]) == 2
    assert most_overtaken([]) == 0


def test_errors_in_the_log_are_found() -> None:
    """As the server writes them."""
    said = {"took_ms": {}, "failures": [], "firsts": []}
    log = '{"event": "request", "level": "info"}\n{"event": "task.failed", "level": "error"}\n'
    result = summary(Load(1, 1, 1, 1), said, [(0.0, MIB)], 1.0, log)
    assert complaints(result) == ['the server\'s log: {"event": "task.failed", "level": "error"}']


def test_failures_are_complaints() -> None:
    """Whatever fails, in a client or in the server's log."""
    well = {"failures": [], "growth_bytes": 0, "server_errors": [], "first_values_overtaken": 3, "clients": 20}
    assert complaints(well) == []
    assert complaints({**well, "failures": ["x"]}) == ["x"]
    assert complaints({**well, "growth_bytes": MAX_GROWTH_BYTES + 1})[0].startswith("the server's memory grew")
    assert complaints({**well, "first_values_overtaken": 11})[0].endswith("the line has no order")
    assert complaints({**well, "server_errors": ["e"]}) == ["the server's log: e"]
