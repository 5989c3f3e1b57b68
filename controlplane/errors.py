"""The errors of the control plane, as one tree.

SandlotError
├── ConfigError                 a setting is unknown or has a bad value
├── InvalidRequest              the request can never succeed
├── NotFound                    no such sandbox, image, process, context, file …
├── Conflict                    the state of the thing does not allow the operation
│   └── SandboxEnded            the sandbox has ended
├── CapacityExhausted           no room now; try again later
│   └── KeyQuotaExceeded        the caller's key allows no more now
├── QuotaExceeded               the settings allow no more
├── Forbidden                   the caller's key does not allow the operation
├── RuntimeFailure              the engine refused or failed
│   ├── EngineUnavailable       the engine does not answer
│   ├── Unsupported             the engine cannot do that at all
│   ├── ImageMissing            the engine does not have the image
│   │   └── ImageUnfinished     the first build of the image is not finished
│   ├── ImageInUse              the image has containers
│   ├── ImageError              an image could not be built or published
│   │   ├── ImageBuildFailed    a step of the build failed
│   │   └── BadImageFolder      a folder below `images/` is missing or invalid
│   ├── VolumeRefused           a volume cannot be mounted
│   ├── VolumeInUse             the volume is mounted in a container
│   └── StartFailed             the container did not come up
│       └── OutOfMemory         the memory limit is too low for a start
├── StoreError                  the store failed, and nothing was changed
│   └── StoreFull               the disk of the store is full
├── AuditUnreadable             the audit log cannot be read
├── ServiceError                a service in a sandbox, or a request to it, breaks the protocol
├── LinkClosed                  the server closed the link
├── LinkLost                    the link broke, or did not come (back) in time
└── AgentError                  execd answered with an error; `code` is execd's

No class here knows HTTP: the one table in `api/edge/problems.py` maps the classes to statuses.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence


class SandlotError(Exception):
    """The base of every error that the control plane raises on purpose.

    `message` is for the log and for people at this machine. `public` is for clients: it is the message, unless the
    message has words of the engine, which name paths and programs of its host. `code` is stable and machine readable;
    `fields` go to the log, never to a client unasked.
    """

    code = "internal"

    def __init__(self, message: str, *, code: str | None = None, public: str = "", **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.public = public or message
        self.fields = fields
        if code is not None:
            self.code = code


class ConfigError(SandlotError):
    """A setting is unknown or has a bad value; the message names its place and the expected value."""

    code = "config.invalid"


class Field(enum.Enum):
    """A field of a request, in words of our own: each contract has its own names for fields."""

    CPUS = "cpus"
    MEMORY = "memory"
    IMAGE = "image"
    POOL = "pool"
    USER_NAMESPACES = "user namespaces"
    EXPIRES_AT = "expiry"


class InvalidRequest(SandlotError):
    """The request can never succeed.

    With *field*, the message is about that field, and the API puts its own name of the field before the message.
    """

    code = "request.invalid"

    def __init__(self, message: str, *, code: str | None = None, field: Field | None = None) -> None:
        super().__init__(message, code=code)
        self.field = field


class NotFound(SandlotError):
    """The named thing does not exist (any more)."""

    code = "not_found"


class Conflict(SandlotError):
    """The thing exists, but its present state does not allow the operation."""

    code = "conflict"


class SandboxEnded(Conflict):
    """The sandbox has ended by itself, so clients can only look at it; the message has the cause of the end."""

    code = "sandbox.not_running"


class CapacityExhausted(SandlotError):
    """The server has no room at the moment. Another try makes sense after `retry_after_s`."""

    code = "capacity.exhausted"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class KeyQuotaExceeded(CapacityExhausted):
    """The quota of the caller's key allows no more at the moment."""

    code = "key.quota_exceeded"


class Forbidden(SandlotError):
    """The caller's key is right, but its scopes do not allow the operation."""

    code = "key.forbidden"


class QuotaExceeded(SandlotError):
    """The settings allow no more sandboxes, or no more of a resource of sandboxes."""

    code = "quota.exceeded"


class RuntimeFailure(SandlotError):
    """The container engine refused or failed."""

    code = "runtime.failed"


class EngineUnavailable(RuntimeFailure):
    """The container engine does not answer."""

    code = "runtime.unavailable"


class Unsupported(RuntimeFailure):
    """The container engine cannot do that at all; the message names the engine."""

    code = "runtime.unsupported"


class ImageMissing(RuntimeFailure):
    """The engine does not have the image, and the server could not or may not pull it."""

    code = "image.missing"


class ImageUnfinished(ImageMissing):
    """The first build of the image is not finished. No registry has the image."""

    code = "image.unfinished"


class ImageInUse(RuntimeFailure):
    """The image has containers, so the engine cannot remove it."""

    code = "image.in_use"


class ImageError(RuntimeFailure):
    """An image could not be built or published."""

    code = "image.failed"


class ImageBuildFailed(ImageError):
    """A build step failed. The message names the image and the step, and ends with the tail of the output."""

    code = "image.build_failed"

    def __init__(self, image: str, step: str = "", tail: Sequence[str] = ()) -> None:
        output = "".join(f"\n  | {line}" for line in tail)
        super().__init__(f"image {image}: failed at {step}{output}", image=image, step=step, tail=list(tail))
        self.image = image
        self.step = step
        self.tail = tuple(tail)


class BadImageFolder(ImageError):
    """A folder below `images/` is missing or invalid; the message names it."""

    code = "image.bad_folder"


class VolumeInUse(RuntimeFailure):
    """The volume is mounted in a container."""

    code = "volume.in_use"


class VolumeRefused(RuntimeFailure):
    """A volume does not exist, or has changed since it was checked; `code` distinguishes these."""

    code = "volume.not_found"


class StartFailed(RuntimeFailure):
    """The container was made but did not come up."""

    code = "runtime.start_failed"


class OutOfMemory(StartFailed):
    """The container has too little memory to come up."""

    code = "runtime.out_of_memory"


class StoreError(SandlotError):
    """The store failed, and nothing was changed."""

    code = "store.failed"


class StoreFull(StoreError):
    """The disk is full. The store still writes ends of sandboxes, in room that it reserves for them."""


class AuditUnreadable(SandlotError):
    """The audit log cannot be read; the message names the folder."""

    code = "audit.unreadable"


class ServiceError(SandlotError):
    """A service in a sandbox, or the request to the service, breaks the protocol; `code` says which of the two."""

    code = "port.response"


class LinkClosed(SandlotError):
    """The server closed the stream or the link."""

    code = "link.closed"


class LinkLost(SandlotError):
    """The link to the sandbox broke, or did not come (back) in time."""

    code = "link.lost"


class AgentError(SandlotError):
    """An error of execd; `code` is execd's own, for example `file.not_found`."""

    code = "agent.failed"
