"""Requests and settings only: what a sandbox is to be, and what is refused before anything is made."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.access.scopes import OPERATOR, Caller
from controlplane.errors import Conflict, InvalidRequest, NotFound
from controlplane.lifecycle.records.registry import utc_now
from controlplane.lifecycle.resolve import Resolver, template_for
from controlplane.lifecycle.snapshots import REPOSITORY, no_such_snapshot
from controlplane.sandbox import Limits, Network, SandboxSpec, Snapshot, SnapshotState, Volume
from controlplane.settings.sections import PoolSettings, SandboxSettings, Settings, StorageSettings
from tests.support.server.control_plane import IMAGE, a_request

BOT = Caller(name="bot", owner="bot", scopes=frozenset({"create"}))


def a_snapshot(**changes: Any) -> Snapshot:
    """A snapshot of the bot that is ready."""
    now = utc_now()
    fields = {"id": "s", "owner": "bot", "sandbox_id": "one", "image": f"{REPOSITORY}:s", "state": SnapshotState.READY}
    return Snapshot(**{**fields, "created_at": now, "state_changed_at": now, **changes})


def find(*snapshots: Snapshot) -> Any:
    """Return what finds these snapshots."""

    def get(snapshot_id: str) -> Snapshot:
        for snapshot in snapshots:
            if snapshot.id == snapshot_id:
                return snapshot
        raise no_such_snapshot(snapshot_id)

    return get


def a_resolver(*snapshots: Snapshot, storage: StorageSettings | None = None, **sandbox: Any) -> Resolver:
    settings = Settings(
        sandbox=SandboxSettings(**{"image": IMAGE, **sandbox}),
        storage=storage or StorageSettings(),
        pools=(PoolSettings(name="big", image="big/image", size=1),),
    )
    return Resolver(settings, find(*snapshots))


def a_volume(**changes: Any) -> Volume:
    return Volume(**{"name": "v", "mount_path": "/v", **changes})


def test_what_is_not_asked_for_is_as_the_settings_say() -> None:
    spec = a_resolver(allow_network=True).spec(a_request(), OPERATOR)
    settings = SandboxSettings(image=IMAGE, allow_network=True)
    assert spec == SandboxSpec(
        image=IMAGE, entrypoint=("tail", "-f", "/dev/null"), limits=settings.limits, network=Network.BRIDGE
    )


def test_a_pool_decides_image_limits_and_network() -> None:
    """The limits of the caller are not looked at."""
    resolver = a_resolver()
    spec = resolver.spec(a_request(image="", pool="big"), OPERATOR)
    pool = resolver.pool("big")
    assert pool is not None
    assert (spec.image, spec.limits, spec.network) == ("big/image", pool.limits, pool.network)
    assert resolver.template(spec).image == "big/image"
    with pytest.raises(InvalidRequest, match="there is no pool 'none'") as refused:
        resolver.spec(a_request(image="", pool="none"), OPERATOR)
    assert refused.value.code == "pool.not_found"


def test_limits_are_checked_where_they_are_asked_for() -> None:
    checked: list[Limits] = []
    resolver = Resolver(Settings(), find(), checked.append)
    resolver.spec(a_request(), OPERATOR)
    resolver.spec(a_request(limits=Limits(cpus=3)), OPERATOR)
    assert checked == [Limits(cpus=3)]


def test_a_template_has_the_limits_of_the_settings() -> None:
    """Other limits are set at the claim, so that a warm container serves them too."""
    resolver = a_resolver()
    volume = a_volume(volume_name="data")
    spec = resolver.spec(a_request(limits=Limits(cpus=3), volumes=(volume,), gpus="1"), OPERATOR)
    template = resolver.template(spec)
    plain = template_for(Settings(sandbox=SandboxSettings(image=IMAGE)), IMAGE, spec.network)
    assert template.limits == plain.limits != spec.limits
    assert (template.volumes, template.gpus) == (spec.volumes, "1")


def test_user_namespaces_are_refused_unless_the_settings_allow_them() -> None:
    with pytest.raises(InvalidRequest, match="allow_user_namespaces"):
        a_resolver().spec(a_request(user_namespaces=True), OPERATOR)
    assert a_resolver(allow_user_namespaces=True).spec(a_request(user_namespaces=True), OPERATOR).user_namespaces


def test_a_snapshot_brings_its_image_and_environment() -> None:
    """The request's own environment wins."""
    resolver = a_resolver(a_snapshot(env={"A": "1", "B": "1"}))
    spec = resolver.spec(a_request(image="", snapshot_id="s", env={"B": "2"}), BOT)
    assert (spec.image, spec.env) == (f"{REPOSITORY}:s", {"A": "1", "B": "2"})


@pytest.mark.parametrize(
    ("snapshot", "error"),
    [
        pytest.param(a_snapshot(owner="other"), NotFound, id="of somebody else"),
        pytest.param(a_snapshot(state=SnapshotState.CREATING), Conflict, id="not ready"),
        pytest.param(a_snapshot(id="t"), NotFound, id="not there"),
    ],
)
def test_a_snapshot_that_a_caller_cannot_use_is_refused(snapshot: Snapshot, error: type[Exception]) -> None:
    with pytest.raises(error):
        a_resolver(snapshot).spec(a_request(image="", snapshot_id="s"), BOT)


@pytest.mark.parametrize("image", [f"{REPOSITORY}:s", f"docker.io/library/{REPOSITORY}:s", "sha256:" + "a" * 64])
def test_no_image_name_reaches_a_snapshot(image: str) -> None:
    """Nor does an id: an image has no owner, and a snapshot has."""
    with pytest.raises((NotFound, InvalidRequest)):
        a_resolver(a_snapshot()).spec(a_request(image=image), BOT)
    assert a_resolver(a_snapshot()).spec(a_request(image=image), OPERATOR).image == image


def test_a_host_path_is_below_what_the_settings_allow() -> None:
    """It is split there, so that the engine can check each component below."""
    resolver = a_resolver(storage=StorageSettings(allowed_host_paths=("/srv/data",)))
    asked = a_volume(host_root="/srv/data/a", sub_path="b")
    (volume,) = resolver.spec(a_request(volumes=(asked,)), OPERATOR).volumes
    assert (volume.host_root, volume.sub_path) == ("/srv/data", "a/b")
    for path in ("/srv", "/srv/database", "/etc"):
        with pytest.raises(InvalidRequest, match="allowed_host_paths"):
            resolver.spec(a_request(volumes=(a_volume(host_root=path),)), OPERATOR)


@pytest.mark.parametrize(("claim", "is_engines"), [("shared-1", True), ("own", False), ("sandlot-agent", False)])
def test_a_named_volume_is_its_owner_s_unless_the_settings_allow_the_engine_s(claim: str, is_engines: bool) -> None:
    """No pattern allows a volume of ours."""
    resolver = a_resolver(storage=StorageSettings(allowed_volumes=("shared-*", "sandlot-*")))
    (volume,) = resolver.spec(a_request(volumes=(a_volume(volume_name=claim),)), BOT).volumes
    assert (volume.as_it_is, volume.owner) == (is_engines, "bot")
