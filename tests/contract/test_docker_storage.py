"""Volumes and pulls on the real engine: what only it can get wrong."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

import pytest
from aiodocker.containers import DockerContainer

from controlplane.errors import ImageMissing, StartFailed, VolumeRefused
from controlplane.runtime import labels
from controlplane.runtime.abilities import Ability
from controlplane.runtime.docker import volumes as volumes_module
from controlplane.runtime.docker.engine import request
from controlplane.runtime.docker.volumes import PREFIX
from controlplane.sandbox import Credentials, Volume
from tests.contract.driver import come_and_go, listening, spec_of
from tests.contract.worlds import DockerWorld, image_of
from tests.support.server.registry import FILE, serving_image

MANY = 1 << 40


async def test_volumes_are_where_they_were_asked_for_and_no_more_than_that(world: DockerWorld, tmp_path: Path) -> None:
    """A named volume, a part of it, a directory of the host, read-only; and what one writes, the other reads."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "hello").write_text("hello")
    volume_name = world.new_volume_name()
    volumes = (
        Volume(name="all", mount_path="/all", volume_name=volume_name),
        Volume(name="part", mount_path="/part", volume_name=volume_name, sub_path="a/b"),
        Volume(name="host", mount_path="/mnt/host", host_root=str(tmp_path), sub_path="in", read_only=True),
    )
    async with listening(world.root) as line:
        container_id = await world.driver.containers.create(spec_of(world, line, volumes=volumes))
        await world.driver.containers.start(container_id)
        await line.link()

        ran = await world.run_inside(container_id, "sh", "-c", "echo x > /part/f && cat /all/a/b/f /mnt/host/hello")
        assert ran.output.split() == ["x", "hello"]
        refused = await world.run_inside(container_id, "sh", "-c", "echo no > /mnt/host/hello")
        assert refused.exit_code != 0
        assert "Read-only" in refused.output
        await world.driver.containers.destroy(container_id)


