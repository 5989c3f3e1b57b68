"""The server and the key of a command. The key of this machine's server never leaves the machine."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from controlplane.errors import ConfigError

_KEY = re.compile(r"[!-~]+")
_NO_HOST = re.compile(r"[\0- \x7f\\]")


def key_for(server: str, given: str | None, own: Callable[[], str]) -> str:
    """Return the key for *server*: *given*, or for a server on this machine the result of *own*.

    Raises:
        ConfigError: the address or the key is invalid, or the server is on another machine and no key is given.
            *own* may raise ConfigError too.
    """
    if not _is_address(server):
        raise ConfigError(f"--server: expected http://host:port or https://host, got {server[:80]!r}")
    check_key(given)
    if not given and not is_local(server):
        raise ConfigError("--server: give --api-key too; the key of this machine is not sent to another one")
    return given or own()


def check_key(given: str | None) -> None:
    """Raise ConfigError if *key* cannot be a key. The message does not contain the key."""
    if given is not None and not _KEY.fullmatch(given):
        raise ConfigError("--api-key: a key has visible ASCII characters, and no others")


def _is_address(text: str) -> bool:
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
