"""Everything that can go wrong in the control plane, as one tree.

SandlotError
├── ConfigError                 a setting is unknown or has a bad value
├── InvalidRequest              the caller asked for something that cannot be
├── NotFound                    no such sandbox, image, process, context, file …
├── Conflict                    it exists, but its state does not allow that
├── CapacityExhausted           no room now; try again later
├── RuntimeFailure              the engine refused or failed
│   ├── EngineUnavailable       the engine does not answer at all
│   ├── ImageMissing            the engine does not have that image
│   ├── VolumeRefused           a volume cannot be mounted
│   └── StartFailed             the container did not come up
├── LinkClosed                  we closed the link
├── LinkLost                    the link broke, or did not come (back) in time
└── AgentError                  execd answered with an error; `code` is execd's

No class here knows HTTP: `api/problems.py` is the one table that maps them to statuses.
"""

from __future__ import annotations


class SandlotError(Exception):
    """Base of every error we raise on purpose.

    `code` is stable and machine readable; `fields` go to the log, never to a client unasked.
    """

    code = "internal"

    def __init__(self, message: str, *, code: str | None = None, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields
        if code is not None:
            self.code = code


class ConfigError(SandlotError):
    """A setting is unknown or has a bad value; the message names where it stands and what was expected."""

    code = "config.invalid"


class InvalidRequest(SandlotError):
    """The request can never succeed as it stands."""

    code = "request.invalid"


class NotFound(SandlotError):
    """The named thing does not exist (any more)."""

    code = "not_found"


class Conflict(SandlotError):
    """The thing exists, but its present state does not allow the operation."""

    code = "conflict"


class CapacityExhausted(SandlotError):
    """No room at the moment.

    `retry_after_s` says when another try makes sense.
    """

    code = "capacity.exhausted"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RuntimeFailure(SandlotError):
    """The container engine refused or failed."""

    code = "runtime.failed"


class EngineUnavailable(RuntimeFailure):
    """The container engine does not answer."""

    code = "runtime.unavailable"


class ImageMissing(RuntimeFailure):
    """The engine does not have the image, and it could not be pulled, or nobody allowed us to."""

    code = "image.missing"


class VolumeRefused(RuntimeFailure):
    """A volume is not there, or is not what it was when it was looked at; `code` says which."""

    code = "volume.not_found"


class StartFailed(RuntimeFailure):
    """The container was made but did not come up."""

    code = "runtime.start_failed"


class LinkClosed(SandlotError):
    """The stream or link was closed by this side."""

    code = "link.closed"


class LinkLost(SandlotError):
    """The link to the sandbox broke, or did not come (back) in time."""

    code = "link.lost"


class AgentError(SandlotError):
    """execd refused or failed a request; `code` is execd's own, for example `file.not_found`."""

    code = "agent.failed"