async def test_a_volume_of_too_many_files_is_not_measured(world: DockerWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the others, what is in them."""
    names = [world.new_volume_name() for _ in range(2)]
    mounted = [Volume(name=name, mount_path=f"/{name}", volume_name=name) for name in names]
    async with listening(world.root) as line:
        await come_and_go(world.driver, spec_of(world, line, volumes=tuple(mounted)))
    few, many = [Path((await request(world.docker, "GET", f"volumes/{PREFIX}{name}"))["Mountpoint"]) for name in names]
    (few / "large").write_bytes(os.urandom(1 << 20))
    for number in range(4):
        (many / str(number)).touch()
    monkeypatch.setattr(volumes_module, "MAX_MEASURED_FILES", 3)
    sizes = {volume.name: volume.size_bytes for volume in await world.driver.volumes.list(measure=True)}
    assert sizes[names[1]] is None
    assert 1 << 20 <= (sizes[names[0]] or 0) < 2 << 20
    for name in names:
        await world.driver.volumes.remove(name)


async def test_what_a_container_takes_is_measured(
    world: DockerWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own files, with those in volumes of its image, and named volumes; nothing of a directory of the host.

    An engine whose directories cannot be read tells bytes of its own files.
    """
    own, part = world.new_volume_name(), world.new_volume_name()
    (tmp_path / "large").write_bytes(os.urandom(10 << 20))
    volumes = (
        Volume(name="own", mount_path="/own", volume_name=own),
        Volume(name="part", mount_path="/part", volume_name=part, sub_path="a"),
        Volume(name="host", mount_path="/host", host_root=str(tmp_path)),
    )
    script = """
        head -c 3000000 /dev/urandom > /root/file
        head -c 2000000 /dev/urandom > /volume/file
        head -c 1000000 /dev/urandom | tee /own/file > /part/file
        mkdir /tmp/many && cd /tmp/many && seq 500 | xargs touch
        head -c 5000000 /dev/urandom > /dev/shm/file
    """
    if (await world.driver.describe()).storage_driver != "overlay2":
        pytest.skip("the files of other storage are not measured one by one")
    async with image_of(world, "VOLUME /volume") as image, listening(world.root) as line:
        container_id = await world.driver.containers.create(spec_of(world, line, image=image, volumes=volumes))
        await world.driver.containers.start(container_id)
        await line.link()
        assert (await world.run_inside(container_id, "sh", "-c", script)).exit_code == 0

        (usage,) = await world.driver.containers.disk_usage(MANY, MANY)
        assert 5_000_000 <= usage.own_bytes < 6_000_000
        assert 502 <= usage.own_files < 600
        assert 2_000_000 <= usage.named_bytes < 2_100_000
        assert usage.named_files == 2
        (bounded,) = await world.driver.containers.disk_usage(MANY, 100)
        assert 100 < bounded.own_files < 200

        monkeypatch.setattr(os, "access", lambda path, mode: False)
        another = world.another()
        (told,) = await another.containers.disk_usage(MANY, MANY)
        assert 3_000_000 <= told.own_bytes < 4_000_000
        assert told.own_files == -1
        await another.aclose()
        await world.driver.containers.destroy(container_id)
        assert await world.driver.containers.disk_usage(MANY, MANY) == ()


async def test_a_quota_is_asked_for_where_there_are_some(world: DockerWorld) -> None:
    """An engine without quotas makes the container all the same, and is not asked again."""
    driver = world.with_quota(64 << 20)
    try:
        async with listening(world.root) as line, listening(world.root) as another:
            first = await driver.containers.create(spec_of(world, line))
            await driver.containers.start(first)
            await line.link()
            second = await driver.containers.create(spec_of(world, another))
            shown = await world.docker.containers.container(second).show()
            write = "head -c 100000000 /dev/zero > /root/file"
            ran = await world.run_inside(first, "sh", "-c", write)
            has_quota = bool(shown["HostConfig"].get("StorageOpt"))
            assert has_quota is (Ability.DISK_LIMITS in driver.abilities.can)
            assert (ran.exit_code != 0) is has_quota
    finally:
        await driver.aclose()


@pytest.mark.parametrize("sub_path", ["link", "link/below", "hidden/file", "missing"])
async def test_no_way_leads_out_of_a_directory_of_the_host(world: DockerWorld, tmp_path: Path, sub_path: str) -> None:
    """Not by a link, not by one on the way; a file and nothing at all are no directories."""
    (tmp_path / "link").symlink_to("/etc")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "file").touch()
    volume = Volume(name="v", mount_path="/v", host_root=str(tmp_path), sub_path=sub_path)
    async with listening(world.root) as line:
        with pytest.raises(VolumeRefused, match="no symbolic link may lead there") as refused:
            await world.driver.containers.create(spec_of(world, line, volumes=(volume,)))
        assert refused.value.code == "volume.host_path_not_found"
    assert await world.leftovers() == []


async def test_a_link_in_a_named_volume_leads_nowhere(world: DockerWorld) -> None:
    """A sandbox that has all of a volume cannot prepare a trap for one that gets a part of it."""
    volume_name = world.new_volume_name()
    async with listening(world.root) as line:
        volume = Volume(name="v", mount_path="/v", volume_name=volume_name)
        await come_and_go(world.driver, spec_of(world, line, volumes=(volume,)))
        (await world._path_of(PREFIX + volume_name) / "trap").symlink_to("/etc")
        part = Volume(name="v", mount_path="/v", volume_name=volume_name, sub_path="trap")
        with pytest.raises(VolumeRefused) as refused:
            await world.driver.containers.create(spec_of(world, line, volumes=(part,)))
        assert refused.value.code == "volume.sub_path"


