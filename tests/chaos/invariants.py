"""What holds whenever a server has come to rest: nothing is lost, nothing leaked, and every state is true."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import time
from typing import Any

import httpx
import msgspec

from tests.chaos.clients import KEPT_LINES, Client, Gave
from tests.chaos.ledger import ENDED, GONE, PAUSED, RUNNING, Facts, Ledger
from tests.support.server.live_server import LiveServer, engine_request

# A sweep mends within a minute what no event told; with a margin for a busy machine.
PATIENCE_S = 90.0
# The deadline is looked at each second, and a removal may wait for others.
EXPIRY_GRACE_S = 5.0
_AT_REST = {"Running", "Paused", "Failed", "Terminated"}
_ALIVE = {"Running", "Paused"}


class Remains(msgspec.Struct, frozen=True):
    """What there is of a server: sandbox ids, unless it says otherwise."""

    listed: dict[str, str]  # and their states
    tags: dict[str, str]  # by the tag in their metadata
    records: set[str]
    containers: dict[str, str]  # and the engine's state of them
    directories: set[str]
    warm: int
    target: int
    volumes: set[str]  # by name: those that go with their last user
    mounted: set[str]  # by name: those that are in use
    images: set[str]  # of snapshots, by name
    snapshots: dict[str, str]  # their ids and states

    def complaints(self) -> list[str]:
        """Return what is not as it should be; empty: all is at rest, nothing leaked."""
        alive = {sandbox_id for sandbox_id, state in self.listed.items() if state in _ALIVE}
        strangers = self.containers.keys() - alive
        found = [f"{one} is {state}" for one, state in self.listed.items() if state not in _AT_REST]
        found += [f"the record of {one} is left" for one in self.records - self.listed.keys()]
        found += [f"{one} has no record" for one in self.listed.keys() - self.records]
        found += [f"the container of {one} is gone" for one in alive - self.containers.keys()]
        found += [f"the socket of {one} is gone" for one in alive - self.directories]
        if len(strangers) != self.target or self.warm != self.target:
            found.append(f"{len(strangers)} containers and {self.warm} warm ones where {self.target} belong to nobody")
        found += [f"a directory of {one} is left" for one in self.directories - alive - strangers]
        found += [f"{one} has no socket" for one in strangers - self.directories]
        found += [f"the volume {one} is left" for one in self.volumes - self.mounted]
        found += [f"snapshot {one} is {state}" for one, state in self.snapshots.items() if state not in _SETTLED]
        ready = {f"sandlot-snapshots:{one}" for one, state in self.snapshots.items() if state == "Ready"}
        found += [
            f"the image {one} is left" for one in self.images - {f"sandlot-snapshots:{one}" for one in self.snapshots}
        ]
        found += [f"the image {one} is gone" for one in ready - self.images]
        found += [
            f"{one} is {self.listed[one]}, and its container {state}"
            for one, state in self.containers.items()
            if one in alive and state != self.listed[one].lower()
        ]
        return found


_SETTLED = {"Ready", "Failed"}


async def look(server: LiveServer, http: httpx.AsyncClient) -> Remains:
    """Return what there is now."""
    items = (await http.get("/v1/sandboxes?pageSize=200")).json()["items"]
    snapshots = (await http.get("/v1/snapshots?pageSize=200")).json()["items"]
    metrics = (await http.get("/metrics")).text
    containers = await asyncio.to_thread(_containers, server)
    return Remains(
        listed={one["id"]: one["status"]["state"] for one in items},
        tags={one["metadata"].get("tag", ""): one["id"] for one in items},
        records=await asyncio.to_thread(_records, server),
        containers={one["Labels"]["sandlot.sandbox"]: one["State"] for one in containers},
        directories=set(os.listdir(server.directory / "run" / "sandboxes")),
        warm=_metric(metrics, "sandlot_pool_warm"),
        target=_metric(metrics, "sandlot_pool_target"),
        volumes=await asyncio.to_thread(_volumes, server),
        mounted={mount["Name"] for one in containers for mount in one["Mounts"] if mount["Type"] == "volume"},
        images=await asyncio.to_thread(_images, server),
        snapshots={one["id"]: one["status"]["state"] for one in snapshots},
    )


def _metric(text: str, name: str) -> int:
    return next(int(float(line.split()[1])) for line in text.splitlines() if line.startswith(f"{name} "))


def _store(server: LiveServer, question: str) -> list[tuple[str, ...]]:
    path = server.directory / "state" / "sandlot.db"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute(question).fetchall()


def _records(server: LiveServer) -> set[str]:
    return {row[0] for row in _store(server, "SELECT id FROM sandboxes")}


def _instance(server: LiveServer) -> str:
    return _store(server, "SELECT value FROM meta WHERE name = 'instance'")[0][0]


def _containers(server: LiveServer) -> list[dict[str, Any]]:
    label = json.dumps({"label": [f"sandlot.instance={_instance(server)}"]})
    return list(engine_request("GET", f"/containers/json?all=1&filters={label}"))


def _volumes(server: LiveServer) -> set[str]:
    wanted = {"label": [f"sandlot.instance={_instance(server)}", "sandlot.disposable=true"]}
    return {
        volume["Name"] for volume in engine_request("GET", f"/volumes?filters={json.dumps(wanted)}")["Volumes"] or ()
    }


def _images(server: LiveServer) -> set[str]:
    """Return the images of snapshots, which have the labels of the containers that they were made of."""
    wanted = {"label": [f"sandlot.instance={_instance(server)}"], "reference": ["sandlot-snapshots"]}
    found = engine_request("GET", f"/images/json?filters={json.dumps(wanted)}")
    return {tag for image in found for tag in image["RepoTags"] or ()}


async def settle(
    server: LiveServer, http: httpx.AsyncClient, patience_s: float = PATIENCE_S
) -> tuple[Remains, list[str]]:
    """Wait until all is at rest; return what there is then, and what is still wrong after *patience_s*."""
    deadline = time.monotonic() + patience_s
    while True:
        remains = await look(server, http)
        complaints = remains.complaints()
        if not complaints or time.monotonic() > deadline:
            return remains, complaints
        await asyncio.sleep(0.1)


async def check(ledger: Ledger, remains: Remains, client: Client) -> list[str]:
    """Hold what there is against what the clients were told; return what does not agree.

    Afterwards the ledger knows how everything that was uncertain turned out.
    """
    found = [f"{one} is back" for one in ledger.gone & remains.listed.keys()]
    found += _adopt(ledger, remains, client)
    for facts in list(ledger.sandboxes.values()):
        found += await _check_sandbox(ledger, remains, facts, client)
    found += [f"snapshot {one} is lost" for one in ledger.snapshots - remains.snapshots.keys()]
    unknown = remains.snapshots.keys() - ledger.snapshots
    if len(unknown) > ledger.unanswered_snapshots:
        found.append(f"{len(unknown)} snapshots that nobody asked for")
    ledger.snapshots |= unknown
    ledger.unanswered_snapshots = 0
    return found


def _adopt(ledger: Ledger, remains: Remains, client: Client) -> list[str]:
    """A create whose answer was lost may have made its sandbox: somebody has it then."""
    unknown = {tag: one for tag, one in remains.tags.items() if one not in ledger.sandboxes.keys() | ledger.gone}
    for tag in unknown.keys() & ledger.unanswered_creates:
        facts = ledger.sandboxes[unknown[tag]] = Facts(unknown[tag])
        facts.can_be(ENDED)
        client.mine.add(facts.id)
    nobodys = unknown.keys() - ledger.unanswered_creates
    ledger.unanswered_creates.clear()
    return [f"{unknown[tag]} belongs to nobody" for tag in nobodys]


async def _check_sandbox(ledger: Ledger, remains: Remains, facts: Facts, client: Client) -> list[str]:
    now = time.time()
    state = remains.listed.get(facts.id, GONE)
    state = ENDED if state in ("Failed", "Terminated") else state
    may_be = set(facts.may_be)
    if facts.due is not None and now > facts.due - 1:
        may_be.add(GONE)
        if len(facts.deadlines) == 1 and now > facts.due + EXPIRY_GRACE_S and state in (RUNNING, PAUSED):
            return [f"{facts.id} should have ended {now - facts.due:.1f} s ago"]
    if state not in may_be:
        return [f"{facts.id} is {state}, and was to be {' or '.join(sorted(may_be))}"]
    if state == GONE:
        ledger.forget(facts.id)
        return []
    facts.is_now(state)
    return await _check_inside(facts, client) if state == RUNNING else []


async def _check_inside(facts: Facts, client: Client) -> list[str]:
    """Look at what a running sandbox has kept: its files and its background commands."""
    found = []
    try:
        for path, may_hold in facts.files.items():
            _, text = await client.run(facts, f"cat {path} 2>/dev/null || true")
            if text.rstrip("\n") not in may_hold:
                found.append(f"{path} of {facts.id} holds {text!r}, and not one of {sorted(may_hold)}")
            facts.files[path] = {text.rstrip("\n")}
        for command in facts.commands:
            logs = await client.send("GET", f"/v1/sandboxes/{facts.id}/proxy/44772/command/{command}/logs")
            if logs.text != KEPT_LINES:
                found.append(f"command {command} of {facts.id} has said {logs.text!r}")
        for run_id in facts.recorded:
            said = await client.recorded(facts, run_id)
            if said != KEPT_LINES:
                found.append(f"recorded run {run_id} of {facts.id} has said {said!r}")
    except Gave as gave:
        if facts.due is None or time.time() < facts.due - 1:
            found.append(f"{facts.id} does not answer: {gave}")
    return found
