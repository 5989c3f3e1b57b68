"""`sandlot keys`: works over the API of a running server, or in the store of a server that does not run."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import msgspec

from controlplane.access.key import Key, Quotas
from controlplane.access.keys import Keys
from controlplane.access.scopes import caller_of_key
from controlplane.api.lifecycle.keys import ChangeKeyRequest, CreateKeyRequest, quotas_after, view_of
from controlplane.cli.place import check_key, key_for
from controlplane.client.server import Server
from controlplane.errors import ConfigError, InvalidRequest
from controlplane.sandbox import ADMIN_OWNER
from controlplane.settings.sections import Settings
from controlplane.store.store import Store

# The command's names of quotas → the API's names.
QUOTAS = {name: name for name in ("sandboxes", "cpus", "memory", "disk", "snapshots")} | {"creates": "createsPerMinute"}
_DURATION = re.compile(r"(\d{1,6})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

Shown = dict[str, Any]  # a key in the API's form


class Place(Protocol):
    """The place of the keys: a server, or its store."""

    def create(self, body: Shown) -> Shown: ...

    def list(self) -> Sequence[Shown]: ...

    def get(self, key: str) -> Shown: ...

    def change(self, key: str, body: Shown) -> Shown: ...

    def withdraw(self, key: str, *, end_sandboxes: bool) -> None: ...


def run(
    settings: Settings,
    options: argparse.Namespace,
    address: str,
    local_key: Callable[[], str],
    say: Callable[[str], None],
) -> int:
    """Run one of the commands.

    *address* is the address of the server with these settings; *local_key* returns its key, or raises ConfigError.

    Raises:
        SandlotError: the server refused, or neither the server nor its store can be used.
    """
    _check_given(options)
    with _place(settings, options, address, local_key) as place:
        match options.action:
            case "create":
                body = {"name": options.name, "scopes": options.scope, "quotas": _quotas(options.quota)}
                body |= {"owner": options.owner} if options.owner else {}
                body |= {"expiresAt": _moment(options.expires)} if options.expires else {}
                made = place.create(body)
                say(json.dumps(made) if options.json else _created(made))
            case "list":
                keys = place.list()
                say(json.dumps(keys) if options.json else _table(keys))
            case "show":
                key = place.get(options.name)
                say(json.dumps(key) if options.json else _sheet(key))
            case "change":
                body = {"scopes": options.scope} if options.scope else {}
                body |= {"quotas": _quotas(options.quota)} if options.quota else {}
                body |= {"name": options.rename} if options.rename else {}
                key = place.change(options.name, body)
                say(json.dumps(key) if options.json else _sheet(key))
            case "withdraw":
                place.withdraw(options.name, end_sandboxes=options.end_sandboxes)
                say("{}" if options.json else f"withdrawn: {options.name}")
    return 0


def _check_given(options: argparse.Namespace) -> None:
    """Raise InvalidRequest for an empty option: a variable of a script was unset, and the default is not meant."""
    for name in ("server", "api_key", "owner", "expires", "rename"):
        if getattr(options, name, None) == "":
            raise InvalidRequest(f"--{name.replace('_', '-')}: is empty")
    check_key(options.api_key)


@contextlib.contextmanager
def _place(
    settings: Settings, options: argparse.Namespace, address: str, local_key: Callable[[], str]
) -> Iterator[Place]:
    """Return the server that the options name, or else the store of these settings."""
    if options.server:
        yield _Server(options.server, key_for(options.server, options.api_key, local_key))
        return
    server = _Server(address, options.api_key or "")
    if server.answers():
        yield _Server(address, options.api_key or local_key())
        return
    try:
        store = Store(Path(settings.paths.state_dir))
    except ConfigError as error:
        raise ConfigError(
            f"no server answers at {address}, and the store cannot be used: {error.message}; "
            "name the server with --server URL and --api-key KEY"
        ) from error
    with contextlib.closing(store):
        yield _Local(Keys(dict.fromkeys(settings.server.named_keys or ("api-key",), ""), store), store)


class _Server:
    """The API of a running server."""

    def __init__(self, address: str, key: str) -> None:
        self._server = Server(address, key)

    def answers(self) -> bool:
        """Return whether a server answers."""
        return self._server.answers()

    def create(self, body: Shown) -> Shown:
        """Make a key."""
        made: Shown = self._server.ask("POST", "/v1/keys", body)
        return made

    def list(self) -> Sequence[Shown]:
        """Return all keys."""
        return list(self._server.pages("/v1/keys"))

    def get(self, key: str) -> Shown:
        """Return one key."""
        found: Shown = self._server.ask("GET", _path(key))
        return found

    def change(self, key: str, body: Shown) -> Shown:
        """Change a key."""
        changed: Shown = self._server.ask("PATCH", _path(key), body)
        return changed

    def withdraw(self, key: str, *, end_sandboxes: bool) -> None:
        """Withdraw a key."""
        self._server.ask("DELETE", _path(key) + ("?endSandboxes=true" if end_sandboxes else ""))


class _Local:
    """The store of a stopped server."""

    def __init__(self, keys: Keys, store: Store) -> None:
        self._keys = keys
        self._store = store

    def create(self, body: Shown) -> Shown:
        """Make a key."""
        wish = _convert(body, CreateKeyRequest)
        key, text = self._keys.create(
            wish.name,
            wish.scopes,
            quotas_after(wish.quotas, Quotas()),
            owner=self._owner(wish.owner) if wish.owner else "",
            expires_at=wish.expires_at,
            created_by="the command line",
        )
        return _shown(key) | {"key": text}

    def list(self) -> Sequence[Shown]:
        """Return all keys."""
        return [_shown(key) for key in self._keys.list()]

    def get(self, key: str) -> Shown:
        """Return one key."""
        return _shown(self._keys.find(key))

    def change(self, key: str, body: Shown) -> Shown:
        """Change a key."""
        wish, found = _convert(body, ChangeKeyRequest), self._keys.find(key)
        quotas = found.quotas if wish.quotas is msgspec.UNSET else quotas_after(wish.quotas, found.quotas)
        return _shown(self._keys.change(found.id, name=wish.name, scopes=wish.scopes, quotas=quotas))

    def withdraw(self, key: str, *, end_sandboxes: bool) -> None:
        """Withdraw a key."""
        if end_sandboxes:
            raise ConfigError("--end-sandboxes needs the running server: start it with `sandlot serve`")
        self._keys.withdraw(self._keys.find(key).id)

    def _owner(self, text: str) -> str:
        owners = {ADMIN_OWNER} | {sandbox.owner for sandbox in self._store.all()}
        return text if text in owners else caller_of_key(self._keys.find(text)).owner


def _shown(key: Key) -> Shown:
    shown: Shown = msgspec.to_builtins(view_of(key))
    return shown


def _convert(body: Shown, kind: type[Any]) -> Any:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from None


def _path(key: str) -> str:
    return f"/v1/keys/{urllib.parse.quote(key, safe='')}"


def _quotas(texts: Sequence[str]) -> Shown:
    """Return quotas from texts `name=amount` or `name=none`. Raises InvalidRequest."""
    quotas: Shown = {}
    for text in texts:
        name, _, amount = text.partition("=")
        if name not in QUOTAS or not amount:
            raise InvalidRequest(f"--quota {text}: expected name=amount or name=none, of {', '.join(QUOTAS)}")
        is_number = name not in ("memory", "disk")
        try:
            value = None if amount == "none" else _number(amount) if is_number else amount
        except ValueError:
            raise InvalidRequest(f"--quota {text}: expected a number") from None
        quotas[QUOTAS[name]] = int(value) if isinstance(value, float) and value.is_integer() else value
    return quotas


def _number(text: str) -> float:
    """Return a number. Raises ValueError if *text* is none, or JSON has no such number."""
    if not math.isfinite(number := float(text)):
        raise ValueError(text)
    return number


def _moment(text: str) -> str:
    """Return the time that 30m, 12h, 90d or an ISO 8601 text stands for. Raises InvalidRequest."""
    if (match := _DURATION.fullmatch(text)) is not None:
        return (datetime.now(UTC) + timedelta(**{_UNITS[match[2]]: int(match[1])})).isoformat()
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"--expires {text}: expected 30m, 12h, 90d, or a moment such as 2027-01-31T12:00Z"
        ) from None


# -- for people ----------------------------------------


def _created(key: Shown) -> str:
    return f"{_sheet(key)}\nkey:        {key['key']}\n\nThe key is shown this once; the server keeps its hash only."


def _sheet(key: Shown) -> str:
    rows = {
        "name": key["name"],
        "id": key["id"],
        "scopes": " ".join(key["scopes"]),
        "owner": key["owner"],
        "quotas": _amounts(key["quotas"]) or "none",
        "used": _amounts(key.get("usage") or {}),
        "created": f"{_minute(key['createdAt'])} by {key.get('createdBy') or key['source']}",
        "last used": _minute(key.get("lastUsedAt")),
        "expires": _minute(key.get("expiresAt")),
    }
    return "\n".join(f"{name + ':':<12}{value}" for name, value in rows.items() if value)


def _table(keys: Sequence[Shown]) -> str:
    head = ("NAME", "ID", "SCOPES", "OWNER", "QUOTAS", "LAST USED", "EXPIRES")
    rows = [
        (
            key["name"],
            key["id"] if key["source"] == "store" else "(settings)",
            " ".join(key["scopes"]),
            "itself" if key["owner"] == key["id"] else key["owner"],
            _amounts(key["quotas"]),
            _minute(key.get("lastUsedAt")),
            _minute(key.get("expiresAt")),
        )
        for key in keys
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows))
    return "\n".join(line.rstrip() for line in lines)


def _amounts(amounts: Mapping[str, Any]) -> str:
    names = {key: name for name, key in QUOTAS.items()}
    return " ".join(
        f"{names[key]}={value:g}" if isinstance(value, float) else f"{names[key]}={value}"
        for key, value in amounts.items()
    )


def _minute(text: str | None) -> str:
    return "" if text is None else text[:16].replace("T", " ")
