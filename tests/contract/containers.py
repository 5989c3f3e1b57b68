"""What `Containers` promises, as tests."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.errors import ImageMissing, RuntimeFailure, StartFailed
from controlplane.runtime import labels
from controlplane.runtime.abilities import Ability
from controlplane.runtime.driver import ContainerState
from controlplane.runtime.events import EventKind, RuntimeEvent
from controlplane.sandbox import Limits
from execd.wire.messages import GENERATION, Metrics, MetricsRead
from tests.contract.driver import LIMITS, NO_SUCH_ID, PATIENCE_S, World, following, listening, needs, only, spec_of


class ContainersContract:
    """The promises. A subclass gives the fixture `world`."""

    # -- create, start

    async def test_created_container_waits_to_be_started(self, world: World) -> None:
        """A new container is listed as created, with its sandbox, its image and all labels; nothing runs."""
        async with listening(world.root) as line:
            spec = spec_of(world, line, labels={"sandlot.test": "yes"})
            container_id = await world.driver.containers.create(spec)

            container = await only(world.driver, container_id)

            assert (container.sandbox_id, container.image) == (spec.sandbox_id, world.image)
            assert container.state is ContainerState.CREATED
            assert container.exit_code is None
            assert container.labels.items() >= labels.labels_of(spec, container.labels[labels.INSTANCE]).items()
            assert container.labels["sandlot.test"] == "yes"
            assert line.links.empty()

    async def test_spec_cannot_forge_our_labels(self, world: World) -> None:
        """Labels that belong to the driver keep the driver's values."""
        async with listening(world.root) as line:
            spec = spec_of(world, line, labels={labels.INSTANCE: "other", labels.SANDBOX: "other"})
            container_id = await world.driver.containers.create(spec)

            assert (await only(world.driver, container_id)).sandbox_id == spec.sandbox_id

    async def test_started_container_dials_the_socket(self, world: World) -> None:
        """execd's first frame arrives on the socket of its own directory, and the container is listed as running."""
        async with listening(world.root) as line:
            container_id = await world.driver.containers.create(spec_of(world, line))
            await world.driver.containers.start(container_id)

            assert (await (await line.link()).wait_hello()).generation == GENERATION
            assert (await only(world.driver, container_id)).state is ContainerState.RUNNING
            assert await world.driver.containers.inspect(container_id) == await only(world.driver, container_id)

    async def test_starting_twice_is_harmless(self, world: World) -> None:
        """A second start of a running container does nothing."""
        async with listening(world.root) as line:
            container_id = await world.driver.containers.create(spec_of(world, line))
            await world.driver.containers.start(container_id)
            await line.link()

            await world.driver.containers.start(container_id)

            assert (await only(world.driver, container_id)).state is ContainerState.RUNNING
            assert line.links.empty()

    @pytest.mark.parametrize("container_id", [NO_SUCH_ID, "../../images/json", ""])
    async def test_start_of_unknown_container_fails(self, world: World, container_id: str) -> None:
        """What does not exist, or is no id at all, does not start."""
        with pytest.raises(StartFailed):
            await world.driver.containers.start(container_id)

    async def test_unknown_image_is_reported_and_never_pulled(self, world: World) -> None:
        """ImageMissing names the image; nobody asks its registry for it, and nothing is left behind."""
        calls = asyncio.Event()

        def called(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            calls.set()
            writer.close()

        async with (
            await asyncio.start_server(called, "127.0.0.1", 0) as registry,
            listening(world.root) as line,
        ):
            image = f"127.0.0.1:{registry.sockets[0].getsockname()[1]}/missing:1"

            with pytest.raises(ImageMissing, match="missing:1"):
                await world.driver.containers.create(spec_of(world, line, image=image))

            assert not calls.is_set()
            assert await world.leftovers() == []

    async def test_missing_socket_directory_is_refused(self, world: World) -> None:
        """A directory that is not there is an error, not something that the engine makes; nothing is left behind."""
        async with listening(world.root) as line:
            missing = world.root / "missing"

            with pytest.raises(RuntimeFailure):
                await world.driver.containers.create(spec_of(world, line, socket_dir=str(missing)))

            assert not missing.exists()
            assert await world.leftovers() == []

    async def test_sandbox_has_one_container(self, world: World) -> None:
        """A second container for the same sandbox is refused and does not hurt the first."""
        async with listening(world.root) as line:
            spec = spec_of(world, line)
            container_id = await world.driver.containers.create(spec)

            with pytest.raises(RuntimeFailure):
                await world.driver.containers.create(spec)

            assert (await only(world.driver, container_id)).state is ContainerState.CREATED

    async def test_failed_start_leaves_a_container_to_destroy(self, world: World) -> None:
        """StartFailed gives a reason; the container exists until it is destroyed, then nothing is left."""
        async with listening(world.root) as line:
            container_id = await world.broken.containers.create(spec_of(world, line))

            with pytest.raises(StartFailed, match=r".{20}"):
                await world.broken.containers.start(container_id)

            assert (await only(world.driver, container_id)).state is not ContainerState.RUNNING
            await world.driver.containers.destroy(container_id)
            assert await world.leftovers() == []

    async def test_cancelled_create_leaves_nothing(self, world: World) -> None:
        """However early or late a create is cancelled, there is no container afterwards."""
        async with listening(world.root) as line:
            for milliseconds in range(20):  # a create takes some ten
                creation = asyncio.create_task(world.driver.containers.create(spec_of(world, line)))
                await asyncio.wait([creation], timeout=milliseconds / 1000)
                if creation.cancel():
                    with pytest.raises(asyncio.CancelledError):
                        await creation
                else:
                    await world.driver.containers.destroy(creation.result())

            assert await world.leftovers() == []

    # -- resize

    @needs(Ability.LIVE_LIMITS)
    async def test_resize_running_and_created(self, world: World) -> None:
        """Limits can be changed up, down and away, before and after the start."""
        async with listening(world.root) as line:
            container_id = await world.driver.containers.create(spec_of(world, line))
            await world.driver.containers.resize(container_id, Limits(cpus=0.5, memory_bytes=128 << 20, pids=32))
            await world.driver.containers.start(container_id)
            await line.link()

            await world.driver.containers.resize(container_id, Limits(cpus=64.0, memory_bytes=512 << 20, pids=128))
            await world.driver.containers.resize(container_id, Limits(cpus=0, memory_bytes=0, pids=0))

            assert (await only(world.driver, container_id)).state is ContainerState.RUNNING

    async def test_resize_of_unknown_container_fails(self, world: World) -> None:
        """Only what exists has limits."""
        with pytest.raises(RuntimeFailure):
            await world.driver.containers.resize(NO_SUCH_ID, LIMITS)

    # -- pause, resume

    @needs(Ability.PAUSE)
    async def test_paused_container_stands_still_until_it_is_resumed(self, world: World) -> None:
        """What is asked meanwhile is answered afterwards, over the same link; both verbs may be repeated."""
        async with listening(world.root) as line:
            container_id = await world.driver.containers.create(spec_of(world, line))
            await world.driver.containers.start(container_id)
            link = await line.link()

            await world.driver.containers.pause(container_id)
            await world.driver.containers.pause(container_id)
            assert (await only(world.driver, container_id)).state is ContainerState.PAUSED
            asking = asyncio.ensure_future(link.call(MetricsRead(), Metrics))
            await asyncio.wait([asking], timeout=0.3)
            assert not asking.done()

            await world.driver.containers.resume(container_id)
            await world.driver.containers.resume(container_id)
            assert (await only(world.driver, container_id)).state is ContainerState.RUNNING
            async with asyncio.timeout(PATIENCE_S):
                await asking
            assert not line.over.is_set()

    @needs(Ability.PAUSE)
    async def test_paused_container_is_destroyed(self, world: World) -> None:
        """It need not be resumed first."""
        async with listening(world.root) as line:
            container_id = await world.driver.containers.create(spec_of(world, line))
            await world.driver.containers.start(container_id)
            await line.link()
            await world.driver.containers.pause(container_id)

            await world.driver.containers.destroy(container_id)

            assert await world.leftovers() == []

    @needs(Ability.PAUSE)
    async def test_what_does_not_run_is_neither_paused_nor_resumed(self, world: World) -> None:
        """A container that was never started, and one that does not exist."""
        async with listening(world.root) as line:
            created = await world.driver.containers.create(spec_of(world, line))
            for container_id in (created, NO_SUCH_ID, "../../info"):
                with pytest.raises(RuntimeFailure):
                    await world.driver.containers.pause(container_id)
                with pytest.raises(RuntimeFailure):
                    await world.driver.containers.resume(container_id)
            assert (await only(world.driver, created)).state is ContainerState.CREATED

    # -- destroy

    async def test_destroy_ends_everything(self, world: World) -> None:
        """A destroyed container is in no list, cannot be inspected, and its link is over when `destroy` returns."""
        async with listening(world.root) as line:
            container_id = await world.driver.containers.create(spec_of(world, line))
            await world.driver.containers.start(container_id)
            await line.link()

            await world.driver.containers.destroy(container_id)

            async with asyncio.timeout(PATIENCE_S):
                await line.over.wait()
            assert await world.driver.containers.list() == []
            assert await world.driver.containers.inspect(container_id) is None
            assert await world.leftovers() == []

    async def test_destroy_is_idempotent(self, world: World) -> None:
        """Again, at the same time, of a container that was never started: all succeed."""
        async with listening(world.root) as line:
            started = await world.driver.containers.create(spec_of(world, line))
            await world.driver.containers.start(started)
            created = await world.driver.containers.create(spec_of(world, line))

            await asyncio.gather(*(world.driver.containers.destroy(it) for it in (started, created) * 3))
            assert await world.leftovers() == []

            await world.driver.containers.destroy(started)
            await world.driver.containers.destroy(created)

    @pytest.mark.parametrize("container_id", [NO_SUCH_ID, "../../containers", ""])
    async def test_destroy_of_unknown_container_succeeds(self, world: World, container_id: str) -> None:
        """What was never there is gone; an id that is none touches nothing else."""
        async with listening(world.root) as line:
            other = await world.driver.containers.create(spec_of(world, line))

            await world.driver.containers.destroy(container_id)

            assert (await only(world.driver, other)).state is ContainerState.CREATED

    async def test_destroy_needs_no_live_execd(self, world: World) -> None:
        """A container whose process 1 is stopped, and so ignores every polite signal, is removed all the same."""
        async with listening(world.root) as line:
            container_id = await world.driver.containers.create(spec_of(world, line))
            await world.driver.containers.start(container_id)
            await line.link()
            await world.freeze(container_id)

            async with asyncio.timeout(PATIENCE_S):
                await world.driver.containers.destroy(container_id)

            assert await world.leftovers() == []

    async def test_destroy_during_start(self, world: World) -> None:
        """A destroy that meets a start wins: in the end there is no container."""
        async with listening(world.root) as line:
            container_id = await world.driver.containers.create(spec_of(world, line))
            start = asyncio.create_task(world.driver.containers.start(container_id))
            await asyncio.sleep(0)

            await world.driver.containers.destroy(container_id)
            await asyncio.wait([start])

            assert start.exception() is None or isinstance(start.exception(), StartFailed)
            assert await world.leftovers() == []

    # -- questions

    async def test_ended_container_tells_its_exit_code(self, world: World) -> None:
        """A container that died stays, with its exit code, until it is destroyed."""
        async with listening(world.root) as line, following(world.driver) as events:
            container_id = await world.driver.containers.create(spec_of(world, line))
            await world.driver.containers.start(container_id)
            await line.link()
            await world.kill(container_id)
            assert (await events.next()).kind is EventKind.DIED

            container = await only(world.driver, container_id)

            assert (container.state, container.exit_code) == (ContainerState.EXITED, 137)
            assert not container.oom_killed
            assert await world.driver.containers.inspect(container_id) == container

    @pytest.mark.parametrize("container_id", [NO_SUCH_ID, "../../info", ""])
    async def test_inspect_of_unknown_container_is_none(self, world: World, container_id: str) -> None:
        """There is nothing to tell of what is not there."""
        assert await world.driver.containers.inspect(container_id) is None

    async def test_other_installations_are_invisible(self, world: World) -> None:
        """Neither list nor inspect nor events tell of a container of another installation."""
        async with (
            listening(world.root) as line,
            following(world.driver) as ours,
            following(world.stranger) as theirs,
        ):
            their_id = await world.stranger.containers.create(spec_of(world, line))
            our_id = await world.driver.containers.create(spec_of(world, line))

            await only(world.driver, our_id)
            await only(world.stranger, their_id)
            assert await world.driver.containers.inspect(their_id) is None
            await world.stranger.containers.destroy(their_id)
            await world.driver.containers.destroy(our_id)
            assert (await ours.next()).container_id == our_id
            assert (await theirs.next()).container_id == their_id

    async def test_containers_outlive_the_driver(self, world: World) -> None:
        """A driver that is closed leaves its containers to the next one of the same installation."""
        async with listening(world.root) as line:
            first = world.another()
            container_id = await first.containers.create(spec_of(world, line))
            await first.containers.start(container_id)
            await line.link()
            await first.aclose()

            assert (await only(world.driver, container_id)).state is ContainerState.RUNNING
            assert not line.over.is_set()

    async def test_describe(self, world: World) -> None:
        """The engine says what it is, in numbers that can be true."""
        info = await world.driver.describe()

        assert info.name
        assert info.version
        assert info.cpus >= 1
        assert info.memory_bytes > 64 << 20
        assert info.default_runtime in {*world.driver.abilities.runtimes, ""}

    # -- events

    async def test_events_tell_death_and_removal(self, world: World) -> None:
        """A container that dies by itself is told of as died, with its exit code, and as removed when it is."""
        async with listening(world.root) as line, following(world.driver) as events:
            spec = spec_of(world, line)
            container_id = await world.driver.containers.create(spec)
            await world.driver.containers.start(container_id)
            await line.link()

            await world.kill(container_id)
            assert await events.next() == RuntimeEvent(EventKind.DIED, spec.sandbox_id, container_id, 137)
            await world.driver.containers.destroy(container_id)
            assert await events.next() == RuntimeEvent(EventKind.REMOVED, spec.sandbox_id, container_id)

    @needs(Ability.PAUSE, EventKind.PAUSED, EventKind.RESUMED)
    async def test_events_tell_of_pauses(self, world: World) -> None:
        """Whoever paused it."""
        async with listening(world.root) as line, following(world.driver) as events:
            spec = spec_of(world, line)
            container_id = await world.driver.containers.create(spec)
            await world.driver.containers.start(container_id)
            await line.link()
            other = world.another()
            await other.containers.pause(container_id)
            await other.containers.resume(container_id)
            await other.aclose()

            assert await events.next() == RuntimeEvent(EventKind.PAUSED, spec.sandbox_id, container_id)
            assert await events.next() == RuntimeEvent(EventKind.RESUMED, spec.sandbox_id, container_id)

    async def test_events_tell_of_what_we_destroy(self, world: World) -> None:
        """Destroying a running container is told of as well: first died, then removed."""
        async with listening(world.root) as line, following(world.driver) as events:
            spec = spec_of(world, line)
            container_id = await world.driver.containers.create(spec)
            await world.driver.containers.start(container_id)
            await world.driver.containers.destroy(container_id)

            told = [await events.next(), await events.next()]

            assert [event.kind for event in told] == [EventKind.DIED, EventKind.REMOVED]
            assert {event.sandbox_id for event in told} == {spec.sandbox_id}

    # -- the load

    async def test_what_containers_use_is_told(self, world: World) -> None:
        """Memory and CPU of one that runs; nothing of one that does not run, that is gone, or that never was."""
        async with listening(world.root) as line, listening(world.root) as another:
            running = await world.driver.containers.create(spec_of(world, line))
            created = await world.driver.containers.create(spec_of(world, another))
            await world.driver.containers.start(running)
            await line.link()

            loads = await world.driver.containers.load([running, created, NO_SUCH_ID])
            assert loads.keys() == {running}
            assert 1 << 20 <= loads[running].memory_bytes < 1 << 30
            assert 0 <= loads[running].cpu_s < PATIENCE_S

            await world.driver.containers.destroy(running)
            assert await world.driver.containers.load([running]) == {}

    # -- the disk

    @needs(Ability.DISK_USAGE)
    async def test_what_containers_take_is_told(self, world: World) -> None:
        """Of ours alone, those that do not run too; and the engine's disk has room, or nobody can see it."""
        async with listening(world.root) as line, listening(world.root) as another, listening(world.root) as theirs:
            running = spec_of(world, line)
            created, strange = spec_of(world, another), spec_of(world, theirs)
            await world.driver.containers.start(await world.driver.containers.create(running))
            await line.link()
            await world.driver.containers.create(created)
            await world.stranger.containers.create(strange)

            told = await world.driver.containers.disk_usage(1 << 40, 1 << 40)
            assert {usage.sandbox_id for usage in told} == {running.sandbox_id, created.sandbox_id}
            assert all(usage.own_bytes < 1 << 20 and usage.named_bytes == 0 for usage in told)
            room = await world.driver.disk_room()
            assert room is None or room.free_bytes > 0
