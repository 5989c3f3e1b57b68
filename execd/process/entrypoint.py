"""The claim: whose sandbox this is, and the process it was made for."""

from __future__ import annotations

import asyncio

from execd.environment import Environment
from execd.errors import ExecdError
from execd.process.process import Process
from execd.process.table import ProcessTable
from execd.wire.aio import Stream
from execd.wire.messages import ENTRYPOINT_ID, SandboxClaim, SandboxClaimed


class Claim:
    """Bound once, for good."""

    def __init__(self, environment: Environment, table: ProcessTable) -> None:
        self._environment = environment
        self._table = table
        self._sandbox_id = ""
        self._entrypoint: Process | None = None

    async def serve(self, stream: Stream, request: SandboxClaim) -> None:
        """Bind, start the entrypoint, and stay to tell how that ends. Another claim by the same sandbox follows it.

        The entrypoint lives on when the stream ends. Without one nothing ends, and the stream stays open.

        Raises:
            ExecdError: `request.invalid` when another sandbox has claimed; what prevents the entrypoint's start,
                and then nothing is claimed.
        """
        if not self._sandbox_id:
            self._bind(request)
        elif self._sandbox_id != request.id:
            raise ExecdError("request.invalid", f"claimed by sandbox {self._sandbox_id} already")
        entrypoint = self._entrypoint
        await stream.send(SandboxClaimed(pid=entrypoint.pid if entrypoint else 0))
        if entrypoint is None:
            await asyncio.get_running_loop().create_future()
        else:
            await stream.send(await entrypoint.wait())

    def _bind(self, request: SandboxClaim) -> None:
        if not request.id:
            raise ExecdError("request.invalid", "a claim needs the sandbox's id")
        self._environment.bind(request.env, request.cwd)
        try:
            if request.entrypoint:
                self._entrypoint = self._table.start(
                    ENTRYPOINT_ID,
                    request.entrypoint,
                    self._environment.prepare(),
                    command=" ".join(request.entrypoint),
                )
                self._entrypoint.resume()
        except BaseException:
            self._environment.unbind()
            raise
        self._sandbox_id = request.id
