"""The count of failed attempts of each client address. The server never refuses a right key because of them."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

WINDOW_S = 60.0
MAX_ADDRESSES = 10_000  # remembered; a new one replaces the one whose window began first
IPV6_PREFIX = 64  # bits that name one client: it may choose the rest


class Attempts:
    """The failed attempts of the last minute, by address."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Allow *most* failed attempts of an address in a minute; 0 is no bound."""
        self._most = most
        self._clock = clock
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()  # begin and count; the oldest first

    def failed(self, address: str) -> int:
        """Count a failed attempt. Return 0, or after too many the time until the next one is looked at, in s."""
        if not self._most:
            return 0
        now, client = self._clock(), _client_of(address)
        began, count = self._windows.get(client, (now, 0))
        if now - began >= WINDOW_S:
            self._windows.pop(client, None)
            began, count = now, 0
        self._windows[client] = began, count + 1
        if len(self._windows) > MAX_ADDRESSES:
            self._windows.popitem(last=False)
        return math.ceil(began + WINDOW_S - now) if count >= self._most else 0


def _client_of(address: str) -> str:
    """Return the name of one client: an IPv4 address, or the network of an IPv6 address."""
    if ":" not in address:
        return address
    try:
        whole = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    return str(whole.ipv4_mapped or ipaddress.ip_network((whole, IPV6_PREFIX), strict=False))
