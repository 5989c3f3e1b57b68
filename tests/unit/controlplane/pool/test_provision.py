"""From a template to a container with a link, or to nothing at all."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from controlplane.errors import (
    AgentError,
    EngineUnavailable,
    ImageMissing,
    LinkLost,
    OutOfMemory,
    RuntimeFailure,
    StartFailed,
)
from controlplane.link.accept import Accept
from controlplane.link.directory import Directory
from controlplane.pool import provision as provision_module
from controlplane.pool.plan import Template
from controlplane.pool.provision import REMOVALS_AT_ONCE, TEMPLATE_LABEL, Provisioner, template_of, template_text
from controlplane.pool.shelf import Warm
from controlplane.runtime.driver import ContainerState
from controlplane.sandbox import Limits, Network
from controlplane.tasks import Slots
from execd.errors import ExecdError
from tests.support.fakes.agents import Agent, AgentEngine, CutDriver
from tests.support.server.control_plane import until

TEMPLATE = Template(image="fake/image", network=Network.BRIDGE, limits=Limits(cpus=0.5), runtime="runsc", hardened=True)


class World:
    """A provisioner on an engine whose agents the test directs."""

    def __init__(self) -> None:
        self.run_dir = Path(tempfile.mkdtemp(prefix="sandlot-"))
        self.engine = AgentEngine("fake/image")
        self.driver = CutDriver(self.engine, instance="test")
        self.directory = Directory()
        self.accept = Accept(self.run_dir, self.directory, verify=lambda pid, container_id: True)
        self.accept.prepare()
        self.provisioner = Provisioner(self.driver, self.accept, self.directory)

    def is_clean(self) -> bool:
        """Whether nothing is left: no container, no directory, nobody's claim to one."""
        return not (self.engine.containers or self.accept.known() or self.provisioner._owned)

    async def aclose(self) -> None:
        self.engine.mute = False
        await self.engine.aclose()
        await self.accept.aclose()
        shutil.rmtree(self.run_dir)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.aclose()


async def test_a_container_is_made_as_the_template_says(world: World) -> None:
    """With its link, its own socket directory, and a label by which it is known again."""
    warm = await world.provisioner.provision(TEMPLATE)
    assert world.directory.get(warm.sandbox_id) is not None
    assert world.provisioner.owns(warm.sandbox_id)
    spec = world.engine.find(warm.container_id).spec
    assert (spec.image, spec.network, spec.limits) == ("fake/image", Network.BRIDGE, Limits(cpus=0.5))
    assert (spec.runtime, spec.hardened) == ("runsc", True)
    assert spec.socket_dir == str(world.accept.socket_dir(warm.sandbox_id))
    assert template_of(spec.labels[TEMPLATE_LABEL]) == TEMPLATE
    await world.provisioner.discard(warm)
    await world.provisioner.discard(warm)
    assert world.is_clean()


@pytest.mark.parametrize("oom_killed", [False, True])
async def test_a_container_that_dies_of_too_little_memory_is_told_apart(world: World, *, oom_killed: bool) -> None:
    """By what the engine knows of it; and nothing is left of it."""
    world.engine.mute = True
    making = asyncio.ensure_future(world.provisioner.provision(TEMPLATE))
    await until(lambda: any(one.told.state is ContainerState.RUNNING for one in world.engine.containers.values()))
    (container,) = world.engine.containers.values()
    container.told = replace(container.told, state=ContainerState.EXITED, exit_code=137, oom_killed=oom_killed)
    world.directory.fail(container.spec.sandbox_id, StartFailed("the container ended with exit code 137"))
    with pytest.raises(StartFailed, match="exit code 137") as failed:
        await making
    assert type(failed.value) is (OutOfMemory if oom_killed else StartFailed)
    assert world.is_clean()


@pytest.mark.parametrize("text", ["", "{", "null", "[1]", '{"image": 5}'])
def test_labels_of_others_are_no_templates(text: str) -> None:
    """Or of another version of ours."""
    assert template_of(text) is None
    assert template_of(template_text(TEMPLATE)) == TEMPLATE


async def test_a_missing_image_leaves_nothing(world: World) -> None:
    """The engine says so; the socket that was made before is gone."""
    with pytest.raises(ImageMissing):
        await world.provisioner.provision(Template(image="no/such", network=Network.NONE, limits=Limits()))
    assert world.is_clean()


