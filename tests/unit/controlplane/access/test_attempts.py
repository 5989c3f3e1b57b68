"""Failed attempts, by address."""

from __future__ import annotations

import pytest

from controlplane.access import attempts as attempts_module
from controlplane.access.attempts import Attempts
from tests.support.clock import Clock


def test_too_many_in_a_minute() -> None:
    """The next ones hear when it begins anew; other addresses notice nothing."""
    clock = Clock()
    attempts = Attempts(3, clock)
    assert [attempts.failed("10.0.0.1") for _ in range(3)] == [0, 0, 0]
    clock.now += 20
    assert attempts.failed("10.0.0.1") == 40
    assert attempts.failed("10.0.0.2") == 0
    clock.now += 40
    assert attempts.failed("10.0.0.1") == 0


def test_without_a_bound() -> None:
    """0 is none, and nothing is remembered."""
    attempts = Attempts(0)
    assert {attempts.failed("10.0.0.1") for _ in range(1000)} == {0}


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8:1:2:3::4", "2001:db8:1:2:ffff::1", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("x:y", "x:z", False),
    ],
)
def test_a_client_is_a_network_of_ipv6(one: str, other: str, is_same: bool) -> None:
    """Whoever has an address there has 2**64 of them."""
    attempts = Attempts(1)
    attempts.failed(one)
    assert bool(attempts.failed(other)) is is_same


def remembered(addresses: int) -> int:
    """How many addresses are remembered of so many."""
    attempts = Attempts(1)
    for number in range(addresses):
        attempts.failed(str(number))
    return len(attempts._windows)


@pytest.mark.attack("edge", "wrong keys come from very many addresses", "a bounded number of addresses is remembered")
def test_many_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten for the newest; with a larger bound there would be more."""
    monkeypatch.setattr(attempts_module, "MAX_ADDRESSES", 10)
    assert remembered(100) == 10
    monkeypatch.setattr(attempts_module, "MAX_ADDRESSES", 50)
    assert remembered(100) == 50
