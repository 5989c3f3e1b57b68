"""Warm containers are made ready one after the other, and never at the cost of a start or a claim."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from controlplane.errors import AgentError
from controlplane.pool.plan import Template
from controlplane.pool.pool import Pool
from controlplane.pool.shelf import Warm
from controlplane.sandbox import Limits, Network
from controlplane.tasks import Background
from tests.support.fakes.factory import Factory
from tests.support.virtual_time import VirtualLoop, virtual_time

A = Template("a", network=Network.NONE, limits=Limits())


class World:
    """A pool of three whose preparations end when the test says so."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.factory = Factory()
        self.background = Background()
        self.going_on: dict[str, asyncio.Future[None]] = {}
        self.clients_wait = False
        self.pool = Pool(
            targets={A: 3},
            provision=self.factory.provision,
            discard=self.factory.discard,
            prepare=self.prepare,
            is_alive=self.factory.is_alive,
            background=self.background,
            max_starting=3,
            clients_wait=lambda: self.clients_wait,
            clock=loop.time,
        )
        loop.call_soon(self.pool.open)
        loop.settle()

    async def prepare(self, warm: Warm) -> None:
        """As `Provisioner.prepare`."""
        self.going_on[warm.sandbox_id] = self.loop.create_future()
        try:
            await self.going_on[warm.sandbox_id]
        finally:
            del self.going_on[warm.sandbox_id]

    def started(self) -> None:
        """The oldest start is done."""
        self.factory.starts[0].finish()
        self.loop.settle()

    def prepared(self, error: Exception | None = None) -> str:
        """The preparation that goes on is done; return whose it was."""
        ((sandbox_id, future),) = self.going_on.items()
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
        self.loop.settle()
        return sandbox_id

    def claim(self) -> str:
        """Claim a warm one."""
        return self.loop.run(self.pool.take(A, timeout_s=1)).sandbox_id


@pytest.fixture
def world() -> Iterator[World]:
    with virtual_time() as loop:
        world = World(loop)
        yield world

        async def close() -> None:
            async with world.background:
                await world.pool.aclose()

        loop.run(close())
        loop.settle()


def test_nothing_is_prepared_while_containers_are_started(world: World) -> None:
    """The burst comes first."""
    world.started()
    world.started()
    assert world.going_on == {}
    world.started()
    assert list(world.going_on) == ["s0"]


def test_one_is_prepared_after_the_other(world: World) -> None:
    """Each of them once."""
    for _ in range(3):
        world.started()
    assert [world.prepared(), world.prepared(), world.prepared()] == ["s0", "s1", "s2"]
    assert world.going_on == {}


def test_a_claim_gets_a_prepared_one_where_there_is_one(world: World) -> None:
    """Not simply the oldest."""
    for _ in range(3):
        world.started()
    world.loop.call_soon(world.pool.lost, "s0")
    world.loop.settle()
    world.prepared()  # of the one that was lost
    world.started()
    world.prepared()
    assert world.claim() == "s1"
    assert world.claim() in ("s2", "s3")


def test_a_failed_preparation_is_not_repeated_and_the_container_stays_warm(world: World) -> None:
    """It is usable all the same."""
    for _ in range(3):
        world.started()
    world.prepared(AgentError("no", code="context.start_failed"))
    assert list(world.going_on) == ["s1"]
    assert world.pool.statistics().warm == 3


def test_closing_does_not_wait_for_a_preparation(world: World) -> None:
    """It is cancelled; the container is removed."""
    for _ in range(3):
        world.started()
    world.loop.run(world.pool.aclose())
    world.loop.settle()
    assert world.going_on == {}
    assert sorted(world.factory.discarded) == ["s0", "s1", "s2"]


def test_fewer_containers_are_started_while_clients_wait_for_a_language(world: World) -> None:
    """They have asked before; but starts go on."""
    world.clients_wait = True
    for _ in range(3):
        world.started()
    world.loop.call_soon(world.pool.lost, "s0")
    world.loop.call_soon(world.pool.lost, "s1")
    world.loop.settle()
    assert world.pool.statistics().starting == 1
    world.clients_wait = False
    world.started()
    world.prepared()
    assert world.pool.statistics().starting == 1
    world.loop.call_soon(world.pool.lost, "s2")
    world.loop.settle()
    assert world.pool.statistics().starting == 2
