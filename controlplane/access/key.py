"""The nouns: the records of an API key and of a sign-in in the store, and the quotas of a key."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Quotas(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The bounds on all sandboxes of a key's owner together. None is no bound."""

    sandboxes: int | None = None  # at once, paused ones included
    cpus: float | None = None  # sum of the limits of these, in cores
    memory_bytes: int | None = None  # likewise
    disk_bytes: int | None = None  # sum of what these have written
    creates_per_minute: int | None = None
    snapshots: int | None = None  # kept at once


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One API key. The text of the key is not here: `digest` is its SHA-256 hash, in hex."""

    id: str
    name: str
    digest: str
    scopes: tuple[str, ...]
    quotas: Quotas = Quotas()
    owner: str  # of the sandboxes and snapshots that the key creates and sees: the id of this or another key
    created_at: datetime  # aware, UTC
    created_by: str = ""  # name of the key that created this one
    expires_at: datetime | None = None
    last_used_at: datetime | None = None  # at most a minute old while the key is used
    is_configured: bool = False  # from the settings or the first start: not in the store, and fixed for the API


class SignIn(msgspec.Struct, frozen=True, kw_only=True):
    """A signed-in browser. Its cookie is not here: `id` is the cookie's SHA-256 hash, in hex."""

    id: str
    key_id: str
    key_digest: str  # a configured key keeps its id when its text changes, and its sign-ins end
    expires_at: float  # Unix time, s
