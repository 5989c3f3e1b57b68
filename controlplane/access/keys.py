"""All API keys, by the hash of their text. Keys are created, changed and withdrawn while the server runs.

A key is long and random, so a slow hash would protect nothing: the store keeps its SHA-256 hash. The hash of a sent key
is looked up in a dictionary. The time of the lookup tells at most something about hashes, which nobody can choose.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from controlplane.access.key import Key, Quotas
from controlplane.access.scopes import ADMIN, OPERATOR, Caller, Needs, caller_of_key, check_scopes
from controlplane.errors import Conflict, Field, InvalidRequest, NotFound, SandlotError
from controlplane.sandbox import ADMIN_OWNER

log = structlog.get_logger()

PREFIX = "sandlot_"  # begins the text of every key: programs that look for leaked secrets recognise it
ID_PREFIX = "key_"  # begins the id of every key
KEY_BYTES = 32  # random bytes in a key
MAX_KEYS = 1000  # in the store: each costs some 2 KB of memory
MAX_KEY_CHARS = 512  # a longer text is no key, and is not hashed
# Paths and command lines contain names of keys.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Names in the audit log for callers without a key.
_TAKEN = frozenset({ADMIN_OWNER, OPERATOR.name, "token", "ticket", "signature"})
LAST_USED_STEP = timedelta(minutes=1)  # the store keeps the time of a use in steps of this length


class KeyStore(Protocol):
    """The part of `controlplane.store.store.Store` that keeps keys. Every method raises StoreError."""

    def put_key(self, key: Key) -> None: ...

    def delete_key(self, key_id: str) -> None: ...

    def api_keys(self) -> list[Key]: ...


class _NoStore:
    """The store of a server whose keys are all configured."""

    def put_key(self, key: Key) -> None:
        """Keep nothing."""

    def delete_key(self, key_id: str) -> None:
        """Forget nothing."""

    def api_keys(self) -> list[Key]:
        """Return nothing."""
        return []


class Keys:
    """All keys of the server, by id and by hash."""

    def __init__(
        self,
        configured: Mapping[str, str],
        store: KeyStore | None = None,
        *,
        on_narrowed: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Read the keys. Raises StoreError.

        Args:
            configured: Names and texts of administrators' keys outside the store, which the API cannot change.
            store: Keeps the other keys.
            on_narrowed: Called with the id of a key that was withdrawn, or may do less than before.
            clock: Unix time, s.
        """
        self._store: KeyStore = store or _NoStore()
        self._on_narrowed = on_narrowed
        self._clock = clock
        self._keys: dict[str, Key] = {}
        self._callers: dict[str, Caller] = {}  # by digest
        for name, text in configured.items():
            self._add(
                Key(
                    id=name,
                    name=name,
                    digest=hash_key(text),
                    scopes=(ADMIN,),
                    owner=ADMIN_OWNER,
                    created_at=self._now(),
                    is_configured=True,
                )
            )
        for key in self._store.api_keys():
            if key.id not in self._keys and key.digest not in self._callers:
                self._add(key)

    def caller(self, text: str) -> Caller | None:
        """Return the caller who sends *text* as key; None if the text is no key, or the key has expired."""
        if len(text) > MAX_KEY_CHARS:
            return None
        caller = self._callers.get(hash_key(text))
        if caller is None or (caller.expires_at is not None and caller.expires_at <= self._clock()):
            return None
        self._note_use(caller.key_id)
        return caller

    def find_text(self, text: str) -> Key | None:
        """Return the key whose text this is, with its use noted; None as in `caller`."""
        caller = self.caller(text)
        return self._keys[caller.key_id] if caller is not None else None

    def is_valid(self, key_id: str, digest: str) -> bool:
        """Return whether there is a key with that id and that hash, and it has not expired."""
        key = self._keys.get(key_id)
        return key is not None and key.digest == digest and (key.expires_at is None or key.expires_at > self._now())

    def use(self, key_id: str) -> Caller:
        """Return the caller that a valid key stands for, with its use noted."""
        self._note_use(key_id)
        return self._callers[self._keys[key_id].digest]

    def is_key(self, text: str) -> bool:
        """Return whether a text is a key, be it expired."""
        return len(text) <= MAX_KEY_CHARS and hash_key(text) in self._callers

    def may_use(self, key_id: str, sandbox_id: str) -> bool:
        """Return whether a key that saw a sandbox still exists, has not expired, and may run code in the sandbox."""
        key = self._keys.get(key_id)
        if key is None or (key.expires_at is not None and key.expires_at <= self._now()):
            return False
        return caller_of_key(key).may(Needs.USE, sandbox_id)

    def caller_with(self, key_id: str) -> Caller | None:
        """Return the caller that a key stands for now; None if the key does not exist, or has expired."""
        key = self._keys.get(key_id)
        if key is None or (key.expires_at is not None and key.expires_at <= self._now()):
            return None
        return caller_of_key(key)

    def get(self, key_id: str) -> Key:
        """Return a key by its id. Raises NotFound."""
        try:
            return self._keys[key_id]
        except KeyError:
            raise NotFound(f"there is no key {key_id[:64]}", code="key.not_found") from None

    def find(self, text: str) -> Key:
        """Return a key by its id or its name. Raises NotFound."""
        return next((key for key in self._keys.values() if key.name == text), None) or self.get(text)

    def list(self) -> list[Key]:
        """Return all keys: the configured ones, then those of the store, the oldest first."""
        return sorted(self._keys.values(), key=lambda key: (not key.is_configured, key.created_at))

    def create(
        self,
        name: str,
        scopes: tuple[str, ...],
        quotas: Quotas,
        *,
        owner: str = "",
        expires_at: datetime | None = None,
        created_by: str = "",
    ) -> tuple[Key, str]:
        """Create a key. Return the key and its text, which the server does not keep.

        Args:
            name: 1 to 64 letters, digits, '.', '_' and '-'; no other key may have this name.
            owner: The id of a key, or `admin`; "" is the new key itself.

        Raises:
            InvalidRequest: a scope is unknown, *expires_at* has passed, or the name looks like an owner or an id.
            Conflict: the name is taken, or there are too many keys.
            StoreError: the store cannot keep the key.
        """
        scopes = check_scopes(scopes)
        self._check_name(name)
        if expires_at is not None and expires_at <= self._now():
            raise InvalidRequest("must be in the future", field=Field.EXPIRES_AT)
        if sum(not key.is_configured for key in self._keys.values()) >= MAX_KEYS:
            raise Conflict(f"there are {MAX_KEYS} keys already: withdraw one", code="key.too_many")
        text = PREFIX + secrets.token_urlsafe(KEY_BYTES)
        key_id = ID_PREFIX + secrets.token_hex(8)
        key = Key(
            id=key_id,
            name=name,
            digest=hash_key(text),
            scopes=scopes,
            quotas=quotas,
            owner=owner or key_id,
            created_at=self._now(),
            created_by=created_by,
            expires_at=expires_at,
        )
        self._store.put_key(key)
        self._add(key)
        return key, text

    def change(
        self,
        key_id: str,
        *,
        name: str | UnsetType = UNSET,
        scopes: tuple[str, ...] | UnsetType = UNSET,
        quotas: Quotas | UnsetType = UNSET,
    ) -> Key:
        """Change the name, scopes or quotas of a key, and return the key. New scopes end the key's connections.

        Raises:
            NotFound: there is no such key.
            InvalidRequest: a scope is unknown, or the name looks like an owner or an id.
            Conflict: the key is configured, or the name is taken.
            StoreError: the store cannot keep the change; nothing is changed.
        """
        before = key = self._get_of_store(key_id)
        if name is not UNSET and name != key.name:
            self._check_name(name)
            key = replace(key, name=name)
        if scopes is not UNSET:
            key = replace(key, scopes=check_scopes(scopes))
        if quotas is not UNSET:
            key = replace(key, quotas=quotas)
        self._store.put_key(key)
        self._add(key)
        if key.scopes != before.scopes:
            self._on_narrowed(key_id)
        return key

    def withdraw(self, key_id: str) -> Key:
        """Withdraw a key, end its connections, and return the key. Its sandboxes and snapshots stay.

        Raises:
            NotFound: there is no such key.
            Conflict: the key is configured.
            StoreError: the store cannot keep the change; the key stays.
        """
        key = self._get_of_store(key_id)
        self._store.delete_key(key_id)
        del self._keys[key_id], self._callers[key.digest]
        self._on_narrowed(key_id)
        return key

    # -- inside

    def _add(self, key: Key) -> None:
        self._keys[key.id] = key
        self._callers[key.digest] = caller_of_key(key)

    def _get_of_store(self, key_id: str) -> Key:
        key = self.get(key_id)
        if key.is_configured:
            raise Conflict(
                f"key {key.name} is not in the store: it comes from [server] api_keys, or from the first start",
                code="key.configured",
            )
        return key

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidRequest("name: must have 1 to 64 letters, digits, '.', '_', '-', the first a letter or digit")
        if name in _TAKEN or name.startswith(ID_PREFIX):
            raise InvalidRequest(f"name: {name!r} looks like an owner, or the id of another key")
        if any(key.name == name for key in self._keys.values()):
            raise Conflict(f"name: there is a key {name} already", code="key.name_taken")

    def _note_use(self, key_id: str) -> None:
        key, now = self._keys[key_id], self._now()
        if key.last_used_at is not None and now - key.last_used_at < LAST_USED_STEP:
            return
        self._keys[key_id] = key = replace(key, last_used_at=now)
        if key.is_configured:
            return
        try:
            self._store.put_key(key)
        except SandlotError as error:  # the request itself continues
            log.warning("key.use_not_kept", key=key.name, error=error.message)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def hash_key(text: str) -> str:
    """Return the SHA-256 hash of a key's text, in hex. The server keeps this hash only."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
