"""Keys and tokens of a server, looked for in all that it has written: logs, state, and what the engine shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from controlplane.access.credentials import KEY_FILE, SECRET_FILE, Credentials

LEAKS: list[str] = []  # of all servers of this run

_ID = re.compile(rb"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
# Whatever their values are: keys that were made over the API, and addresses that open a port.
_PATTERNS = {
    "an API key": re.compile(rb"sandlot_[\w-]{43}"),
    "a signed path": re.compile(rb"/signed/\d{1,5}/[0-9a-z]{1,10}/[a-z2-7]{16}"),
    "a signed host name": re.compile(rb"\b\d{1,5}-[0-9a-f]{32}-[0-9a-z]{1,10}-[a-z2-7]{16}"),
}


def find_leaks(places: Mapping[str, bytes], state: Path) -> list[str]:
    """Return what of a server's secrets stands where.

    Args:
        places: Name → all that was written there.
        state: The state directory: its files are places too, except the two that hold the secrets.
    """
    everywhere = {**places, **_files(state)}
    secrets = {name: (state / name).read_bytes().strip() for name in (KEY_FILE, SECRET_FILE) if (state / name).exists()}
    if SECRET_FILE in secrets:
        tokens = Credentials(secrets[SECRET_FILE])
        ids = {found.decode() for written in everywhere.values() for found in _ID.findall(written)}
        secrets |= {f"the token of {sandbox_id}": tokens.sandbox_token(sandbox_id).encode() for sandbox_id in ids}
    found = [
        f"{name} in {place}" for place, text in everywhere.items() for name, secret in secrets.items() if secret in text
    ]
    return found + [
        f"{name} in {place}"
        for place, text in everywhere.items()
        for name, is_one in _PATTERNS.items()
        if is_one.search(text)
    ]


def _files(state: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(state)): path.read_bytes()
        for path in state.rglob("*")
        if path.is_file() and path.name not in (KEY_FILE, SECRET_FILE)
    }
