"""The routes of files twice more: `/v1/filesystem/{uid}/{gid}/…` with the rights of that user and group, and
`/v1/isolated/session/{session_id}/…` as that session sees them.
"""

from __future__ import annotations

from starlette.requests import Request

from controlplane.api.execd.schema import MAX_USER_ID
from controlplane.errors import InvalidRequest
from execd.wire.messages import FileAs, FileIn, FileRequest


def as_asked(request: Request, message: FileRequest) -> FileRequest | FileAs | FileIn:
    """Return what to ask of execd: the message, or where the path names an identity or a session, the message so.

    Raises:
        InvalidRequest: uid or gid is no number that a user may have.
    """
    if "session_id" in request.path_params:
        return FileIn(request.path_params["session_id"], message)
    if "uid" not in request.path_params:
        return message
    return FileAs(uid=_number(request, "uid"), gid=_number(request, "gid"), request=message)


def _number(request: Request, name: str) -> int:
    text = request.path_params[name]
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_USER_ID:
        return int(text)
    raise InvalidRequest(f"{name}: must be a number from 0 to {MAX_USER_ID}", code="request.query")
