"""Sign-ins of browsers: what a cookie stands for, and the links that a person opens once instead of typing a key.

A sign-in belongs to one key, and ends with the key, at its own time, or when the person signs out. The store keeps it,
by the hash of its cookie, so that it survives a restart, and so that its end does too. Links live in memory alone.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from controlplane.access.key import Key, SignIn
from controlplane.access.keys import Keys
from controlplane.access.scopes import Caller

TOKEN_BYTES = 32  # random bytes in a cookie, and in the code of a link
MAX_TOKEN_CHARS = 64  # a longer text is neither, and is not hashed
MAX_SIGN_INS = 100  # of one key; a new one ends the oldest
MAX_LINKS = 100  # unused, of one key; a new one replaces the oldest
LINK_S = 300.0  # a person who asks for a link is about to open it
HOUR_S = 3600.0


class SignInStore(Protocol):
    """The part of `controlplane.store.store.Store` that keeps sign-ins. Every method raises StoreError."""

    def put_sign_in(self, sign_in: SignIn) -> None: ...

    def delete_sign_in(self, sign_in_id: str) -> None: ...

    def sign_ins(self) -> list[SignIn]: ...


class _NoStore:
    """The store of a server that keeps sign-ins in memory."""

    def put_sign_in(self, sign_in: SignIn) -> None:
        """Keep nothing."""

    def delete_sign_in(self, sign_in_id: str) -> None:
        """Forget nothing."""

    def sign_ins(self) -> list[SignIn]:
        """Return nothing."""
        return []


class SignIns:
    """All sign-ins of the server, the oldest first."""

    def __init__(
        self,
        keys: Keys,
        store: SignInStore | None = None,
        *,
        hours: float = 12,
        on_ended: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Read the sign-ins. Raises StoreError.

        Args:
            keys: The keys that sign in.
            store: Keeps the sign-ins.
            hours: Life of a sign-in.
            on_ended: Called with the id of a sign-in that was ended: its other connections end too.
            clock: Unix time, s.
        """
        self._keys = keys
        self._store: SignInStore = store or _NoStore()
        self._life_s = hours * HOUR_S
        self._on_ended = on_ended
        self._clock = clock
        self._open = {each.id: each for each in sorted(self._store.sign_ins(), key=lambda each: each.expires_at)}

    def begin(self, key: Key) -> tuple[str, Caller]:
        """Sign a browser in with a key. Return the text of its cookie, and the caller that the cookie stands for.

        Raises:
            StoreError: the store cannot keep it, and there is no sign-in.
        """
        self._forget_some(key.id)
        token = secrets.token_urlsafe(TOKEN_BYTES)
        sign_in = SignIn(id=_hash(token), key_id=key.id, key_digest=key.digest, expires_at=self._clock() + self._life_s)
        self._store.put_sign_in(sign_in)
        self._open[sign_in.id] = sign_in
        return token, self._caller(sign_in)

    def caller(self, token: str) -> Caller | None:
        """Return the caller that a cookie stands for; None if it is none of ours, or has ended."""
        return self.again(_hash(token)) if len(token) <= MAX_TOKEN_CHARS else None

    def again(self, sign_in_id: str) -> Caller | None:
        """Return the caller that a sign-in stands for now, by its id; None if it has ended."""
        sign_in = self._open.get(sign_in_id)
        return self._caller(sign_in) if sign_in is not None and self._is_open(sign_in) else None

    def seconds_left(self, caller: Caller) -> int:
        """Return for how long a caller who has signed in will be known."""
        return 0 if caller.expires_at is None else int(caller.expires_at - self._clock())

    def end(self, sign_in_id: str) -> None:
        """End a sign-in and its connections. Idempotent. Raises StoreError: it may be back after a restart."""
        if self._open.pop(sign_in_id, None) is not None:
            self._on_ended(sign_in_id)
            self._store.delete_sign_in(sign_in_id)

    def _is_open(self, sign_in: SignIn) -> bool:
        return sign_in.expires_at > self._clock() and self._keys.is_valid(sign_in.key_id, sign_in.key_digest)

    def _caller(self, sign_in: SignIn) -> Caller:
        caller = self._keys.use(sign_in.key_id)
        ends = sign_in.expires_at if caller.expires_at is None else min(sign_in.expires_at, caller.expires_at)
        return replace(caller, sign_in=sign_in.id, expires_at=ends)

    def _forget_some(self, key_id: str) -> None:
        """End the sign-ins that open nothing any more, and the oldest ones of a key that has too many."""
        for each in [each for each in self._open.values() if not self._is_open(each)]:
            self.end(each.id)
        mine = [each.id for each in self._open.values() if each.key_id == key_id]
        for sign_in_id in mine[: max(0, len(mine) + 1 - MAX_SIGN_INS)]:
            self.end(sign_in_id)


class Links:
    """The codes of links that sign a browser in once, in memory."""

    def __init__(self, keys: Keys, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._clock = clock
        self._open: OrderedDict[str, tuple[str, str, float]] = (
            OrderedDict()
        )  # by hash: id and digest of the key, expiry

    def make(self, key_id: str, life_s: float = LINK_S) -> tuple[str, float]:
        """Return a code that signs in with a key, and when it expires (Unix time, s). Raises NotFound."""
        key, now = self._keys.get(key_id), self._clock()
        for code, (_, _, expires) in list(self._open.items()):
            if expires <= now:
                del self._open[code]
        mine = [code for code, (owner, _, _) in self._open.items() if owner == key_id]
        for code in mine[: max(0, len(mine) + 1 - MAX_LINKS)]:
            del self._open[code]
        text, expires = secrets.token_urlsafe(TOKEN_BYTES), now + life_s
        self._open[_hash(text)] = (key.id, key.digest, expires)
        return text, expires

    def redeem(self, text: str) -> Key | None:
        """Return the key that a code signs in with; afterwards the code is used up. None: it is none, or has ended."""
        if len(text) > MAX_TOKEN_CHARS or (found := self._open.pop(_hash(text), None)) is None:
            return None
        key_id, digest, expires = found
        is_open = expires > self._clock() and self._keys.is_valid(key_id, digest)
        return self._keys.get(key_id) if is_open else None


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
