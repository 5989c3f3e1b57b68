"""What only the Docker driver promises, on the real engine."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.errors import ImageMissing, ImageUnfinished, RuntimeFailure, Unsupported
from controlplane.runtime.docker import containers as docker
from controlplane.runtime.docker.driver import DockerDriver
from controlplane.runtime.docker.engine import connect
from controlplane.runtime.driver import ContainerState
from controlplane.runtime.events import EventKind
from controlplane.sandbox import Limits, Network
from tests.contract.driver import following, listening, only, spec_of
from tests.contract.worlds import DockerWorld, image_of


async def test_image_cannot_interfere(world: DockerWorld) -> None:
    """Entrypoint, command, health check and stop signal of an image are not ours; its user, directory and env are."""
    lines = (
        'ENTRYPOINT ["/bin/false"]',
        'CMD ["never"]',
        "HEALTHCHECK --interval=1s CMD /bin/false",
        "STOPSIGNAL SIGKILL",
        "ENV FROM_IMAGE=yes LD_LIBRARY_PATH=/nowhere PYTHONHOME=/nowhere PYTHONPATH=/nowhere",
        "RUN useradd --uid 4321 somebody",
        "USER somebody",
        "WORKDIR /made/by/image",
    )
    async with image_of(world, *lines) as image, listening(world.root) as line:
        container_id = await world.driver.containers.create(spec_of(world, line, image=image))
        await world.driver.containers.start(container_id)
        await line.link()

        shown = await world.docker.containers.container(container_id).show()
        assert "Health" not in shown["State"]
        ran = await world.run_inside(container_id, "sh", "-c", "id -u; pwd; echo $FROM_IMAGE; cat /proc/1/cmdline")
        assert ran.output.split("\0")[0].split() == ["4321", "/made/by/image", "yes", "/opt/execd/bin/python3"]


async def test_containers_of_earlier_releases_are_found(world: DockerWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were named after their sandbox; labels alone count, so that they are listed and removed like all others."""
    monkeypatch.setattr(docker, "_name_of", lambda spec, instance: f"sandlot-{spec.sandbox_id}")
    async with listening(world.root) as line:
        old = await world.driver.containers.create(spec_of(world, line))
        monkeypatch.undo()
        new = await world.driver.containers.create(spec_of(world, line))

    assert {container.id for container in await world.driver.containers.list()} == {old, new}
    for container_id in (old, new):
        await world.driver.containers.destroy(container_id)
    assert await world.leftovers() == []


async def test_volumes_of_an_image_do_not_stay(world: DockerWorld) -> None:
    """An image's VOLUME makes an anonymous volume; it goes with its container."""
    async with image_of(world, "VOLUME /data") as image, listening(world.root) as line:
        container_id = await world.driver.containers.create(spec_of(world, line, image=image))
        shown = await world.docker.containers.container(container_id).show()
        volume = next(mount["Name"] for mount in shown["Mounts"] if mount["Destination"] == "/data")

        await world.driver.containers.destroy(container_id)

        assert volume not in {it["Name"] for it in (await world.docker.volumes.list())["Volumes"]}


async def test_missing_volume_of_execd_is_an_error(world: DockerWorld) -> None:
    """The engine would make an empty volume of that name; we say what is missing, and none is made."""
    missing = f"{world.network}-missing"
    driver = DockerDriver(connect(), instance=world.instance, execd_volume=missing)
    try:
        async with listening(world.root) as line:
            with pytest.raises(RuntimeFailure, match=f"{missing}.*make images"):
                await driver.containers.create(spec_of(world, line))
    finally:
        await driver.aclose()

    assert missing not in {it["Name"] for it in (await world.docker.volumes.list())["Volumes"]}
    assert await world.leftovers() == []


async def test_unknown_runtime_is_the_engines_to_refuse(world: DockerWorld) -> None:
    """A shim needs no registration. The engine's reason is told, and nothing is left."""
    async with listening(world.root) as line:
        with pytest.raises(RuntimeFailure, match="no-such") as caught:
            await world.driver.containers.create(spec_of(world, line, runtime="io.containerd.no-such.v9"))

    assert not isinstance(caught.value, Unsupported)

    assert await world.leftovers() == []


