"""The server and the key of a command. The key of this machine's server never leaves the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from controlplane.access import credentials
from controlplane.client.address import address_of, is_address, is_local
from controlplane.errors import ConfigError
from controlplane.settings import load
from controlplane.settings.sections import Settings

DOMAIN_VARIABLE, KEY_VARIABLE = "OPEN_SANDBOX_DOMAIN", "OPEN_SANDBOX_API_KEY"
MAX_KEY_BYTES = 4096
_KEY = re.compile(r"[!-~]+")


class Place(NamedTuple):
    """The address of a server and a key for it. `settings` are those of a server of this machine."""

    address: str
    key: str
    settings: Settings | None


def place_of(
    server: str | None,
    key: str | None,
    key_file: str | None,
    config: Path | None,
    environment: Mapping[str, str] = os.environ,
) -> Place:
    """Return the server that a command is for, and its key.

    The server is *server*, or else the one of `OPEN_SANDBOX_DOMAIN`, or else the one that this machine's settings
    describe. The key is *key* or the content of *key_file*, or else `OPEN_SANDBOX_API_KEY` (which belongs to the server
    of `OPEN_SANDBOX_DOMAIN`, if that is set), or else the key of this machine's own server, for an address of this
    machine only.

    Raises:
        ConfigError: the address or the key is invalid, or there is no key.
    """
    for name, value in (("--server", server), ("--api-key", key), ("--key-file", key_file)):
        if value == "":
            raise ConfigError(f"{name}: is empty")
    if key and key_file:
        raise ConfigError("--api-key and --key-file exclude each other")
    domain = environment.get(DOMAIN_VARIABLE, "").strip()
    wanted, name = (server, "--server") if server else (_with_scheme(domain), DOMAIN_VARIABLE)
    settings = None
    if not wanted:
        settings = load.load(config, environment, {})
        wanted = address_of(settings.server.host, settings.server.port)
    elif not is_address(wanted):
        raise ConfigError(f"{name}: expected http://host:port or https://host, got {wanted[:80]!r}")
    given = key or (read_key(Path(key_file)) if key_file else None)
    if given is None and (not server or not domain or _is_same(server, domain)):
        given = environment.get(KEY_VARIABLE, "").strip() or None
        check_key(given, KEY_VARIABLE)
    check_key(given)
    if given:
        return Place(wanted, given, settings)
    if server and domain and environment.get(KEY_VARIABLE):
        raise ConfigError(
            f"--server: {KEY_VARIABLE} is the key of {domain}, and is not sent to {wanted}; give --key-file"
        )
    if not is_local(wanted):
        raise ConfigError(
            f"{name}: there is no key for {wanted}; set {KEY_VARIABLE}, or give --key-file "
            "(the key of this machine's server is not sent to another one)"
        )
    return Place(wanted, own_key(settings or load.load(config, environment, {})), settings)


def key_for(server: str, given: str | None, own: Callable[[], str]) -> str:
    """Return the key for *server*: *given*, or for a server on this machine the result of *own*.

    Raises:
        ConfigError: the address or the key is invalid, or the server is on another machine and no key is given.
            *own* may raise ConfigError too.
    """
    if not is_address(server):
        raise ConfigError(f"--server: expected http://host:port or https://host, got {server[:80]!r}")
    check_key(given)
    if not given and not is_local(server):
        raise ConfigError("--server: give --api-key too; the key of this machine is not sent to another one")
    return given or own()


def check_key(given: str | None, name: str = "--api-key") -> None:
    """Raise ConfigError if *key* cannot be a key. The message does not contain the key."""
    if given is not None and not _KEY.fullmatch(given):
        raise ConfigError(f"{name}: a key has visible ASCII characters, and no others")


def read_key(path: Path) -> str:
    """Return the key in a file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_KEY_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"--key-file: {path}: cannot be read: {reason}") from None
    if not text:
        raise ConfigError(f"--key-file: {path}: is empty")
    check_key(text, f"--key-file: {path}")
    return text


def own_key(settings: Settings) -> str:
    """Return an admin key of the server with these settings. Raises ConfigError."""
    if settings.server.api_keys:
        return next(iter(settings.server.named_keys.values()))
    state_dir = Path(settings.paths.state_dir)
    try:
        return credentials.read_api_key(state_dir)
    except FileNotFoundError:
        raise ConfigError(
            f"there is no key in {state_dir} yet: the first `sandlot serve` makes one; for a server elsewhere, or with "
            f"another state directory, set {KEY_VARIABLE} or give --key-file"
        ) from None
    except PermissionError:
        raise ConfigError(f"{state_dir}/api-key belongs to the user who runs the server") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{state_dir}/api-key: cannot be read: {error}") from error


def _with_scheme(domain: str) -> str:
    """Return an address for a domain as the official clients take it: host:port, or with a scheme."""
    return domain if not domain or "://" in domain else f"http://{domain}"


def _is_same(server: str, domain: str) -> bool:
    return server.rstrip("/").removesuffix("/v1") == _with_scheme(domain).rstrip("/").removesuffix("/v1")
