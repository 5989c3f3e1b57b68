"""A FakeEngine whose containers are no processes: each runs execd's own shell as a task in the test's event loop.

So a test sees every claim, decides what becomes of it, and ends entrypoints when it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil

from msgspec.structs import replace

from controlplane.errors import EngineUnavailable, RuntimeFailure
from controlplane.runtime.abilities import Abilities
from controlplane.runtime.driver import Container, ContainerSpec, ContainerState
from controlplane.runtime.events import EventKind
from controlplane.sandbox import Limits
from execd.dispatch import Dispatcher, Handler
from execd.errors import ExecdError
from execd.server import serve_forever
from execd.wire.aio import Stream
from execd.wire.messages import ContextPrepare, Done, ProcessExited, Request, SandboxClaim, SandboxClaimed
from tests.support.fakes.driver import FakeContainers, FakeDriver, FakeVolumes
from tests.support.fakes.engine import KILLED, MOST, FakeContainer, FakeEngine


class Agent:
    """What stands for execd in one container."""

    def __init__(self, engine: AgentEngine, socket_path: str) -> None:
        self.engine = engine
        self.socket_path = socket_path
        self.claims: list[SandboxClaim] = []
        self.prepared: list[str] = []  # languages; "" is all eager ones
        self.exited: asyncio.Future[ProcessExited] = asyncio.get_running_loop().create_future()
        self.serving = asyncio.ensure_future(self._serve())

    async def _serve(self) -> None:
        handlers: dict[type[Request], Handler] = {SandboxClaim: self.claim, ContextPrepare: self.prepare}
        await serve_forever(self.socket_path, Dispatcher(handlers))

    async def prepare(self, stream: Stream, request: ContextPrepare) -> None:
        """As execd in an image without languages."""
        self.prepared.append(request.language)
        await stream.send(Done())

    async def claim(self, stream: Stream, request: SandboxClaim) -> None:
        """As execd, unless the engine was told otherwise."""
        self.claims.append(request)
        self.engine.claimed.set()
        if self.engine.refusal is not None:
            raise self.engine.refusal
        if self.engine.hold_claims is not None:
            await self.engine.hold_claims.wait()
        await stream.send(SandboxClaimed(pid=1))
        await stream.send(await asyncio.shield(self.exited))

    def exit(self, code: int) -> None:
        """The entrypoint ends."""
        self.exited.set_result(ProcessExited("exit" if code < 128 else "signal", code))

    async def hang_up(self) -> None:
        """Close the link and dial anew, as execd does when its socket breaks."""
        await self.aclose()
        self.serving = asyncio.ensure_future(self._serve())

    async def aclose(self) -> None:
        """End, without a goodbye to anybody."""
        self.serving.cancel()
        await asyncio.wait([self.serving])


class AgentEngine(FakeEngine):
    """Give it to a `CutDriver`.

    `refusal`: what execd answers to claims. `hold_claims`: an event that claims wait for. `mute`: containers start
    without an agent. `claimed` is set by each claim.
    """

    def __init__(self, *images: str, abilities: Abilities = MOST) -> None:
        super().__init__(*images, abilities=abilities)
        self.agents: dict[str, Agent] = {}  # by sandbox id
        self.refusal: ExecdError | None = None
        self.hold_claims: asyncio.Event | None = None
        self.claimed = asyncio.Event()
        self.mute = False
        self.quiet = False  # tell nobody what happens
        self.starts = 0

    async def run(self, container: FakeContainer, command: list[str]) -> None:
        """Start the agent."""
        self.starts += 1
        if not self.mute:
            self.agents[container.spec.sandbox_id] = Agent(self, f"{container.spec.socket_dir}/link.sock")
        container.told = replace(container.told, state=ContainerState.RUNNING)

    async def die(self, container_id: str, exit_code: int = KILLED) -> None:
        """The container ends."""
        container = self.find(container_id)
        if container.told.state not in (ContainerState.RUNNING, ContainerState.PAUSED):
            return
        container.told = replace(container.told, state=ContainerState.EXITED, exit_code=exit_code)
        if (agent := self.agents.pop(container.spec.sandbox_id, None)) is not None:
            await agent.aclose()
        self.tell(container, EventKind.DIED, exit_code)

    async def remove(self, container_id: str) -> None:
        """Kill and forget a container."""
        await self.die(container_id)
        if (container := self.containers.pop(container_id, None)) is not None:
            shutil.rmtree(container.home, ignore_errors=True)
            self.tell(container, EventKind.REMOVED)

    def tell(self, container: FakeContainer, kind: EventKind, exit_code: int | None = None) -> None:
        """Send an event, unless there is a gap in them."""
        if not self.quiet:
            super().tell(container, kind, exit_code)

    def cut_events(self) -> None:
        """End the flow of events, as when the connection to the engine breaks."""
        for queue in self._subscribers:
            queue.put_nowait(None)

    def sandbox_ids(self) -> set[str]:
        """Whose containers there are."""
        return {container.spec.sandbox_id for container in self.containers.values()}


class CutContainers(FakeContainers):
    """The containers of a driver that can be cut off."""

    def __init__(self, driver: CutDriver) -> None:
        super().__init__(driver)
        self._cut = driver

    async def create(self, spec: ContainerSpec) -> str:
        """See `Containers.create`."""
        self._cut.check()
        return await super().create(spec)

    async def start(self, container_id: str) -> None:
        """See `Containers.start`."""
        self._cut.check()
        await super().start(container_id)

    async def resize(self, container_id: str, limits: Limits) -> None:
        """See `Containers.resize`."""
        self._cut.check()
        if self._cut.hold_resize is not None:
            await self._cut.hold_resize.wait()
        if self._cut.fail_resize is not None:
            raise self._cut.fail_resize
        await super().resize(container_id, limits)

    async def pause(self, container_id: str) -> None:
        """See `Containers.pause`."""
        self._cut.check()
        if self._cut.fail_pause is not None:
            raise self._cut.fail_pause
        self._cut.pauses_under_way += 1
        if self._cut.hold_pause is not None:
            await self._cut.hold_pause.wait()
        self._cut.pauses_under_way -= 1
        await super().pause(container_id)

    async def resume(self, container_id: str) -> None:
        """See `Containers.resume`."""
        self._cut.check()
        if self._cut.fail_pause is not None:
            raise self._cut.fail_pause
        await super().resume(container_id)

    async def destroy(self, container_id: str) -> None:
        """See `Containers.destroy`."""
        self._cut.check()
        if self._cut.fail_destroy is not None:
            raise self._cut.fail_destroy
        self._cut.destroys_under_way += 1
        if self._cut.hold_destroy is not None:
            await self._cut.hold_destroy.wait()
        self._cut.destroys_under_way -= 1
        await super().destroy(container_id)
        if self._cut.lose_answers:
            raise EngineUnavailable("the answer was lost")

    async def list(self) -> list[Container]:
        """See `Containers.list`."""
        self._cut.check()
        if self._cut.fail_list is not None:
            raise self._cut.fail_list
        return await super().list()


class CutVolumes(FakeVolumes):
    """The volumes of a driver that can be cut off."""

    def __init__(self, driver: CutDriver) -> None:
        super().__init__(driver)
        self._cut = driver

    async def remove_unused(self) -> None:
        """See `Volumes.remove_unused`."""
        self._cut.check()
        await super().remove_unused()


class CutDriver(FakeDriver):
    """A driver that can be cut off from its engine, as by a `kill -9` of the control plane. Counts removals.

    `fail_destroy`, `fail_list`, `fail_pause` (also of resumes), `fail_resize`: raised by those when set.
    `hold_destroy`, `hold_pause`, `hold_resize`: events that those wait for. With `lose_answers`, a removal is done, and
    its answer is lost.
    """

    def __init__(self, engine: FakeEngine, *, instance: str) -> None:
        super().__init__(engine, instance=instance)
        self.cut = False
        self.fail_destroy: EngineUnavailable | None = None
        self.hold_destroy: asyncio.Event | None = None
        self.lose_answers = False
        self.destroys_under_way = self.pauses_under_way = 0
        self.fail_list: EngineUnavailable | None = None
        self.fail_pause: EngineUnavailable | None = None
        self.hold_pause: asyncio.Event | None = None
        self.fail_resize: RuntimeFailure | None = None
        self.hold_resize: asyncio.Event | None = None
        self.on_create: asyncio.Event | None = None
        self.containers: FakeContainers = CutContainers(self)
        self.volumes: FakeVolumes = CutVolumes(self)

    def check(self) -> None:
        """Raises EngineUnavailable once the driver is cut off."""
        if self.cut:
            raise EngineUnavailable("cut off")


async def end_agents(engine: AgentEngine) -> None:
    """End what still runs, at the end of a test."""
    with contextlib.suppress(RuntimeError):
        await engine.aclose()
    for agent in list(engine.agents.values()):
        await agent.aclose()
