"""`/server/report`: the checks of `sandlot doctor`, made by the server itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from controlplane.api.edge.bodies import json_answer
from controlplane.api.server.schema import CheckView, Report

Check = Callable[[], Coroutine[Any, Any, Sequence[CheckView]]]


class Reports:
    """The endpoint. *check* makes all checks."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._running: asyncio.Task[Sequence[CheckView]] | None = None

    async def read(self, _: Request) -> Response:
        """Check the machine as `sandlot doctor` does, which starts a container and removes it again.

        Who asks meanwhile gets the same report. The checks take a second or two.
        """
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(self._check())
        return json_answer(Report(list(await asyncio.shield(self._running))))
