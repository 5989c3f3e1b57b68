"""Addresses of servers."""

from __future__ import annotations

from controlplane.client.address import address_of


def test_the_address_of_a_server_that_listens_everywhere() -> None:
    """It is asked on this machine's loopback."""
    assert address_of("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert address_of("::", 80) == "http://[::1]:80"
    assert address_of("10.0.0.1", 80) == "http://10.0.0.1:80"
