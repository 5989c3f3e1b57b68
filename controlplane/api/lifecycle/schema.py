"""The JSON of the lifecycle contract as Structs. Optional fields are omitted, never null."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import UNSET, UnsetType

from controlplane.api.edge.bodies import Wire
from controlplane.sandbox import Sandbox, State, status_of
from execd.wire.discreet import Discreet


class ImageAuth(Discreet, Wire, frozen=True):
    """The credentials for an image registry. The server uses them for this request only."""

    username: str = ""
    password: str = ""


class Image(Discreet, Wire, frozen=True):
    """The image of a sandbox."""

    uri: str
    auth: ImageAuth | None = None


class PlatformView(Wire, frozen=True, omit_defaults=False):
    """The platform that the image must run on. Answers always have both fields."""

    os: str = "linux"
    arch: str = "amd64"


class NetworkPolicy(Wire, frozen=True):
    """The egress policy of a sandbox. The server reads only these fields."""

    default_action: str = "deny"
    egress: list[Any] = []


class CredentialProxy(Wire, frozen=True):
    """The credential proxy, which this server does not have."""

    enabled: bool = False


class HostVolume(Wire, frozen=True):
    """A directory of the server's machine."""

    path: str


class ClaimVolume(Wire, frozen=True):
    """A named volume. The server ignores the last three fields, which are hints for clusters."""

    claim_name: str
    create_if_not_exists: bool = True
    delete_on_sandbox_termination: bool = False
    storage_class: str | None = None
    storage: str | None = None
    access_modes: list[str] | None = None


class VolumeView(Wire, frozen=True):
    """A volume of a sandbox, with exactly one of `host`, `pvc` and `ossfs`."""

    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str | None = None
    host: HostVolume | None = None
    pvc: ClaimVolume | None = None
    ossfs: dict[str, Any] | None = None


class CreateSandboxRequest(Discreet, Wire, frozen=True):
    """The body of POST /sandboxes."""

    image: Image | None = None
    snapshot_id: str | None = None
    template_id: str | None = None
    entrypoint: tuple[str, ...] | None = None
    timeout: int | None = None
    resource_limits: dict[str, str] | None = None
    resource_requests: dict[str, str] | None = None
    env: dict[str, str | None] | None = None
    metadata: dict[str, str] | None = None
    extensions: dict[str, str] | None = None
    platform: PlatformView | None = None
    secure_access: bool | None = None
    network_policy: NetworkPolicy | None = None
    credential_proxy: CredentialProxy | None = None
    lifecycle: dict[str, Any] | None = None
    volumes: list[VolumeView] | None = None


class Status(Wire, frozen=True):
    """The status of a sandbox or a snapshot: `reason` is a word for programs, `message` a sentence for people."""

    state: str
    reason: str = ""
    message: str = ""
    last_transition_at: datetime | None = None


class AllocationView(Wire, frozen=True, omit_defaults=False):
    """The warm pool from which the sandbox was taken by name."""

    mode: str
    pool_ref: str
    state: str


class SandboxView(Wire, frozen=True, kw_only=True):
    """A sandbox. The answer to a create has no `image`."""

    id: str
    image: Image | None = None
    snapshot_id: str = ""
    allocation: AllocationView | None = None
    status: Status
    metadata: dict[str, str] = {}
    extensions: dict[str, str] = {}
    platform: PlatformView | None = None
    entrypoint: tuple[str, ...] | UnsetType = UNSET
    expires_at: datetime | None = None
    created_at: datetime


class Pagination(Wire, frozen=True):
    """The place of a page in a list."""

    page: int
    page_size: int
    total_items: int
    total_pages: int
    has_next_page: bool


class SandboxPage(Wire, frozen=True):
    """The answer to GET /sandboxes."""

    items: list[SandboxView]
    pagination: Pagination


class Renewal(Wire, frozen=True):
    """The time at which a sandbox expires: the requested one in a request, the new one in an answer."""

    expires_at: datetime


class EndpointView(Wire, frozen=True):
    """The address of a port of a sandbox, and the headers that every request to this address must carry."""

    endpoint: str
    headers: dict[str, str] = {}


def view(sandbox: Sandbox, *, with_image: bool = True) -> SandboxView:
    """Return a sandbox in the contract's form."""
    platform = sandbox.spec.platform
    return SandboxView(
        id=sandbox.id,
        image=Image(sandbox.requested_image) if with_image and sandbox.requested_image else None,
        snapshot_id=sandbox.snapshot_id if with_image else "",
        allocation=_allocation(sandbox) if with_image else None,
        status=Status(sandbox.state.value, *status_of(sandbox), sandbox.state_changed_at),
        metadata=sandbox.spec.metadata,
        extensions=sandbox.spec.extensions,
        platform=None if platform is None else PlatformView(platform.os, platform.arch),
        entrypoint=sandbox.spec.entrypoint,
        expires_at=sandbox.expires_at,
        created_at=sandbox.created_at,
    )


def _allocation(sandbox: Sandbox) -> AllocationView | None:
    """Return the allocation of a sandbox. As with upstream's server, only a sandbox with a container has one."""
    if not sandbox.spec.pool or sandbox.state in (State.STOPPING, State.TERMINATED, State.FAILED):
        return None
    return AllocationView("pool", sandbox.spec.pool, "allocated")
