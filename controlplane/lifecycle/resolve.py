"""Requests resolved under the settings: the specification and the template of a sandbox, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

from msgspec.structs import replace

from controlplane.access.scopes import Caller
from controlplane.errors import Conflict, Field, InvalidRequest
from controlplane.images.names import parse_image_name, without_id
from controlplane.lifecycle.snapshots import REPOSITORY as SNAPSHOTS
from controlplane.lifecycle.snapshots import no_such_snapshot
from controlplane.pool.plan import Template
from controlplane.sandbox import (
    CreateRequest,
    Limits,
    Network,
    SandboxSpec,
    Snapshot,
    SnapshotState,
    Volume,
)
from controlplane.settings.sections import Settings, WarmPool

# The names of our own volumes begin so. No pattern of the settings allows them.
OUR_VOLUMES = "sandlot-"


class Resolver:
    """Applies the settings to requests. It asks no engine and changes nothing.

    Args:
        find_snapshot: Return a snapshot by its id; raises NotFound.
        check_limits: Raise InvalidRequest for limits that no sandbox may have.
    """

    def __init__(
        self,
        settings: Settings,
        find_snapshot: Callable[[str], Snapshot],
        check_limits: Callable[[Limits], None] = lambda limits: None,
    ) -> None:
        self._settings = settings
        self._find_snapshot = find_snapshot
        self._check_limits = check_limits
        self._pools = {pool.name: pool for pool in settings.warm_pools() if pool.name}

    def spec(self, request: CreateRequest, by: Caller) -> SandboxSpec:
        """Return what a sandbox is to be that a caller asks for.

        Raises:
            InvalidRequest: the limits are more than a sandbox may have, there is no such pool, or the settings do not
                allow a host path or user namespaces.
            NotFound, Conflict: the snapshot does not exist for the caller, or is not ready.
        """
        defaults = self._settings.sandbox
        if request.pool:
            request = self._from_pool(request)
        elif request.limits is not None:
            self._check_limits(request.limits)
        if request.user_namespaces and not defaults.allow_user_namespaces:
            raise InvalidRequest(
                "is not allowed here ([sandbox] allow_user_namespaces = false)",
                code="sandbox.unsupported",
                field=Field.USER_NAMESPACES,
            )
        image, env = self._source(request, by)
        return SandboxSpec(
            image=image,
            entrypoint=request.entrypoint,
            env=env,
            metadata=request.metadata,
            extensions=request.extensions,
            limits=request.limits or defaults.limits,
            network=request.network or Network.allowed(defaults.allow_network),
            volumes=tuple(self._allowed(volume, by.owner) for volume in request.volumes),
            platform=request.platform,
            pool=request.pool,
            gpus=request.gpus,
            user_namespaces=request.user_namespaces,
            secure_access=request.secure_access,
        )

    def template(self, spec: SandboxSpec) -> Template:
        """Return the template of the container that is made for a specification, with the limits of the settings.

        Where the engine can change limits, they are set at the claim: a pooled container starts with those of the
        settings.
        """
        if spec.pool:
            template = template_of_pool(self._settings, self._pools[spec.pool])
        else:
            template = template_for(self._settings, spec.image, spec.network)
        return replace(template, volumes=spec.volumes, gpus=spec.gpus, user_namespaces=spec.user_namespaces)

    def pool(self, name: str) -> WarmPool | None:
        """Return the settings of the warm pool of that name, or None."""
        return self._pools.get(name)

    def _source(self, request: CreateRequest, by: Caller) -> tuple[str, dict[str, str]]:
        """Return the image that a sandbox is made from, and its environment. Raises as `spec`."""
        if request.snapshot_id:
            snapshot = self._find_snapshot(request.snapshot_id)
            if not by.sees(snapshot.owner, snapshot.sandbox_id):
                raise no_such_snapshot(request.snapshot_id)
            if snapshot.state is not SnapshotState.READY:
                raise Conflict(f"snapshot {snapshot.id} is {snapshot.state.value}", code="snapshot.not_ready")
            return snapshot.image, {**snapshot.env, **request.env}
        image = self._settings.resolve_image(request.image)
        is_callers = bool(request.image) and image == request.image and not request.pool
        if is_callers and not by.is_admin:
            image = _checked_image(image)
        return image, request.env

    def _from_pool(self, request: CreateRequest) -> CreateRequest:
        """Return a request for a pool by name with what the pool decides: image, limits and network."""
        if (pool := self._pools.get(request.pool)) is None:
            raise InvalidRequest(
                f"there is no pool {request.pool[:64]!r}; there are: {', '.join(self._pools)}",
                code="pool.not_found",
                field=Field.POOL,
            )
        return replace(request, image=pool.image, limits=pool.limits, network=pool.network)

    def _allowed(self, volume: Volume, owner: str) -> Volume:
        """Return a volume as the settings allow it. Raises InvalidRequest.

        A host path is split into the directory that is allowed and the path below that directory. A name may mean a
        volume of the engine; any other named volume is its owner's.
        """
        if volume.volume_name:
            patterns = self._settings.storage.allowed_volumes
            is_allowed = any(fnmatchcase(volume.volume_name, pattern) for pattern in patterns)
            is_engines = is_allowed and not volume.volume_name.startswith(OUR_VOLUMES)
            return replace(volume, as_it_is=is_engines, owner=owner)
        for root in self._settings.storage.allowed_host_paths:
            if volume.host_root == root or volume.host_root.startswith(f"{root}/"):
                below = f"{volume.host_root}/{volume.sub_path}".removeprefix(root).strip("/")
                return replace(volume, host_root=root, sub_path=below)
        raise InvalidRequest(
            f"volume {volume.name}: {volume.host_root} is not below one of the server's [storage] allowed_host_paths",
            code="volume.host_path_not_allowed",
        )


def _checked_image(image: str) -> str:
    """Return an image's name so that it means no snapshot: every snapshot is an image, and may be another owner's.

    Raises:
        InvalidRequest: it is the id of an image: the engine has no owners, and the beginning of an id is guessed.
        NotFound: it names a snapshot.
    """
    if not (name := without_id(image)):
        raise InvalidRequest("an image is named by its name, not by its id", field=Field.IMAGE)
    parts = parse_image_name(name)
    if parts.path.rpartition("/")[2] == SNAPSHOTS:
        raise no_such_snapshot(parts.tag)
    return name


def template_of_pool(settings: Settings, pool: WarmPool) -> Template:
    """Return the template of a pool's containers under these settings."""
    return Template(
        image=pool.image,
        network=pool.network,
        limits=pool.limits,
        runtime=pool.runtime,
        hardened=settings.sandbox.hardened,
    )


def template_for(settings: Settings, image: str, network: Network) -> Template:
    """Return the template of an image under these settings."""
    return Template(
        image=image,
        network=network,
        limits=settings.sandbox.limits,
        runtime=settings.sandbox.runtime,
        hardened=settings.sandbox.hardened,
    )