async def test_a_start_that_fails_leaves_nothing(world: World) -> None:
    """The container had been made."""
    world.driver.fail_start = StartFailed("no such runtime")
    with pytest.raises(StartFailed, match="no such runtime"):
        await world.provisioner.provision(TEMPLATE)
    assert world.is_clean()


async def test_an_agent_that_never_connects_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bounded time."""
    monkeypatch.setattr(provision_module, "LINK_TIMEOUT_S", 0.05)
    world.engine.mute = True
    with pytest.raises(LinkLost, match="has not connected"):
        await world.provisioner.provision(TEMPLATE)
    assert world.is_clean()


async def test_a_container_that_dies_before_it_was_started_is_noticed(world: World) -> None:
    """The engine's word of its death may come before its word of the start: no 30 seconds are waited."""
    world.engine.mute = True
    world.driver.slow_start = asyncio.Event()
    provisioning = asyncio.ensure_future(world.provisioner.provision(TEMPLATE))
    await until(lambda: world.engine.containers and world.directory._waiters)
    (sandbox_id,) = world.engine.sandbox_ids()
    world.directory.fail(sandbox_id, StartFailed("the container ended with exit code 127"))
    world.driver.slow_start.set()
    with pytest.raises(StartFailed, match="exit code 127"):
        await asyncio.wait_for(provisioning, 5)
    assert world.is_clean()


@pytest.mark.parametrize("phase", ["start", "link"])
async def test_cancelling_leaves_nothing(phase: str, world: World) -> None:
    """While the engine starts it, or while its agent is waited for."""
    world.engine.mute = True
    if phase == "start":
        world.driver.slow_start = asyncio.Event()
    provisioning = asyncio.ensure_future(world.provisioner.provision(TEMPLATE))
    await until(lambda: world.engine.containers and (phase == "start" or world.engine.starts))
    provisioning.cancel()
    await asyncio.wait([provisioning])
    assert provisioning.cancelled()
    assert world.is_clean()


async def test_the_first_reason_is_the_one_that_counts(world: World) -> None:
    """The engine fails, and fails again when we tidy up: the caller hears the first, the sweep finds the container."""
    world.driver.fail_start = StartFailed("the first")
    world.driver.fail_destroy = EngineUnavailable("the second")
    with capture_logs() as logs, pytest.raises(StartFailed, match="the first"):
        await world.provisioner.provision(TEMPLATE)
    assert [(entry["event"], entry["error"]) for entry in logs] == [("provision.undo_failed", "the second")]
    (left,) = world.engine.containers
    sandbox_id = world.engine.find(left).spec.sandbox_id
    assert not world.provisioner.owns(sandbox_id)
    world.driver.fail_destroy = None
    await world.provisioner.remove(sandbox_id, left)
    assert world.is_clean()


async def test_no_room_for_a_socket_is_a_failed_start(world: World) -> None:
    """Not a traceback: too many open files, or a full disk."""
    shutil.rmtree(world.run_dir / "sandboxes")
    (world.run_dir / "sandboxes").write_text("in the way")
    with pytest.raises(StartFailed, match=r"cannot listen at .*link\.sock: Not a directory"):
        await world.provisioner.provision(TEMPLATE)
    (world.run_dir / "sandboxes").unlink()
    (world.run_dir / "sandboxes").mkdir()
    assert world.is_clean()


async def test_a_removal_that_fails_makes_the_container_nobodys(world: World) -> None:
    """So that the sweep takes it for an orphan; while it goes on, it is ours."""
    warm = await world.provisioner.provision(TEMPLATE)
    world.driver.fail_destroy = EngineUnavailable("hiccup")
    with pytest.raises(EngineUnavailable):
        await world.provisioner.discard(warm)
    assert not world.provisioner.owns(warm.sandbox_id)
    world.driver.fail_destroy = None
    await world.provisioner.remove(warm.sandbox_id, warm.container_id)
    assert world.is_clean()


