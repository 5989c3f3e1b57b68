"""The claim: what a container does to become the sandbox that asks for it.

1. Refuse the claim if another sandbox has claimed the container.
2. Take the settings that the claim brings for each service: the steps that `main.py` lists.
3. Bind the variables and the working directory, once.
4. Start the entrypoint, once. If it cannot start, undo the third step: nothing is claimed.
5. Report the entrypoint's process id, and later how the entrypoint ended.

A control plane that has restarted claims again. Then the first, second and fifth step are repeated.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from execd.dispatch import Handler
from execd.errors import ExecdError
from execd.launch.environment import Environment
from execd.process.process import Process
from execd.process.table import ProcessTable
from execd.wire.aio import Stream
from execd.wire.messages import ENTRYPOINT_ID, Request, SandboxClaim, SandboxClaimed

log = logging.getLogger("execd")


class Claim:
    """The claim to this container, and the entrypoint that it started."""

    def __init__(
        self, environment: Environment, processes: ProcessTable, settings: Sequence[Callable[[SandboxClaim], None]] = ()
    ) -> None:
        """Prepare for the first claim.

        Args:
            settings: Each takes the settings that one service finds in a claim. None of them raises.
        """
        self._environment = environment
        self._processes = processes
        self._settings = settings
        self._sandbox_id = ""
        self._entrypoint: Process | None = None

    def handlers(self) -> dict[type[Request], Handler]:
        """Return the handler of each request."""
        return {SandboxClaim: self._serve}

    async def _serve(self, stream: Stream, request: SandboxClaim) -> None:
        """Carry out the steps of a claim, and follow the entrypoint to its end.

        The entrypoint outlives the stream. Without an entrypoint the stream stays open.

        Raises:
            ExecdError: `request.invalid`: the claim has no id, or another sandbox has claimed this container;
                or what prevents the start of the entrypoint.
        """
        self._check(request)
        for take in self._settings:
            take(request)
        if not self._sandbox_id:
            self._environment.bind(request.env, request.cwd)
            for notice in self._environment.choice.notices:
                log.warning("%s", notice)
            self._start(request.entrypoint)
            self._sandbox_id = request.id
        await self._report(stream)

    def _check(self, request: SandboxClaim) -> None:
        if not request.id:
            raise ExecdError("request.invalid", "a claim needs the id of a sandbox")
        if self._sandbox_id not in ("", request.id):
            raise ExecdError("request.invalid", f"sandbox {self._sandbox_id} has already claimed this container")

    def _start(self, entrypoint: Sequence[str]) -> None:
        if not entrypoint:
            return
        try:
            launch = self._environment.prepare()
            self._entrypoint = self._processes.start(ENTRYPOINT_ID, entrypoint, launch, command=" ".join(entrypoint))
            self._entrypoint.resume()
        except BaseException:
            self._environment.unbind()
            raise

    async def _report(self, stream: Stream) -> None:
        entrypoint = self._entrypoint
        await stream.send(SandboxClaimed(pid=entrypoint.pid if entrypoint else 0))
        if entrypoint is None:
            await asyncio.get_running_loop().create_future()  # there is nothing whose end could be reported
        else:
            await stream.send(await entrypoint.wait())
