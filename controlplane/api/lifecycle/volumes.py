"""`volumes` of POST /sandboxes: from the body to mounts. Whether a host path is allowed is decided in `lifecycle`."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence

import msgspec

from controlplane.api.edge.parameters import MAX_PATH_BYTES
from controlplane.api.lifecycle.schema import VolumeView
from controlplane.errors import InvalidRequest
from controlplane.sandbox import EXECD_DIR, SOCKET_DIR, Volume

MAX_VOLUMES = 32

_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
# What a mount there would replace: the kernel's, the agent's own, and what the engine writes.
_TAKEN = ("/proc", "/sys", "/dev", EXECD_DIR, SOCKET_DIR, "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


def admit_volumes(views: Sequence[VolumeView]) -> tuple[Volume, ...]:
    """Return what is to be mounted. A host path is all in `host_root`.

    Raises:
        InvalidRequest: the message names the volume and the field.
    """
    if len(views) > MAX_VOLUMES:
        raise InvalidRequest(f"volumes: has more than {MAX_VOLUMES} entries")
    volumes = tuple(_admit(view, f"volumes[{index}]") for index, view in enumerate(views))
    for code, values in (
        ("volume.duplicate_name", [volume.name for volume in volumes]),
        ("volume.mount_path", [volume.mount_path for volume in volumes]),
    ):
        for value in values:
            if values.count(value) > 1:
                raise InvalidRequest(f"volumes: {value!r} is there more than once", code=code)
    return volumes


def _admit(view: VolumeView, where: str) -> Volume:
    _check(_NAME.fullmatch(view.name), f"{where}.name: must be a DNS label", "volume.name")
    backends = [name for name in ("host", "pvc", "ossfs") if getattr(view, name) is not None]
    _check(len(backends) == 1, f"{where}: give exactly one of host, pvc and ossfs", "volume.backend")
    _check(view.ossfs is None, f"{where}.ossfs: is not supported by this server", "volume.unsupported_backend")
    sub_path = view.sub_path or ""
    parts = sub_path.split("/") if sub_path else []
    _check(
        not any(part in ("", ".", "..") for part in parts) and _is_path(sub_path),
        f"{where}.subPath: must be relative, without '.', '..' and empty parts",
        "volume.sub_path",
    )
    volume = Volume(
        name=view.name,
        mount_path=_mount_path(view.mount_path, where),
        read_only=view.read_only,
        sub_path=sub_path,
    )
    if view.pvc is not None:
        _check(_NAME.fullmatch(view.pvc.claim_name), f"{where}.pvc.claimName: must be a DNS label", "volume.claim_name")
        return msgspec.structs.replace(
            volume,
            volume_name=view.pvc.claim_name,
            create=view.pvc.create_if_not_exists,
            delete=view.pvc.delete_on_sandbox_termination,
        )
    path = view.host.path if view.host is not None else ""
    _check(
        _is_path(path) and path.startswith("/") and posixpath.normpath(path) == path,
        f"{where}.host.path: must be absolute, without '.', '..' and empty parts",
        "volume.host_path",
    )
    return msgspec.structs.replace(volume, host_root=path)


def _mount_path(path: str, where: str) -> str:
    clean = posixpath.normpath(path)
    _check(
        _is_path(path) and path.startswith("/") and ".." not in path.split("/"),
        f"{where}.mountPath: must be an absolute path without '..'",
        "volume.mount_path",
    )
    clean = "/" + clean.strip("/")
    taken = clean == "/" or any(clean == each or clean.startswith(f"{each}/") for each in _TAKEN)
    is_above = any(each.startswith(f"{clean}/") for each in (EXECD_DIR, SOCKET_DIR))
    _check(
        not taken and not is_above, f"{where}.mountPath: {clean} is taken by the sandbox itself", "volume.mount_path"
    )
    return clean


def _is_path(path: str) -> bool:
    return "\0" not in path and len(path.encode(errors="surrogatepass")) <= MAX_PATH_BYTES


def _check(holds: object, message: str, code: str) -> None:
    if not holds:
        raise InvalidRequest(message, code=code)