async def test_network_is_made_once(world: DockerWorld) -> None:
    """Many drivers that need the network at the same time make one, and it keeps containers apart."""
    drivers = [world.another() for _ in range(4)]
    try:
        async with listening(world.root) as line:
            await asyncio.gather(
                *(
                    driver.containers.create(spec_of(world, line, network=Network.BRIDGE))
                    for driver in drivers
                    for _ in range(2)
                )
            )
    finally:
        for driver in drivers:
            await driver.aclose()

    made = [it for it in await world.docker.networks.list() if it["Name"] == world.network]
    assert len(made) == 1
    assert made[0]["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert len(await world.leftovers()) == 8


async def test_network_that_is_not_ours_is_refused(world: DockerWorld) -> None:
    """A network of our name in which containers could talk to each other is not used."""
    await world.docker.networks.create({"Name": world.network, "Driver": "bridge", "CheckDuplicate": True})
    async with listening(world.root) as line:
        with pytest.raises(RuntimeFailure, match="talk to each other"):
            await world.driver.containers.create(spec_of(world, line, network=Network.BRIDGE))

    assert await world.leftovers() == []


async def test_resize_reaches_the_kernel(world: DockerWorld) -> None:
    """What the engine holds afterwards is what was asked for, and a limit can be taken away again."""

    async def limits(container_id: str) -> tuple[int, ...]:
        host = (await world.docker.containers.container(container_id).show())["HostConfig"]
        return tuple(host[name] for name in ("CpuQuota", "Memory", "MemorySwap", "PidsLimit"))

    memory_files = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null"
    async with listening(world.root) as line:
        container_id = await world.driver.containers.create(spec_of(world, line))
        await world.driver.containers.start(container_id)

        await world.driver.containers.resize(container_id, Limits(cpus=0.5, memory_bytes=100 << 20, pids=32))
        assert await limits(container_id) == (50_000, 100 << 20, 100 << 20, 32)
        assert (await world.run_inside(container_id, "sh", "-c", memory_files)).output == str(100 << 20)

        await world.driver.containers.resize(container_id, Limits(cpus=0, memory_bytes=0, pids=0))
        quota, memory, swap, pids = await limits(container_id)
        assert (quota, memory) == (-1, swap)
        assert memory > 1 << 50
        assert pids in (-1, 0)


async def test_refused_resize_changes_nothing(world: DockerWorld) -> None:
    """Less memory than the engine's minimum: its reason is told, the limits are as before."""
    async with listening(world.root) as line:
        container_id = await world.driver.containers.create(spec_of(world, line))
        await world.driver.containers.start(container_id)
        before = (await world.docker.containers.container(container_id).show())["HostConfig"]

        with pytest.raises(RuntimeFailure, match=r"(?i)memory"):
            await world.driver.containers.resize(container_id, Limits(cpus=0.5, memory_bytes=1 << 20, pids=5))

        assert (await world.docker.containers.container(container_id).show())["HostConfig"] == before


async def test_out_of_memory_is_told(world: DockerWorld) -> None:
    """When process 1 itself is the victim, the event and the ended container both say so."""
    # The shell becomes what eats: nothing else is there to be killed.
    eat = "exec perl -e 'my $x = \"x\" x (1 << 30)'"
    async with listening(world.root) as line, following(world.driver) as events:
        container_id = await world.driver.containers.create(spec_of(world, line))
        await world.driver.containers.start(container_id)
        await line.link()

        ran = await world.run_inside(container_id, "sh", "-c", eat)

        assert ran.exit_code == 137
        assert (await events.next()).kind is EventKind.OOM
        assert (await only(world.driver, container_id)).state is ContainerState.RUNNING


async def test_an_image_that_is_still_being_built_says_so(world: DockerWorld) -> None:
    """The reason comes in place of the advice for an image that nobody makes."""
    driver = DockerDriver(
        connect(),
        instance=world.instance,
        execd_volume=world.execd_volume,
        not_yet=lambda image: f"{image} is being built" if image == "sandlot/later" else "",
    )
    try:
        async with listening(world.root) as line:
            with pytest.raises(ImageUnfinished, match=r"^sandlot/later is being built$"):
                await driver.containers.create(spec_of(world, line, image="sandlot/later"))
            with pytest.raises(ImageMissing, match="sandlot/never"):
                await driver.containers.create(spec_of(world, line, image="sandlot/never"))
    finally:
        await driver.aclose()
