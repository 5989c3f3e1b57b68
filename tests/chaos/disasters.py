"""What goes wrong in a round. Each disaster strikes, and is over when it returns."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx

from tests.chaos.engine_proxy import WELL, EngineProxy, Mood
from tests.chaos.ledger import Ledger
from tests.support.server.live_server import LiveServer, engine_request

# The engine is asked again after at most five seconds.
NOTICE_S = 20.0
_BALLAST = "ballast"


class World:
    """What disasters can strike."""

    def __init__(self, server: LiveServer, proxy: EngineProxy, ledger: Ledger, http: httpx.AsyncClient) -> None:
        self.server = server
        self.proxy = proxy
        self.ledger = ledger
        self.http = http  # to the server as it is now

    async def start(self) -> None:
        """Start the server anew; it has another port then."""
        await asyncio.to_thread(self.server.start, until="Sandlot ")
        self.http.base_url = httpx.URL(self.server.address)


async def kill_server(world: World, _: random.Random) -> None:
    """`kill -9`, and a start."""
    await asyncio.to_thread(world.server.kill)
    await world.start()


async def kill_server_while_it_starts(world: World, rng: random.Random) -> None:
    """A second `kill -9` while the first one is being recovered from."""
    await kill_server(world, rng)
    await asyncio.sleep(rng.random() / 2)
    await kill_server(world, rng)


async def kill_containers(world: World, rng: random.Random) -> None:
    """One or two containers die, of sandboxes or warm ones: by the engine, or by a signal to their first process."""
    containers = await asyncio.to_thread(world.server.containers)
    for container in rng.sample(sorted(containers), min(len(containers), rng.randint(1, 2))):
        with contextlib.suppress(RuntimeError, ProcessLookupError):  # it has gone already
            seen = await asyncio.to_thread(engine_request, "GET", f"/containers/{container}/json")
            for facts in world.ledger.sandboxes.values():
                if facts.id == seen["Config"]["Labels"]["sandlot.sandbox"]:
                    facts.kill()
            if rng.random() < 0.5 and _is_first_of(seen["State"]["Pid"], container):
                os.kill(seen["State"]["Pid"], signal.SIGKILL)
            else:
                await asyncio.to_thread(engine_request, "POST", f"/containers/{container}/kill")


def _is_first_of(pid: int, container: str) -> bool:
    """Whether a process is that of a container, also seen from here: an engine may number processes otherwise."""
    with contextlib.suppress(OSError):
        return pid > 0 and container in Path(f"/proc/{pid}/cgroup").read_text()
    return False


async def misbehaving_engine(world: World, rng: random.Random) -> None:
    """Answers are late, are failures, or are lost; then the stream of events breaks as well."""
    world.proxy.mood = Mood(delay=0.3, fail=0.15 * rng.random(), lose=0.15 * rng.random(), hang=0.1 * rng.random())
    await asyncio.sleep(0.5 + rng.random())
    world.proxy.mood = WELL
    world.proxy.cut_events()


async def engine_gone(world: World, _: random.Random) -> None:
    """Nobody answers any more, until /health has said so; then the engine is back, and /health says that."""
    world.proxy.mood = Mood(is_gone=True)
    if not await _health_becomes(world, 503):
        world.ledger.violations.append("/health says that all is well while the engine is gone")
    world.proxy.mood = WELL
    if not await _health_becomes(world, 200):
        world.ledger.violations.append("/health does not say that the engine is back")


async def _health_becomes(world: World, status: int) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(NOTICE_S):
            while (await world.http.get("/health")).status_code != status:  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.05)
            return True
    return False


async def locked_store(world: World, rng: random.Random) -> None:
    """Another program holds the database for a while."""
    path = world.server.directory / "state" / "sandlot.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(0.3 + rng.random())


async def full_disk(world: World, rng: random.Random) -> None:
    """The disk of the state directory is full, and has room again later. Nothing on a disk that others use."""
    ballast = world.server.directory / "state" / _BALLAST
    if os.stat(ballast.parent).st_dev == os.stat(world.server.directory).st_dev:
        return
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(64 * 1024))
    await asyncio.sleep(0.3 + rng.random())
    ballast.unlink()


Disaster = Callable[[World, random.Random], Awaitable[None]]
# And how often they come. Only the first two end the server: of the others, its clients see errors and go on.
DISASTERS: dict[Disaster, int] = {
    kill_server: 9,
    kill_server_while_it_starts: 2,
    kill_containers: 4,
    misbehaving_engine: 4,
    engine_gone: 1,
    locked_store: 2,
    full_disk: 2,
}
