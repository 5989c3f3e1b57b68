"""Volumes and pulls on the real engine: what only it can get wrong."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiodocker.containers import DockerContainer

from controlplane.errors import ImageMissing, StartFailed, VolumeRefused
from controlplane.runtime import labels
from controlplane.runtime.engine import request
from controlplane.runtime.volumes import PREFIX
from controlplane.sandbox import Credentials, Volume
from tests.contract.driver import listening, spec_of
from tests.contract.worlds import DockerWorld, docker_world
from tests.registry import FILE, serving_image


@pytest.fixture
async def world() -> AsyncIterator[DockerWorld]:
    async with docker_world() as world:
        yield world


async def test_volumes_are_where_they_were_asked_for_and_no_more_than_that(world: DockerWorld, tmp_path: Path) -> None:
    """A claim, a part of it, a directory of the host, read-only; and what one writes, the other reads."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "hello").write_text("hello")
    claim = world.new_claim()
    volumes = (
        Volume(name="all", mount_path="/all", claim=claim),
        Volume(name="part", mount_path="/part", claim=claim, sub_path="a/b"),
        Volume(name="host", mount_path="/mnt/host", host_root=str(tmp_path), sub_path="in", read_only=True),
    )
    async with listening(world.root) as line:
        container_id = await world.driver.create(spec_of(world, line, volumes=volumes))
        await world.driver.start(container_id)
        await line.link()

        ran = await world.run_inside(container_id, "sh", "-c", "echo x > /part/f && cat /all/a/b/f /mnt/host/hello")
        assert ran.output.split() == ["x", "hello"]
        refused = await world.run_inside(container_id, "sh", "-c", "echo no > /mnt/host/hello")
        assert refused.exit_code != 0
        assert "Read-only" in refused.output
        await world.driver.destroy(container_id)


@pytest.mark.parametrize("sub_path", ["link", "link/below", "hidden/file", "missing"])
async def test_no_way_leads_out_of_a_directory_of_the_host(world: DockerWorld, tmp_path: Path, sub_path: str) -> None:
    """Not by a link, not by one on the way; a file and nothing at all are no directories."""
    (tmp_path / "link").symlink_to("/etc")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "file").touch()
    volume = Volume(name="v", mount_path="/v", host_root=str(tmp_path), sub_path=sub_path)
    async with listening(world.root) as line:
        with pytest.raises(VolumeRefused, match="no symbolic link may lead there") as refused:
            await world.driver.create(spec_of(world, line, volumes=(volume,)))
        assert refused.value.code == "volume.host_path_not_found"
    assert await world.leftovers() == []


async def test_a_link_in_a_claim_leads_nowhere(world: DockerWorld) -> None:
    """A sandbox that has all of a volume cannot prepare a trap for one that gets a part of it."""
    claim = world.new_claim()
    async with listening(world.root) as line:
        await world.driver.destroy(
            await world.driver.create(spec_of(world, line, volumes=(Volume(name="v", mount_path="/v", claim=claim),)))
        )
        (await world._path_of(PREFIX + claim) / "trap").symlink_to("/etc")
        part = Volume(name="v", mount_path="/v", claim=claim, sub_path="trap")
        with pytest.raises(VolumeRefused) as refused:
            await world.driver.create(spec_of(world, line, volumes=(part,)))
        assert refused.value.code == "volume.sub_path"


async def test_a_volume_is_not_taken_from_a_container_that_is_being_made(
    world: DockerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine would make another by that name, which nobody ever removes."""
    claim = world.new_claim()
    driver = world.another()
    create = driver._docker.containers.create

    async def create_later(config: dict[str, Any], name: str) -> DockerContainer:
        await driver.remove_unused_volumes()
        return await create(config, name=name)

    monkeypatch.setattr(driver._docker.containers, "create", create_later)
    volume = Volume(name="v", mount_path="/v", claim=claim, delete=True)
    async with listening(world.root) as line:
        container_id = await driver.create(spec_of(world, line, volumes=(volume,)))
        found = await request(world.docker, "GET", f"volumes/{PREFIX}{claim}")
        assert found["Labels"][labels.DISPOSABLE] == labels.TRUE
        await driver.destroy(container_id)
        await driver.remove_unused_volumes()
        names = [it["Name"] for it in (await world.docker.volumes.list())["Volumes"]]
        assert PREFIX + claim not in names
    await driver.aclose()


async def test_a_directory_exchanged_after_it_was_looked_at_is_noticed(world: DockerWorld, tmp_path: Path) -> None:
    """The engine follows the link that stands there now; nobody gets that container."""
    (tmp_path / "a").mkdir()
    volume = Volume(name="v", mount_path="/v", host_root=str(tmp_path), sub_path="a")
    async with listening(world.root) as line:
        container_id = await world.driver.create(spec_of(world, line, volumes=(volume,)))
        os.rename(tmp_path / "a", tmp_path / "b")
        (tmp_path / "a").symlink_to("/etc")
        with pytest.raises(StartFailed, match="was exchanged while it was mounted"):
            await world.driver.start(container_id)
        await world.driver.destroy(container_id)


async def test_an_image_is_fetched_from_its_registry(world: DockerWorld) -> None:
    """And a container starts from it: it has nothing but one file, so that is all the agent's own doing."""
    with serving_image() as image:
        await world.driver.pull(image, None)
    try:
        async with listening(world.root) as line:
            container_id = await world.driver.create(spec_of(world, line, image=image))
            await world.driver.start(container_id)
            await line.link()
            pid = (await world.docker.containers.container(container_id).show())["State"]["Pid"]
            assert FILE in os.listdir(f"/proc/{pid}/root")
            await world.driver.destroy(container_id)
    finally:
        await world.driver.remove_image(image)


async def test_a_registry_that_wants_a_password(world: DockerWorld) -> None:
    """Without it, or with a wrong one, the image is missing; the message has no password in it."""
    password = secrets.token_hex(8)
    with serving_image("ada", password) as image:
        for credentials in (None, Credentials("ada", f"{password}x")):
            with pytest.raises(ImageMissing) as refused:
                await world.driver.pull(image, credentials)
            assert password not in refused.value.message
        await world.driver.pull(image, Credentials("ada", password))
        await world.driver.remove_image(image)
        with pytest.raises(ImageMissing, match="manifest unknown"):
            await world.driver.pull(image.replace(":1", ":2"), Credentials("ada", password))
