"""What `Volumes` promises, and `Containers.create` of volumes, as tests."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from controlplane.errors import VolumeInUse, VolumeRefused
from controlplane.sandbox import Volume, VolumeKind
from tests.contract.driver import World, listening, needs, spec_of


class VolumesContract:
    """The promises. A subclass gives the fixture `world`."""

    @needs(VolumeKind.NAMED)
    @pytest.mark.parametrize("sub_path", ["", "part"])
    async def test_a_named_volume_is_made_only_if_that_is_asked_and_goes_with_its_last_user(
        self, world: World, sub_path: str
    ) -> None:
        """Whoever that is, of all of it or of a part, and not before; by this installation alone."""
        name = world.new_volume_name()
        volume = Volume(name="data", mount_path="/data", volume_name=name, delete=True)
        async with listening(world.root) as line:
            with pytest.raises(VolumeRefused):
                await world.driver.containers.create(spec_of(world, line, volumes=(replace(volume, create=False),)))
            maker = await world.driver.containers.create(spec_of(world, line, volumes=(volume,)))
            user = replace(volume, delete=False, create=False, sub_path=sub_path)
            last = await world.driver.containers.create(spec_of(world, line, volumes=(user,)))
            await world.driver.containers.destroy(maker)
            await world.driver.volumes.remove_unused()
            again = await world.driver.containers.create(spec_of(world, line, volumes=(user,)))
            for container_id in (last, again):
                await world.driver.containers.destroy(container_id)
            await world.stranger.volumes.remove_unused()
            await world.driver.containers.destroy(
                await world.driver.containers.create(spec_of(world, line, volumes=(user,)))
            )
            for _ in range(2):
                await world.driver.volumes.remove_unused()
            with pytest.raises(VolumeRefused):
                await world.driver.containers.create(spec_of(world, line, volumes=(user,)))

    @needs(VolumeKind.NAMED)
    async def test_a_named_volume_that_was_not_made_to_be_removed_stays(self, world: World) -> None:
        """Also when its later users would have it so."""
        volume = Volume(name="data", mount_path="/data", volume_name=world.new_volume_name())
        async with listening(world.root) as line:
            for delete in (False, True):
                user = replace(volume, delete=delete)
                await world.driver.containers.destroy(
                    await world.driver.containers.create(spec_of(world, line, volumes=(user,)))
                )
                await world.driver.volumes.remove_unused()
            user = replace(volume, create=False)
            await world.driver.containers.destroy(
                await world.driver.containers.create(spec_of(world, line, volumes=(user,)))
            )

    @needs(VolumeKind.NAMED)
    async def test_named_volumes_are_listed_and_removed(self, world: World) -> None:
        """Those of this installation, by their owners' names for them; never one that a container has."""
        plain = Volume(name="data", mount_path="/data", volume_name=world.new_volume_name())
        others = replace(plain, owner="bob")
        async with listening(world.root) as line:
            user = await world.driver.containers.create(
                spec_of(world, line, volumes=(plain, replace(others, mount_path="/others", sub_path="a")))
            )
            listed = {volume.name: volume for volume in await world.driver.volumes.list()}
            assert set(listed) == {plain.volume_name, f"bob.{plain.volume_name}"}
            assert all(each.created_at.tzinfo is not None and each.size_bytes is None for each in listed.values())
            assert await world.stranger.volumes.list() == []
            for name in listed:
                with pytest.raises(VolumeInUse):
                    await world.driver.volumes.remove(name)
            await world.driver.containers.destroy(user)
            await world.stranger.volumes.remove(plain.volume_name)
            measured = await world.driver.volumes.list(measure=True)
            assert all(each.size_bytes is not None and each.size_bytes >= 0 for each in measured)
            assert len(measured) == 2
        for _ in range(2):
            for name in listed:
                await world.driver.volumes.remove(name)
        assert await world.driver.volumes.list() == []

    @needs(VolumeKind.NAMED, VolumeKind.EXISTING)
    async def test_a_volume_as_it_is_is_another_than_the_named_one(self, world: World) -> None:
        """It is made where that is asked, and goes only where that was asked of the one that made it."""
        named = Volume(name="data", mount_path="/data", volume_name=world.new_volume_name(), delete=True)
        plain = replace(named, as_it_is=True)
        async with listening(world.root) as line:
            await world.driver.containers.destroy(
                await world.driver.containers.create(spec_of(world, line, volumes=(named,)))
            )
            with pytest.raises(VolumeRefused):
                await world.driver.containers.create(spec_of(world, line, volumes=(replace(plain, create=False),)))
            await world.driver.containers.destroy(
                await world.driver.containers.create(spec_of(world, line, volumes=(plain,)))
            )
            await world.driver.volumes.remove_unused()
            with pytest.raises(VolumeRefused):
                await world.driver.containers.create(spec_of(world, line, volumes=(replace(plain, create=False),)))
