"""`/keys`: API keys for administrators."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from controlplane.access.key import Key, Quotas
from controlplane.access.keys import Keys
from controlplane.access.scopes import MAX_SCOPES, Needs, caller_of_key
from controlplane.api.edge.bodies import Wire, json_answer, read_json, utc_moment
from controlplane.api.edge.guard import caller_of
from controlplane.api.edge.notes import note
from controlplane.api.edge.parameters import flag
from controlplane.api.lifecycle.pagination import paginate
from controlplane.api.lifecycle.quantities import parse_memory
from controlplane.api.lifecycle.schema import Pagination
from controlplane.errors import Conflict, InvalidRequest, NotFound
from controlplane.lifecycle.room.capacity import Usage
from controlplane.sandbox import ADMIN_OWNER

if TYPE_CHECKING:
    from controlplane.lifecycle.sandboxes import Sandboxes

_INVALID = "request.invalid"

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", examples=["agents"])]
Scopes = Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_SCOPES, examples=[["create"], ["read"]])]
Count = Annotated[int, Meta(ge=0, le=1_000_000, examples=[10])]
Cpus = Annotated[float, Meta(ge=0, le=1_000_000, examples=[4])]
Amount = Annotated[str, Meta(examples=["8Gi"])]


class QuotasWish(Wire, frozen=True):
    """The quotas to set: null removes a quota, and omitted quotas stay."""

    sandboxes: Count | UnsetType | None = UNSET
    cpus: Cpus | UnsetType | None = UNSET
    memory: Amount | UnsetType | None = UNSET
    disk: Amount | UnsetType | None = UNSET
    creates_per_minute: Count | UnsetType | None = UNSET
    snapshots: Count | UnsetType | None = UNSET


class CreateKeyRequest(Wire, frozen=True, kw_only=True):
    """The body of POST /keys."""

    name: Name
    scopes: Scopes
    quotas: QuotasWish = QuotasWish()
    owner: str = ""  # name or id of a key, or `admin`: whose sandboxes this key has too. Empty: the new key itself
    expires_at: datetime | None = None


class ChangeKeyRequest(Wire, frozen=True, kw_only=True):
    """The body of PATCH /keys/{id}. Omitted fields stay unchanged."""

    name: Name | UnsetType = UNSET
    scopes: Scopes | UnsetType = UNSET
    quotas: QuotasWish | UnsetType = UNSET


class QuotasView(Wire, frozen=True, kw_only=True):
    """The quotas of a key. A missing field is no bound."""

    sandboxes: int | None = None
    cpus: float | None = None
    memory: str | None = None
    disk: str | None = None
    creates_per_minute: int | None = None
    snapshots: int | None = None


class UsageView(msgspec.Struct, frozen=True):
    """The usage of a key's owner: the number of sandboxes, the sums of their limits, and their disk space.

    `disk` is the last measurement, at most a minute old.
    """

    sandboxes: int
    cpus: float
    memory: str
    disk: str


class KeyView(Wire, frozen=True, kw_only=True):
    """An API key without its text. `source` is `settings` for keys of the settings and of the first start."""

    id: str
    name: str
    scopes: tuple[str, ...]
    quotas: QuotasView
    usage: UsageView | None = None
    owner: str
    source: Literal["settings", "store"]
    created_at: datetime
    created_by: str = ""
    expires_at: datetime | None = None
    last_used_at: datetime | None = None


class CreatedKeyView(KeyView, frozen=True, kw_only=True):
    """A new API key with its text, which no other answer contains."""

    key: str


class KeyPage(Wire, frozen=True):
    """The answer to GET /keys."""

    items: list[KeyView]
    pagination: Pagination


class KeyAdministration:
    """The endpoints."""

    def __init__(self, keys: Keys, sandboxes: Sandboxes) -> None:
        self._keys = keys
        self._sandboxes = sandboxes

    async def create(self, request: Request) -> Response:
        """Create a key. Only this answer contains the text of the key."""
        body = await read_json(request, CreateKeyRequest, code=_INVALID)
        key, text = self._keys.create(
            body.name,
            body.scopes,
            quotas_after(body.quotas, Quotas()),
            owner=self._owner(body.owner) if body.owner else "",
            expires_at=None if body.expires_at is None else utc_moment(body.expires_at, "expiresAt"),
            created_by=caller_of(request.scope).name,
        )
        note(request.scope, target=key.id)
        view = CreatedKeyView(**msgspec.structs.asdict(self._view(key, self._usages())), key=text)
        return json_answer(view, 201, {"Location": f"/v1/keys/{key.id}", "Cache-Control": "no-store"})

    async def list(self, request: Request) -> Response:
        """List all keys: those of the settings, then the others, the oldest first."""
        items, pagination = paginate(request, self._keys.list())
        usages = self._usages()
        return json_answer(KeyPage([self._view(key, usages) for key in items], pagination))

    async def get(self, request: Request) -> Response:
        """Return a key, by its id or name."""
        return json_answer(self._view(self._find(request), self._usages()))

    async def change(self, request: Request) -> Response:
        """Change the name, scopes or quotas of a key. New scopes end the open connections of the key."""
        body = await read_json(request, ChangeKeyRequest, code=_INVALID)
        key = self._find(request)
        quotas = UNSET if body.quotas is UNSET else quotas_after(body.quotas, key.quotas)
        changed = self._keys.change(key.id, name=body.name, scopes=body.scopes, quotas=quotas)
        return json_answer(self._view(changed, self._usages()))

    async def withdraw(self, request: Request) -> Response:
        """Withdraw a key, and end its connections; with `endSandboxes`, end its sandboxes too.

        An administrator, or another key with the same owner, can end the remaining sandboxes.
        """
        key = self._find(request)
        is_last = flag(request, "endSandboxes", code=_INVALID)
        if is_last:
            self._check_alone(key)
        self._keys.withdraw(key.id)
        if is_last:
            await self._end_sandboxes(caller_of_key(key).owner)
        return Response(status_code=204)

    # -- inside

    def _find(self, request: Request) -> Key:
        return self._keys.find(request.path_params["key_id"])

    def _check_alone(self, key: Key) -> None:
        """Raise Conflict when another key may have made some of a key's sandboxes."""
        owner = caller_of_key(key).owner
        others = (caller_of_key(other) for other in self._keys.list() if other.id != key.id)
        if any(other.owner == owner and other.may(Needs.CREATE) for other in others):
            raise Conflict(
                f"endSandboxes: another key makes sandboxes for the same owner as {key.name}", code="key.shared"
            )

    async def _end_sandboxes(self, owner: str) -> None:
        """End all sandboxes of an owner, also those that are still being made."""
        await self._sandboxes.capacity.wait_created(owner)
        for sandbox in self._sandboxes.list():
            if sandbox.owner == owner:
                with contextlib.suppress(NotFound):  # it has ended meanwhile
                    await self._sandboxes.delete(sandbox.id)

    def _owner(self, text: str) -> str:
        """Return the owner that a name or an id of a key means. Raises InvalidRequest."""
        for key in self._keys.list():
            if text in (key.id, key.name):
                return caller_of_key(key).owner
        if text == ADMIN_OWNER or any(sandbox.owner == text for sandbox in self._sandboxes.list()):
            return text
        raise InvalidRequest(f"owner: {text[:64]!r} is no key, and no sandbox belongs to it")

    def _usages(self) -> Mapping[str, Usage]:
        return self._sandboxes.capacity.usages()

    def _view(self, key: Key, usages: Mapping[str, Usage]) -> KeyView:
        usage = usages.get(caller_of_key(key).owner, Usage())
        memory, disk = f"{usage.memory_bytes >> 20}Mi", f"{usage.disk_bytes >> 20}Mi"
        return view_of(key, UsageView(usage.sandboxes, usage.cpus, memory, disk))


