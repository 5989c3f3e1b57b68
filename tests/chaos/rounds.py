"""Rounds of chaos: clients work, something goes wrong at a random moment, and then all must be as it should be.

The same seed gives the same operations and the same disasters; the moments differ by what the machine does meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from tests.chaos.clients import Client
from tests.chaos.disasters import DISASTERS, World
from tests.chaos.engine_proxy import EngineProxy
from tests.chaos.invariants import PATIENCE_S, check, look, settle
from tests.chaos.ledger import Kind, Ledger
from tests.support.server.live_server import LiveServer

CLIENTS = 4
# The disaster comes within so long, and the clients go on for as long after it.
LONGEST_CALM_S = 1.0
STATE_DISK = "64m"  # beside the room that the store keeps for ends
# A server that sweeps more often: a short run would wait a minute for each lost answer of the engine.
IMPATIENT = (
    "import sys; from controlplane.lifecycle import recovery; from controlplane.cli.main import main; "
    "recovery.SWEEP_S = 5.0; sys.exit(main())"
)
FLAGS = ("--image", "sandlot/base", "--pool-size", "2", "--memory-limit", "524288")


class Chaos:
    """A server, its clients, and what goes wrong. Use `open()`."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.seed = seed
        self.rounds = 0
        self.began = time.monotonic()
        self._is_calm = True
        self._clients = [
            Client(f"client{number}", world.http, world.ledger, is_calm=lambda: self._is_calm)
            for number in range(CLIENTS)
        ]

    async def run(self, rounds: int, told: Callable[[str], None] = lambda _: None) -> None:
        """Run so many rounds. Ends early with the first one after which something was wrong."""
        for _ in range(rounds):
            self.rounds += 1
            try:
                name = await self._round(random.Random(f"{self.seed}/{self.rounds}"))
            except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: of a server that does not start
                self.world.ledger.violations.append(f"round {self.rounds}: the server cannot be asked: {error!r}")
                return
            seconds = time.monotonic() - self.began
            told(f"{seconds:6.1f} s  round {self.rounds}: {name}, {len(self.world.ledger.sandboxes)} sandboxes")
            if self.world.ledger.violations:
                return

    async def _round(self, rng: random.Random) -> str:
        world, ended = self.world, asyncio.Event()
        disaster = rng.choices(list(DISASTERS), weights=list(DISASTERS.values()))[0]
        self._is_calm = True
        working = [
            asyncio.ensure_future(client.work(random.Random(f"{self.seed}/{self.rounds}/{number}"), ended))
            for number, client in enumerate(self._clients)
        ]
        await asyncio.sleep(rng.uniform(0, LONGEST_CALM_S))
        self._is_calm = False
        world.ledger.disasters[disaster.__name__] += 1
        await disaster(world, rng)
        await asyncio.sleep(rng.uniform(0, LONGEST_CALM_S) / 2)
        ended.set()
        for failed in await asyncio.gather(*working, return_exceptions=True):
            if failed is not None:
                raise failed
        where = f"round {self.rounds}, {disaster.__name__}: "
        world.ledger.violations += [where + complaint for complaint in await self.look_for_violations()]
        return disaster.__name__

    async def look_for_violations(self, patience_s: float = PATIENCE_S) -> list[str]:
        """Wait until the server is at rest; return what is lost, leaked or untrue."""
        remains, complaints = await settle(self.world.server, self.world.http, patience_s)
        return complaints + await check(self.world.ledger, remains, self._clients[0])

    async def end(self) -> None:
        """Delete all there is: nothing may be left of it."""
        world = self.world
        for sandbox_id in list(world.ledger.sandboxes):
            await world.http.delete(f"/v1/sandboxes/{sandbox_id}")
            world.ledger.forget(sandbox_id)
        _, complaints = await settle(world.server, world.http)
        for snapshot_id in (await look(world.server, world.http)).snapshots:
            answer = await world.http.delete(f"/v1/snapshots/{snapshot_id}")
            if answer.status_code != 204:
                complaints.append(f"snapshot {snapshot_id} cannot be deleted: {answer.text}")
        remains, left = await settle(world.server, world.http)
        complaints += [
            *left,
            *(f"{one} is left" for one in remains.listed),
            *(f"{one} is left" for one in remains.images),
        ]
        world.ledger.violations += [f"at the end: {complaint}" for complaint in complaints]

    def summary(self) -> dict[str, Any]:
        """Return what happened, for JSON."""
        ledger = self.world.ledger
        names = sorted({name for name, _ in ledger.operations})
        return {
            "seed": self.seed,
            "rounds": self.rounds,
            "seconds": round(time.monotonic() - self.began, 1),
            "operations": {
                name: {kind.value: ledger.operations[name, kind] for kind in Kind if ledger.operations[name, kind]}
                for name in names
            },
            "errors": dict(sorted(ledger.errors.items())),
            "disasters": dict(sorted(ledger.disasters.items())),
            "wrongs_of_the_engine": dict(sorted(self.world.proxy.wrongs.items())),
            "violations": ledger.violations,
        }


@contextlib.asynccontextmanager
async def open_chaos(seed: int, *, is_short: bool = False) -> AsyncIterator[Chaos]:
    """Start a server behind an engine that can misbehave, with its state on a small disk of its own where possible.

    For a short run it sweeps more often than servers do.
    """
    server = LiveServer(FLAGS, program=(sys.executable, "-c", IMPATIENT)) if is_short else LiveServer(FLAGS)
    ledger = Ledger()
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    proxy = EngineProxy(host, server.directory / "engine.sock", seed)
    server.environment["DOCKER_HOST"] = f"unix://{proxy.path}"
    has_disk = _mount(server)
    try:
        async with proxy.serve(), httpx.AsyncClient(timeout=60, trust_env=False) as http:
            world = World(server, proxy, ledger, http)
            try:
                await asyncio.to_thread(server.start)
                http.base_url = httpx.URL(server.address)
                http.headers["OPEN-SANDBOX-API-KEY"] = server.key
                yield Chaos(world, seed)
            finally:
                await asyncio.to_thread(server.end)
    finally:
        if has_disk:
            await asyncio.to_thread(subprocess.run, ["umount", server.directory / "state"], check=False)
        await asyncio.to_thread(server.remove)


def _mount(server: LiveServer) -> bool:
    """Give a server's state a disk of its own; return whether that can be done here."""
    state = server.directory / "state"
    state.mkdir(mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", f"size={STATE_DISK},mode=0700", "tmpfs", state]
    return os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
