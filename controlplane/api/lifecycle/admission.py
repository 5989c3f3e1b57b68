"""From the body of POST /sandboxes to what is to be created: everything that can be said without an engine.

What this server cannot do (yet) is refused by name. Nothing that a caller asks for is silently left out.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping

from controlplane.api.edge.parameters import clean_env
from controlplane.api.lifecycle.quantities import parse_cpus, parse_memory
from controlplane.api.lifecycle.schema import CreateSandboxRequest, Image, PlatformView
from controlplane.api.lifecycle.volumes import admit_volumes
from controlplane.errors import InvalidRequest
from controlplane.lifecycle.uses import IDLE_KEY, RENEWAL_KEY
from controlplane.sandbox import DEFAULT_POOL, ISOLATION_KEY, CreateRequest, Credentials, Limits, Network, Platform

MIN_TIMEOUT_S = 60
MAX_ENTRIES = 256  # of env, metadata and extensions each
MAX_IMAGE_CHARS = 512
MAX_GPUS = 64
# What a sandbox from a snapshot or of a named pool runs when the client names no entrypoint.
DEFAULT_ENTRYPOINT = ("tail", "-f", "/dev/null")
# The kernel's limit for one argument (MAX_ARG_STRLEN) less its terminator.
MAX_ARGUMENT_BYTES = 128 * 1024 - 1

RESERVED_ENV = "OPENSANDBOX_LIFECYCLE"
RESERVED_PREFIX = "opensandbox.io/"

_LABEL = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
POOL_KEY = "poolRef"
ANY_POOL = "*"  # the server chooses

# Extensions that are a number of seconds: the least and the most.
_SECONDS = {RENEWAL_KEY: (300, 86400), IDLE_KEY: (10, 30 * 86400)}


def admit(body: CreateSandboxRequest, defaults: Limits) -> CreateRequest:
    """Return what is to be created. *defaults* fill in what `resourceLimits` leaves open.

    Raises:
        InvalidRequest: the message names the field.
    """
    _refuse_unsupported(body)
    pool = _pool(body)
    if body.image is None and not body.snapshot_id and not pool:
        raise InvalidRequest("image: is missing")
    limits = _limits(body.resource_limits, defaults)
    _check_requests(body.resource_requests or {}, limits or defaults)
    return CreateRequest(
        image=_image(body.image) if body.image is not None else "",
        snapshot_id=body.snapshot_id or "",
        credentials=_registry_credentials(body.image),
        entrypoint=_entrypoint(body.entrypoint or (DEFAULT_ENTRYPOINT if body.snapshot_id or pool else None)),
        env=_env(body),
        metadata=_metadata(body.metadata or {}),
        extensions=_extensions(body.extensions or {}),
        limits=limits,
        network=_network(body),
        volumes=admit_volumes(body.volumes or ()),
        platform=_platform(body.platform),
        pool=pool,
        user_namespaces=(body.extensions or {}).get(ISOLATION_KEY) == "enable",
        secure_access=bool(body.secure_access),
        gpus=_gpus((body.resource_limits or {}).get("gpu", "")),
        timeout_s=_timeout(body.timeout),
    )


def _refuse_unsupported(body: CreateSandboxRequest) -> None:
    sources = [name for name, value in _sources(body).items() if value]
    if len(sources) > 1:
        raise InvalidRequest(f"{' and '.join(sources)} exclude each other; give exactly one")
    refused = {
        "templateId": bool(body.template_id),
        "lifecycle": bool(body.lifecycle),
        "credentialProxy.enabled": body.credential_proxy is not None and body.credential_proxy.enabled,
    }
    for name, is_asked in refused.items():
        if is_asked:
            raise _unsupported(name)


def _pool(body: CreateSandboxRequest) -> str:
    """Return the name of the pool that is asked for, or "". What a warm container cannot be given is refused."""
    name = (body.extensions or {}).get(POOL_KEY, "").strip()
    if name == ANY_POOL:
        name = "" if body.image is not None or body.snapshot_id else DEFAULT_POOL
    if not name:
        return ""
    excluded = {
        "snapshotId": bool(body.snapshot_id),
        "volumes": bool(body.volumes),
        "networkPolicy": body.network_policy is not None,
        "platform": body.platform is not None,
    }
    for field, is_given in excluded.items():
        if is_given:
            raise InvalidRequest(
                f"{field}: cannot be used together with extensions.{POOL_KEY}, whose containers are made already; "
                "leave one of them out"
            )
    return name


def _image(image: Image) -> str:
    if len(image.uri) > MAX_IMAGE_CHARS or not _IMAGE.fullmatch(image.uri):
        raise InvalidRequest("image.uri: is not the name of an image")
    return image.uri


def _registry_credentials(image: Image | None) -> Credentials | None:
    if image is None or image.auth is None:
        return None
    return Credentials(image.auth.username, image.auth.password)


def _gpus(text: str) -> str:
    if not text or text == "all" or _is_number(text, 1, MAX_GPUS):
        return text
    raise InvalidRequest(f'resourceLimits.gpu: must be "all" or a number from 1 to {MAX_GPUS}, not {text[:64]!r}')


def _check_requests(requests: dict[str, str], limits: Limits) -> None:
    """Check that no request is above its limit: a single machine reserves nothing."""
    for key, text in requests.items():
        if key == "cpu":
            asked, most = parse_cpus(text, "resourceRequests.cpu"), limits.cpus
        elif key == "memory":
            asked, most = parse_memory(text, "resourceRequests.memory"), float(limits.memory_bytes)
        else:
            raise _unsupported(f"resourceRequests.{key[:64]}")
        if most and asked > most:
            raise InvalidRequest(f"resourceRequests.{key}: is more than the limit")


def _sources(body: CreateSandboxRequest) -> dict[str, bool]:
    return {
        "image": body.image is not None,
        "snapshotId": bool(body.snapshot_id),
        "templateId": bool(body.template_id),
    }


def _unsupported(name: str, more: str = "") -> InvalidRequest:
    return InvalidRequest(f"{name}: is not supported by this server{more}", code="sandbox.unsupported")


def _platform(wanted: PlatformView | None) -> Platform | None:
    """Return the platform that was asked for, which must be the one there is."""
    if wanted is None:
        return None
    machine = platform.machine()
    ours = Platform("linux", _MACHINES.get(machine, machine))
    if Platform(wanted.os.strip().lower(), wanted.arch.strip().lower()) != ours:
        raise _unsupported("platform", f"; here it is {ours.os}/{ours.arch}")
    return ours


def _entrypoint(entrypoint: tuple[str, ...] | None) -> tuple[str, ...]:
    if not entrypoint:
        raise InvalidRequest(
            "entrypoint: is required together with image, and needs at least one item",
            code="sandbox.invalid_entrypoint",
        )
    for index, argument in enumerate(entrypoint):
        if "\0" in argument or len(argument.encode()) > MAX_ARGUMENT_BYTES:
            raise InvalidRequest(f"entrypoint[{index}]: contains NUL or is too long", code="sandbox.invalid_entrypoint")
    if not entrypoint[0].strip():
        raise InvalidRequest("entrypoint[0]: must name a program", code="sandbox.invalid_entrypoint")
    return entrypoint


def _timeout(timeout: int | None) -> int | None:
    if timeout is None:
        return None
    if timeout < MIN_TIMEOUT_S:  # the longest is the settings' matter
        raise InvalidRequest(f"timeout: must be at least {MIN_TIMEOUT_S} s, or null")
    return timeout


def _env(body: CreateSandboxRequest) -> dict[str, str]:
    env = clean_env(body.env, "env", code="request.invalid")
    _check_count(env, "env")
    if RESERVED_ENV in env:
        raise InvalidRequest(f"env.{RESERVED_ENV}: is reserved")
    for key, value in env.items():
        if len(key.encode()) + len(value.encode()) + 1 > MAX_ARGUMENT_BYTES:
            raise InvalidRequest(f"env.{key[:64]}: is longer than {MAX_ARGUMENT_BYTES} bytes")
    return env


def _metadata(metadata: dict[str, str]) -> dict[str, str]:
    _check_count(metadata, "metadata")
    check_metadata(metadata)
    return metadata


def check_metadata(metadata: Mapping[str, str | None]) -> None:
    """Check keys and values, as far as there are any. Raises InvalidRequest; the message names the key."""
    for key, value in metadata.items():
        if key.startswith(RESERVED_PREFIX):
            problem = "this prefix is reserved"
        elif not _is_label_key(key):
            problem = (
                "the key must be a label: at most 63 letters, digits, '-', '_', '.', after an optional DNS prefix/"
            )
        elif value and not _LABEL.fullmatch(value):
            problem = "the value must be empty or a label: at most 63 letters, digits, '-', '_', '.'"
        else:
            continue
        raise InvalidRequest(f"metadata.{key[:64]}: {problem}", code="sandbox.invalid_metadata")


def _is_label_key(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    if slash and not (len(prefix) <= 253 and all(map(_DNS_LABEL.fullmatch, prefix.split(".")))):
        return False
    return _LABEL.fullmatch(name) is not None


def _extensions(extensions: dict[str, str]) -> dict[str, str]:
    _check_count(extensions, "extensions")
    for key in extensions:
        if key.startswith(("bootstrap.", "storage.")) and key != ISOLATION_KEY:
            raise _unsupported(f"extensions.{key[:64]}")
    if (isolation := extensions.get(ISOLATION_KEY)) not in (None, "enable", "disable"):
        raise InvalidRequest(f'extensions.{ISOLATION_KEY}: must be "enable" or "disable", not {isolation[:64]!r}')
    for key, (least, most) in _SECONDS.items():
        text = extensions.get(key, str(least))
        if not _is_number(text, least, most):
            raise InvalidRequest(f"extensions.{key}: must be a number of seconds from {least} to {most}, as a text")
    return extensions


def _limits(wanted: dict[str, str] | None, defaults: Limits) -> Limits | None:
    if not wanted:
        return None
    cpus, memory_bytes = defaults.cpus, defaults.memory_bytes
    for key, text in wanted.items():
        if key == "cpu":
            cpus = parse_cpus(text, "resourceLimits.cpu")
        elif key == "memory":
            memory_bytes = parse_memory(text, "resourceLimits.memory")
        elif key != "gpu":
            raise _unsupported(f"resourceLimits.{key[:64]}")
    return Limits(cpus=cpus, memory_bytes=memory_bytes, pids=defaults.pids)


def _network(body: CreateSandboxRequest) -> Network | None:
    """Return no network for a policy that denies all, None without a policy. Raises InvalidRequest for any other."""
    policy = body.network_policy
    if policy is None:
        return None
    if policy.default_action != "deny" or policy.egress:
        raise _unsupported("networkPolicy", ', except {"defaultAction": "deny"} without rules')
    return Network.NONE


def _is_number(text: str, least: int, most: int) -> bool:
    """Return whether a text is a number from *least* to *most*, with few digits, because Python refuses thousands."""
    return text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most


def _check_count(entries: dict[str, str], name: str) -> None:
    if len(entries) > MAX_ENTRIES:
        raise InvalidRequest(f"{name}: has more than {MAX_ENTRIES} entries")
