"""`/v1/filesystem/{uid}/{gid}/…`: the routes of files once more, with the rights of that user and group."""

from __future__ import annotations

from starlette.requests import Request

from controlplane.errors import InvalidRequest
from execd.wire.messages import FileAs, FileRequest

MAX_ID = 2**32 - 2  # the kernel's largest, less the one that means "none"


def as_asked(request: Request, message: FileRequest) -> FileRequest | FileAs:
    """Return what to ask of execd: the message, or where the path names an identity, the message as that.

    Raises:
        InvalidRequest: uid or gid is no number that a user may have.
    """
    if "uid" not in request.path_params:
        return message
    return FileAs(uid=_number(request, "uid"), gid=_number(request, "gid"), request=message)


def _number(request: Request, name: str) -> int:
    text = request.path_params[name]
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_ID:
        return int(text)
    raise InvalidRequest(f"{name}: must be a number from 0 to {MAX_ID}", code="request.query")
