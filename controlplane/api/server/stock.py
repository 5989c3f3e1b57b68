"""`/images` and `/volumes`: what the engine keeps for sandboxes, and its removal."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from starlette.requests import Request
from starlette.responses import Response

from controlplane.access.scopes import Caller
from controlplane.api.edge.bodies import json_answer
from controlplane.api.edge.guard import caller_of
from controlplane.api.edge.parameters import flag
from controlplane.api.server.schema import ImageList, ImageView, VolumeList, VolumeView
from controlplane.errors import Conflict, ImageError, ImageInUse, NotFound, VolumeInUse
from controlplane.images.names import OUR_IMAGES, with_tag
from controlplane.images.recipes import declared_languages
from controlplane.lifecycle.events.bus import Bus
from controlplane.lifecycle.events.news import ImageNews
from controlplane.lifecycle.snapshots import REPOSITORY as SNAPSHOTS
from controlplane.runtime.driver import Driver
from controlplane.sandbox import ADMIN_OWNER, Sandbox, VolumeKind, has_ended
from controlplane.settings.sections import Settings
from controlplane.tasks import Shared

if TYPE_CHECKING:
    from controlplane.lifecycle.sandboxes import Sandboxes

log = structlog.get_logger()

# Images that no sandbox starts from: snapshots have operations of their own; the others are what ours are made of.
AGENT = f"{OUR_IMAGES}execd"
_NO_STOCK = (f"{SNAPSHOTS}:", f"{OUR_IMAGES}stage:", f"{OUR_IMAGES}debian:")
MAX_NAMED = 3  # sandboxes that a refusal names


class Images:
    """The endpoints of images."""

    def __init__(self, settings: Settings, driver: Driver, sandboxes: Sandboxes, bus: Bus) -> None:
        self._settings = settings
        self._driver = driver
        self._sandboxes = sandboxes
        self._bus = bus
        self._all = Shared(driver.images.list)  # an engine takes a second for a few dozen

    async def list(self, _: Request) -> Response:
        """List the images of the engine from which sandboxes can start, by name."""
        languages = await self._languages()
        used = Counter(with_tag(sandbox.spec.image) for sandbox in _living(self._sandboxes))
        pooled = self._pooled()
        items = [
            ImageView(
                name=name,
                id=image.id,
                size_bytes=image.size_bytes,
                created_at=image.created_at,
                languages=list(languages.get(name, ())),
                is_ours=name.startswith(OUR_IMAGES),
                sandboxes=used[name],
                pooled=name in pooled,
            )
            for image in await self._all.ask()
            for name in image.names
            if not name.startswith(_NO_STOCK)
        ]
        return json_answer(ImageList(sorted(items, key=lambda item: item.name)))

    async def remove(self, request: Request) -> Response:
        """Remove an image, by its name. 409 says what needs the image.

        An image under sandlot/ is built again by `make images`, any other one has to be pulled.
        """
        name = with_tag(request.path_params["name"])
        self._check(name)
        if not any(name in image.names for image in await self._driver.images.list()):
            raise NotFound(f"there is no image {name[:200]}", code="image.not_found")
        try:
            await self._driver.images.remove(name)
        except ImageInUse as error:
            raise _in_use(error.public) from error
        log.info("image.removed", image=name)
        self._bus.publish(ImageNews(name=name, event="removed"))
        return Response(status_code=204)

    def _check(self, name: str) -> None:
        """Raise Conflict when something needs an image, whether or not there are containers of the image now."""
        if name == with_tag(AGENT):
            raise _in_use(f"{name} is the agent of every sandbox")
        if name.startswith(f"{SNAPSHOTS}:"):
            raise _in_use(f"{name} is a snapshot: delete the snapshot {name.removeprefix(f'{SNAPSHOTS}:')[:64]}")
        if name in self._pooled():
            raise _in_use(f"a warm pool keeps containers of {name}: change [sandbox] image or [[pools]] first")
        users = [sandbox.id for sandbox in _living(self._sandboxes) if with_tag(sandbox.spec.image) == name]
        if users:
            raise _in_use(f"{name} is the image of {_some(users)}: delete {_them(users)} first")

    def _pooled(self) -> set[str]:
        return {with_tag(pool.image) for pool in self._settings.warm_pools() if pool.size}

    async def _languages(self) -> dict[str, tuple[str, ...]]:
        try:
            return await asyncio.to_thread(declared_languages, Path(self._settings.paths.images_dir))
        except (ImageError, OSError) as error:
            log.warning("images.folders_unreadable", error=str(error))
            return {}


class Volumes:
    """The endpoints of named volumes."""

    def __init__(self, driver: Driver, sandboxes: Sandboxes) -> None:
        self._driver = driver
        self._sandboxes = sandboxes
        self._all = Shared(driver.volumes.list)
        self._measured = Shared(partial(driver.volumes.list, measure=True))  # each reads directories

    async def list(self, request: Request) -> Response:
        """List the named volumes that the caller sees, by name.

        With `sizes`, the volumes are measured, which takes a second for each 300,000 files.
        """
        caller = caller_of(request.scope)
        is_measured = flag(request, "sizes", code="request.invalid")
        found = await (self._measured if is_measured else self._all).ask()
        items = [
            VolumeView(
                name=volume.name,
                owner=owner,
                created_at=volume.created_at,
                in_use_by=[sandbox.id for sandbox in self._users(volume.name) if _sees(caller, sandbox)],
                size_bytes=volume.size_bytes,
            )
            for volume in found
            if caller.sees(owner := _owner_of(volume.name), "")
        ]
        return json_answer(VolumeList(sorted(items, key=lambda item: item.name)))

    async def remove(self, request: Request) -> Response:
        """Remove a named volume with all that is in it. 409 says which sandbox uses the volume."""
        name = request.path_params["name"]
        if all(volume.name != name for volume in await self._driver.volumes.list()):
            raise NotFound(f"there is no volume {name[:200]}", code="volume.unknown")
        if users := [sandbox.id for sandbox in self._users(name)]:
            raise _volume_in_use(f"the volume {name} belongs to {_some(users)}: delete {_them(users)} first")
        try:
            await self._driver.volumes.remove(name)
        except VolumeInUse as error:
            raise _volume_in_use(error.public) from error
        log.info("volume.removed", volume=name)
        return Response(status_code=204)

    def _users(self, name: str) -> Iterable[Sandbox]:
        return [
            sandbox
            for sandbox in _living(self._sandboxes)
            if any(volume.kind is VolumeKind.NAMED and volume.owned_name == name for volume in sandbox.spec.volumes)
        ]


def _living(sandboxes: Sandboxes) -> list[Sandbox]:
    return [sandbox for sandbox in sandboxes.list() if not has_ended(sandbox)]


def _sees(caller: Caller, sandbox: Sandbox) -> bool:
    return caller.sees(sandbox.owner, sandbox.id)


def _owner_of(volume: str) -> str:
    """Return the owner in the name of a volume. The name that a caller gave contains no dot."""
    owner, dot, _ = volume.rpartition(".")
    return owner if dot else ADMIN_OWNER


def _some(users: list[str]) -> str:
    """Return some sandboxes by their ids, for a refusal."""
    more = f" and {len(users) - MAX_NAMED} more" if len(users) > MAX_NAMED else ""
    return f"{'sandbox' if len(users) == 1 else 'sandboxes'} {', '.join(users[:MAX_NAMED])}{more}"


def _them(users: list[str]) -> str:
    return "it" if len(users) == 1 else "them"


def _in_use(text: str) -> Conflict:
    return Conflict(text, code="image.used")


def _volume_in_use(text: str) -> Conflict:
    return Conflict(text, code="volume.in_use")
