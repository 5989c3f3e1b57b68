"""Addresses of servers, and which of them are certainly this machine's."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from urllib.parse import urlsplit

ALL_INTERFACES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a server listens on, not we
_NO_HOST = re.compile(r"[\0- \x7f\\]")


def is_address(text: str) -> bool:
    """Return whether a text is `http://host:port` or `https://host`."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        has_host = bool(parts.hostname) and not _NO_HOST.search(text)
        return parts.scheme in ("http", "https") and has_host and parts.port != 0  # .port raises ValueError
    return False


def is_local(address: str) -> bool:
    """Return whether an `http://` or `https://` address is certainly this machine's: loopback, or localhost."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(address)
        # Clients disagree about the border between a user's name and the host.
        if parts.scheme not in ("http", "https") or "@" in parts.netloc or "\\" in address:
            return False
        host = parts.hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    return False


def address_of(host: str, port: int) -> str:
    """Return the address under which a server on this machine is reached."""
    host = ALL_INTERFACES.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
