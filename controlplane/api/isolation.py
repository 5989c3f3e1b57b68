"""`/v1/isolated`: namespaces inside of a sandbox. What is true of them is told; sessions in them are not served."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.schema import json_answer
from execd.wire.messages import ProcessExited, ProcessStart

if TYPE_CHECKING:
    from controlplane.link.relay import Relay

PROBE = "unshare --user true"
PROBE_TIMEOUT_S = 5.0


class Isolation:
    """The endpoint."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def capabilities(self, request: Request) -> Response:
        """GET /v1/isolated/capabilities: whether the sandbox may make user namespaces is tried out in it."""
        start = ProcessStart(id=uuid.uuid4().hex, shell=PROBE, timeout_s=PROBE_TIMEOUT_S)
        exited = None
        async with await self._relay.open(request.path_params["sandbox_id"], start) as stream:
            while (said := await stream.receive()) is not None:
                if isinstance(said, ProcessExited):
                    exited = said
        can = exited is not None and exited.exit_code == 0
        return json_answer(
            {
                "available": False,
                "message": "this server does not serve isolated sessions; the sandbox itself is the isolation. "
                + ("User namespaces can be made in it." if can else "User namespaces cannot be made in it."),
                "setpriv_available": False,
                "userns_available": can,
                "commit_supported": False,
                "diff_supported": False,
            }
        )