def view_of(key: Key, usage: UsageView | None = None) -> KeyView:
    """Return a key as it is shown."""
    quotas = key.quotas
    return KeyView(
        id=key.id,
        name=key.name,
        scopes=key.scopes,
        quotas=QuotasView(
            sandboxes=quotas.sandboxes,
            cpus=quotas.cpus,
            memory=_amount(quotas.memory_bytes),
            disk=_amount(quotas.disk_bytes),
            creates_per_minute=quotas.creates_per_minute,
            snapshots=quotas.snapshots,
        ),
        usage=usage,
        owner=caller_of_key(key).owner,
        source="settings" if key.is_configured else "store",
        created_at=key.created_at,
        created_by=key.created_by,
        expires_at=key.expires_at,
        last_used_at=key.last_used_at,
    )


def quotas_after(wish: QuotasWish, before: Quotas) -> Quotas:
    """Return quotas as they are after a wish. Raises InvalidRequest."""

    def size(text: str | UnsetType | None, present: int | None, name: str) -> int | None:
        if text is UNSET:
            return present
        return None if text is None else parse_memory(text, f"quotas.{name}")

    return Quotas(
        sandboxes=before.sandboxes if wish.sandboxes is UNSET else wish.sandboxes,
        cpus=before.cpus if wish.cpus is UNSET else wish.cpus,
        memory_bytes=size(wish.memory, before.memory_bytes, "memory"),
        disk_bytes=size(wish.disk, before.disk_bytes, "disk"),
        creates_per_minute=before.creates_per_minute if wish.creates_per_minute is UNSET else wish.creates_per_minute,
        snapshots=before.snapshots if wish.snapshots is UNSET else wish.snapshots,
    )


def _amount(size: int | None) -> str | None:
    """Write an amount of memory as Kubernetes does."""
    if size is None:
        return None
    return f"{size >> 20}Mi" if size % (1 << 20) == 0 and size else str(size)
