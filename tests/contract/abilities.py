"""What an engine does that has an ability, and what one does that has it not, as tests that run on both."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from controlplane.errors import RuntimeFailure, Unsupported
from controlplane.runtime import labels
from controlplane.runtime.abilities import LIMITS, NETWORKS, Ability
from controlplane.runtime.driver import ContainerState
from controlplane.runtime.events import EventKind
from controlplane.sandbox import Limits, Network, Volume, VolumeKind
from tests.contract.driver import World, listening, only, spec_of


async def _pause(world: World, container_id: str) -> None:
    await world.driver.containers.pause(container_id)
    await world.driver.containers.resume(container_id)


async def _resume(world: World, container_id: str) -> None:
    await world.driver.containers.resume(container_id)


async def _resize(world: World, container_id: str) -> None:
    await world.driver.containers.resize(container_id, Limits(cpus=0.5, memory_bytes=256 << 20, pids=64))


async def _commit(world: World, container_id: str) -> None:
    image = f"slt-{secrets.token_hex(4)}:1"
    await world.driver.images.commit(container_id, image)
    await world.driver.images.remove(image)


async def _remove_image(world: World, _container_id: str) -> None:
    await world.driver.images.remove(f"slt-{secrets.token_hex(4)}:1")


async def _pull(world: World, _container_id: str) -> None:
    try:
        await world.driver.images.pull("127.0.0.1:1/no/such:1", None)
    except Unsupported:
        raise
    except RuntimeFailure:
        pass  # there is no such registry


async def _measure(world: World, _container_id: str) -> None:
    await world.driver.containers.disk_usage(1 << 40, 1 << 40)


VERBS: dict[Callable[[World, str], Awaitable[None]], Ability] = {
    _pause: Ability.PAUSE,
    _resume: Ability.PAUSE,
    _resize: Ability.LIVE_LIMITS,
    _commit: Ability.SNAPSHOTS,
    _remove_image: Ability.SNAPSHOTS,
    _pull: Ability.PULL,
    _measure: Ability.DISK_USAGE,
}


class AbilitiesContract:
    """The promises. A subclass gives the fixture `world`."""

    async def test_abilities_are_told(self, world: World) -> None:
        """Under the engine's own name, in words that we know."""
        info = await world.driver.describe()
        abilities = world.driver.abilities
        assert abilities.engine == info.name
        assert abilities.limits <= set(LIMITS)
        assert abilities.events <= {EventKind.OOM, EventKind.PAUSED, EventKind.RESUMED}
        assert "" not in abilities.runtimes

    @pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__.strip("_"))
    async def test_what_an_engine_cannot_do_it_refuses(
        self, world: World, verb: Callable[[World, str], Awaitable[None]]
    ) -> None:
        """With the typed error, which names the engine; the container runs on. It refuses nothing that it can do."""
        await world.driver.describe()
        abilities = world.driver.abilities
        async with listening(world.root) as line:
            container_id = await world.driver.containers.create(spec_of(world, line))
            await world.driver.containers.start(container_id)
            await line.link()
            if VERBS[verb] in abilities.can:
                await verb(world, container_id)
            else:
                with pytest.raises(Unsupported, match=rf"{abilities.engine} cannot {VERBS[verb].value}"):
                    await verb(world, container_id)
            assert (await only(world.driver, container_id)).state is ContainerState.RUNNING

    @pytest.mark.parametrize("network", Network)
    async def test_a_network_that_an_engine_has_not(self, world: World, network: Network) -> None:
        """No container is connected to more, or to less, than was asked for."""
        await world.driver.describe()
        async with listening(world.root) as line:
            spec = spec_of(world, line, network=network)
            if network in world.driver.abilities.networks:
                container_id = await world.driver.containers.create(spec)
                assert (await only(world.driver, container_id)).labels[labels.NETWORK] == network.value
                await world.driver.containers.destroy(container_id)
            else:
                with pytest.raises(Unsupported, match=NETWORKS[network]):
                    await world.driver.containers.create(spec)
            assert await world.leftovers() == []

    @pytest.mark.parametrize("kind", VolumeKind)
    async def test_a_kind_of_volume_that_an_engine_cannot_mount(
        self, world: World, kind: VolumeKind, tmp_path: Path
    ) -> None:
        """Nothing is left behind, and no volume was made."""
        await world.driver.describe()
        is_host_path = kind is VolumeKind.HOST_PATH
        volume = Volume(
            name="data",
            mount_path="/data",
            volume_name="" if is_host_path else world.new_volume_name(),
            as_it_is=kind is VolumeKind.EXISTING,
            host_root=str(tmp_path) if is_host_path else "",
        )
        assert volume.kind is kind
        async with listening(world.root) as line:
            spec = spec_of(world, line, volumes=(volume,))
            if kind in world.driver.abilities.volumes:
                await world.driver.containers.destroy(await world.driver.containers.create(spec))
            else:
                with pytest.raises(Unsupported, match=rf"cannot mount {kind.value} \(volume data\)"):
                    await world.driver.containers.create(spec)
            assert await world.leftovers() == []

    @pytest.mark.parametrize(
        ("wish", "ability"),
        [({"gpus": "1"}, Ability.GPUS), ({"user_namespaces": True}, Ability.USER_NAMESPACES)],
        ids=["gpus", "user namespaces"],
    )
    async def test_what_a_container_cannot_have(self, world: World, wish: dict[str, object], ability: Ability) -> None:
        """It is not made, rather than made without."""
        await world.driver.describe()
        async with listening(world.root) as line:
            spec = spec_of(world, line, **wish)
            if ability in world.driver.abilities.can:
                await world.driver.containers.destroy(await world.driver.containers.create(spec))
            else:
                with pytest.raises(Unsupported, match=ability.value):
                    await world.driver.containers.create(spec)
            assert await world.leftovers() == []

    async def test_a_runtime_that_an_engine_has_not(self, world: World) -> None:
        """Its own runtimes are named instead."""
        async with listening(world.root) as line:
            with pytest.raises(Unsupported, match=r"cannot run containers by no-such-runtime; it has \w"):
                await world.driver.containers.create(spec_of(world, line, runtime="no-such-runtime"))
            assert await world.leftovers() == []
