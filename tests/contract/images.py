"""What `Images` promises, as tests."""

from __future__ import annotations

import secrets

import pytest

from controlplane.errors import ImageInUse, ImageMissing, RuntimeFailure
from controlplane.runtime.abilities import Ability
from controlplane.runtime.driver import ContainerState
from tests.contract.driver import NO_SUCH_ID, World, listening, needs, spec_of


class ImagesContract:
    """The promises. A subclass gives the fixture `world`."""

    @needs(Ability.SNAPSHOTS, Ability.PAUSE)
    async def test_commit_makes_an_image_to_start_from(self, world: World) -> None:
        """Of a running and of a paused container; then it can be removed, unless a container is made from it."""
        async with listening(world.root) as line, listening(world.root) as another:
            container_id = await world.driver.containers.create(spec_of(world, line))
            await world.driver.containers.start(container_id)
            await line.link()
            image = f"slt-{secrets.token_hex(4)}:1"
            try:
                await world.driver.images.commit(container_id, image)
                (listed,) = [one for one in await world.driver.images.list() if image in one.names]
                assert listed.size_bytes > 0
                assert listed.created_at.tzinfo is not None
                await world.driver.containers.pause(container_id)
                await world.driver.images.commit(container_id, image)
                seen = await world.driver.containers.inspect(container_id)
                assert seen is not None
                assert seen.state is ContainerState.PAUSED
                second = await world.driver.containers.create(spec_of(world, another, image=image))
                await world.driver.containers.start(second)
                await another.link()
                with pytest.raises(ImageInUse):
                    await world.driver.images.remove(image)
                await world.driver.containers.destroy(second)
            finally:
                await world.driver.containers.destroy(container_id)
                await world.driver.images.remove(image)
            await world.driver.images.remove(image)
            assert not any(image in one.names for one in await world.driver.images.list())
            with pytest.raises(ImageMissing):
                await world.driver.containers.create(spec_of(world, line, image=image))

    async def test_what_cannot_be_committed(self, world: World) -> None:
        """There is no such container."""
        with pytest.raises(RuntimeFailure):
            await world.driver.images.commit(NO_SUCH_ID, "slt-none:1")

    async def test_images_are_listed_by_their_whole_names(self, world: World) -> None:
        """A name without a tag is listed with the one that it means."""
        names = [name for image in await world.driver.images.list() for name in image.names]
        assert f"{world.image}:latest" in names
        assert len(names) == len(set(names))
        assert not any("<none>" in name for name in names)
