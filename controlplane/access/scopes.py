"""Scopes of keys: pure decisions about a caller, an operation and a sandbox."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence

import msgspec

from controlplane.access.key import Key, Quotas
from controlplane.errors import InvalidRequest
from controlplane.sandbox import ADMIN_OWNER

ADMIN, CREATE, READ = "admin", "create", "read"
OF_SANDBOX = "sandbox:"  # followed by the id of the sandbox
MAX_SCOPES = 32  # of one key

_WIDE = frozenset({ADMIN, CREATE, READ})  # a key with one of these sees everything of its owner
_SANDBOX_ID = re.compile(r"[A-Za-z0-9-]{1,64}")


class Needs(enum.Enum):
    """The requirement of an operation. A refusal quotes the text."""

    NOTHING = "no key"
    KEY = "any key"
    READ = "the scope read, create or admin, or sandbox:ID of that sandbox"
    USE = "the scope create or admin, or sandbox:ID of that sandbox"
    CREATE = "the scope create or admin"
    WATCH = "the scope read or admin"
    ADMIN = "the scope admin"


_ENOUGH: dict[Needs, frozenset[str]] = {
    Needs.READ: _WIDE,
    Needs.USE: frozenset({ADMIN, CREATE}),
    Needs.CREATE: frozenset({ADMIN, CREATE}),
    Needs.WATCH: frozenset({ADMIN, READ}),
    Needs.ADMIN: frozenset({ADMIN}),
}
# The scope of one sandbox is enough for these.
_OWNERS = frozenset({Needs.READ, Needs.USE})


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """The caller of an operation: a key, or a token, ticket or signed address of one sandbox."""

    key_id: str = ""  # "" for a token and a signature, whose holder is unknown
    name: str  # of the key; or "token", "ticket", "signature"
    owner: str = ""
    scopes: frozenset[str] = frozenset()
    sandboxes: frozenset[str] = frozenset()  # ids from the scopes sandbox:ID
    quotas: Quotas = Quotas()
    expires_at: float | None = None  # Unix time, s
    sign_in: str = ""  # id of the sign-in of a browser; "" for a caller who sent the key itself

    @property
    def actor(self) -> str:
        """The caller's name for people: of the key, behind `console` for a person at the console."""
        return f"console {self.name}" if self.sign_in else self.name

    @property
    def is_admin(self) -> bool:
        """Whether the caller may do everything."""
        return ADMIN in self.scopes

    def sees(self, owner: str, sandbox_id: str) -> bool:
        """Return whether the caller sees a sandbox, or a snapshot of one, that belongs to *owner*."""
        if sandbox_id in self.sandboxes or self.is_admin:
            return True
        return bool(self.scopes) and self.owner in (owner, ADMIN_OWNER)

    def may(self, needs: Needs, sandbox_id: str = "") -> bool:
        """Return whether the scopes are enough for an operation, with *sandbox_id* for one on that sandbox.

        Without an id, a scope of one sandbox is enough: lists contain what the caller sees, and the sandbox in a body
        is checked later.
        """
        if needs in (Needs.NOTHING, Needs.KEY) or self.scopes & _ENOUGH[needs]:
            return True
        return needs in _OWNERS and (sandbox_id in self.sandboxes if sandbox_id else bool(self.sandboxes))


# The server itself, for work without a caller.
OPERATOR = Caller(name="server", owner=ADMIN_OWNER, scopes=frozenset({ADMIN}))


def caller_of_key(key: Key) -> Caller:
    """Return the caller that a key stands for. An admin key always belongs to the administrator."""
    scopes = frozenset(key.scopes) & _WIDE
    return Caller(
        key_id=key.id,
        name=key.name,
        owner=ADMIN_OWNER if ADMIN in scopes else key.owner,
        scopes=scopes,
        sandboxes=frozenset(scope.removeprefix(OF_SANDBOX) for scope in key.scopes if scope.startswith(OF_SANDBOX)),
        quotas=key.quotas,
        expires_at=key.expires_at.timestamp() if key.expires_at is not None else None,
    )


def caller_for_sandbox(sandbox_id: str, name: str, issuer: Caller | None = None) -> Caller:
    """Return a caller who may do everything with one sandbox and nothing else. *issuer* let this caller in."""
    return Caller(
        key_id=issuer.key_id if issuer is not None else "",
        name=name,
        sandboxes=frozenset({sandbox_id}),
        expires_at=issuer.expires_at if issuer is not None else None,
        sign_in=issuer.sign_in if issuer is not None else "",
    )


def check_scopes(scopes: Sequence[str]) -> tuple[str, ...]:
    """Return the scopes in order, each once.

    Raises:
        InvalidRequest: there are no scopes or too many, or one is unknown.
    """
    for scope in scopes:
        is_of_sandbox = scope.startswith(OF_SANDBOX) and _SANDBOX_ID.fullmatch(scope.removeprefix(OF_SANDBOX))
        if scope not in _WIDE and not is_of_sandbox:
            raise InvalidRequest(
                f"scopes: {scope[:80]!r} is not a scope; the scopes are admin, create, read and sandbox:ID"
            )
    if not 0 < len(scopes) <= MAX_SCOPES:
        raise InvalidRequest(f"scopes: a key has 1 to {MAX_SCOPES} of admin, create, read and sandbox:ID")
    return tuple(sorted(set(scopes)))