async def test_a_volume_is_not_taken_from_a_container_that_is_being_made(
    world: DockerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine would make another by that name, which nobody ever removes."""
    volume_name = world.new_volume_name()
    driver = world.another()
    create = driver._docker.containers.create

    async def create_later(config: dict[str, Any], name: str) -> DockerContainer:
        await driver.volumes.remove_unused()
        return await create(config, name=name)

    monkeypatch.setattr(driver._docker.containers, "create", create_later)
    volume = Volume(name="v", mount_path="/v", volume_name=volume_name, delete=True)
    async with listening(world.root) as line:
        container_id = await driver.containers.create(spec_of(world, line, volumes=(volume,)))
        found = await request(world.docker, "GET", f"volumes/{PREFIX}{volume_name}")
        assert found["Labels"][labels.DISPOSABLE] == labels.TRUE
        await driver.containers.destroy(container_id)
        await driver.volumes.remove_unused()
        names = [it["Name"] for it in (await world.docker.volumes.list())["Volumes"]]
        assert PREFIX + volume_name not in names
    await driver.aclose()


async def test_a_volume_that_the_engine_has_already_is_mounted_as_it_is(world: DockerWorld) -> None:
    """With what is in it, or a part of that, and it stays: nobody but its owner made it."""
    name = world.new_volume_name()
    directory = await world._new_volume(name)
    (directory / "part").mkdir()
    (directory / "part" / "hello").write_text("hello")
    volume = Volume(name="v", mount_path="/v", volume_name=name, as_it_is=True, create=False, delete=True)
    part = Volume(name="p", mount_path="/p", volume_name=name, as_it_is=True, sub_path="part")
    async with listening(world.root) as line:
        container_id = await world.driver.containers.create(spec_of(world, line, volumes=(volume, part)))
        await world.driver.containers.start(container_id)
        await line.link()
        assert (await world.run_inside(container_id, "cat", "/v/part/hello", "/p/hello")).output == "hellohello"
        await world.driver.containers.destroy(container_id)
        await world.driver.volumes.remove_unused()
    assert (directory / "part" / "hello").exists()


async def test_a_directory_exchanged_after_it_was_looked_at_is_noticed(world: DockerWorld, tmp_path: Path) -> None:
    """The engine follows the link that stands there now; nobody gets that container."""
    (tmp_path / "a").mkdir()
    volume = Volume(name="v", mount_path="/v", host_root=str(tmp_path), sub_path="a")
    async with listening(world.root) as line:
        container_id = await world.driver.containers.create(spec_of(world, line, volumes=(volume,)))
        os.rename(tmp_path / "a", tmp_path / "b")
        (tmp_path / "a").symlink_to("/etc")
        with pytest.raises(StartFailed, match="was exchanged while it was mounted"):
            await world.driver.containers.start(container_id)
        await world.driver.containers.destroy(container_id)


async def test_an_image_is_fetched_from_its_registry(world: DockerWorld) -> None:
    """And a container starts from it: it has nothing but one file, so that is all the agent's own doing."""
    with serving_image() as image:
        await world.driver.images.pull(image, None)
    try:
        async with listening(world.root) as line:
            container_id = await world.driver.containers.create(spec_of(world, line, image=image))
            await world.driver.containers.start(container_id)
            await line.link()
            pid = (await world.docker.containers.container(container_id).show())["State"]["Pid"]
            assert FILE in os.listdir(f"/proc/{pid}/root")
            await world.driver.containers.destroy(container_id)
    finally:
        await world.driver.images.remove(image)


async def test_a_registry_that_wants_a_password(world: DockerWorld) -> None:
    """Without it, or with a wrong one, the image is missing; the message has no password in it."""
    password = secrets.token_hex(8)
    with serving_image("ada", password) as image:
        for credentials in (None, Credentials("ada", f"{password}x")):
            with pytest.raises(ImageMissing) as refused:
                await world.driver.images.pull(image, credentials)
            assert password not in refused.value.message
        await world.driver.images.pull(image, Credentials("ada", password))
        await world.driver.images.remove(image)
        with pytest.raises(ImageMissing, match="manifest unknown"):
            await world.driver.images.pull(image.replace(":1", ":2"), Credentials("ada", password))