@pytest.mark.attack(
    "chaos",
    "The engine removes a container, and its answer is lost",
    "The socket and its directory go all the same",
)
async def test_a_removal_whose_answer_is_lost_leaves_no_socket(world: World) -> None:
    """No sweep would find them: the container is gone."""
    warm = await world.provisioner.provision(TEMPLATE)
    world.driver.lose_answers = True
    with pytest.raises(EngineUnavailable):
        await world.provisioner.discard(warm)
    assert world.is_clean()


async def test_a_container_of_an_earlier_run_comes_back(world: World) -> None:
    """At the same path, in the same directory; from then on it is ours."""
    warm = await world.provisioner.provision(TEMPLATE)
    await world.accept.aclose()
    await until(lambda: world.directory.get(warm.sandbox_id) is None)
    again = World.__new__(World)
    again.__dict__ |= world.__dict__
    again.directory = Directory()
    again.accept = Accept(world.run_dir, again.directory, verify=lambda pid, container_id: True)
    again.accept.prepare()
    again.provisioner = Provisioner(world.driver, again.accept, again.directory)
    assert not again.provisioner.owns(warm.sandbox_id)
    await again.provisioner.adopt(warm.sandbox_id, warm.container_id)
    assert again.provisioner.owns(warm.sandbox_id)
    await again.directory.wait(warm.sandbox_id, timeout_s=5)
    await again.provisioner.discard(warm)
    assert again.is_clean()
    await again.accept.aclose()


async def test_languages_are_made_ready(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Done, refused, or not in time; the container stays in each case."""
    warm = await world.provisioner.provision(TEMPLATE)
    await world.provisioner.prepare(warm.sandbox_id)

    async def refuse(self: Agent, stream: object, request: object) -> None:
        raise ExecdError("context.start_failed", "no interpreter")

    monkeypatch.setattr(Agent, "prepare", refuse)
    refusing = await world.provisioner.provision(TEMPLATE)
    with pytest.raises(AgentError, match="no interpreter"):
        await world.provisioner.prepare(refusing.sandbox_id)

    async def hang(self: Agent, stream: object, request: object) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(Agent, "prepare", hang)
    monkeypatch.setattr(provision_module, "PREPARE_TIMEOUT_S", 0.05)
    hanging = await world.provisioner.provision(TEMPLATE)
    with pytest.raises(LinkLost, match=r"not ready within 0\.05 s"):
        await world.provisioner.prepare(hanging.sandbox_id)
    assert len(world.engine.containers) == 3
    for one in (warm, refusing, hanging):
        await world.provisioner.discard(one)


async def test_a_removal_of_nothing_succeeds(world: World) -> None:
    """Twice, too: other parts may have been quicker."""
    await world.provisioner.remove("0" * 16, "0" * 64)
    await world.provisioner.discard(Warm("0" * 16, "0" * 64, TEMPLATE))
    assert world.is_clean()
    with pytest.raises(RuntimeFailure):
        world.engine.find("0" * 64)


@pytest.mark.attack(
    "resources",
    "A client deletes many sandboxes at once",
    "The engine removes four of them at a time, in the order of asking",
)
@pytest.mark.parametrize("at_once", [REMOVALS_AT_ONCE, 1000], ids=["bounded", "unbounded"])
async def test_removals_are_bounded(world: World, at_once: int) -> None:
    """Of any kind: of sandboxes, of warm containers, of orphans."""
    world.provisioner._removals = Slots(at_once, longest_s=60)
    world.driver.hold_destroy = asyncio.Event()
    removing = [asyncio.ensure_future(world.provisioner.remove(str(number), "c" * 64)) for number in range(20)]
    await until(lambda: world.driver.destroys_under_way >= min(at_once, 20))
    for _ in range(10):
        await asyncio.sleep(0)
    assert world.driver.destroys_under_way == min(at_once, 20)
    world.driver.hold_destroy.set()
    await asyncio.gather(*removing)


@pytest.mark.parametrize(("told", "network"), [("true", Network.BRIDGE), ("false", Network.NONE)])
def test_warm_containers_of_earlier_releases_are_known(told: str, network: Network) -> None:
    """Their labels say whether there is a network, and not which."""
    template = replace(TEMPLATE, network=network)
    text = template_text(template)
    assert template_of(text) == template
    old = text.replace(f'"{network.value}"', told)
    assert old != text
    assert template_of(old) == template
    assert template_of('["no", "template"]') is None
    assert template_of(text.replace(network.value, "pigeons")) is None
