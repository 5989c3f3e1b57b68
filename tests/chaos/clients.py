"""Clients that do what comes to their minds: a seed decides what, and the ledger remembers what they were told."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import httpx

from tests.chaos.ledger import GONE, PAUSED, RUNNING, Facts, Kind, Ledger

IMAGE = "sandlot/base"
# Enough that a create often finds the pool empty, and few enough for a small machine.
MOST_SANDBOXES = 2
MOST_SNAPSHOTS = 2
SOON_S = 1
NO_HEADERS: Mapping[str, str] = {}
KEPT_LINES = "one\ntwo\nthree\n"

Operation = Callable[["Client", Facts], Awaitable[None]]


class Gave(Exception):
    """An operation was not acknowledged."""

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Client:
    """One client with sandboxes of its own."""

    def __init__(self, name: str, http: httpx.AsyncClient, ledger: Ledger, *, is_calm: Callable[[], bool]) -> None:
        self._name = name
        self._http = http
        self._ledger = ledger
        self._is_calm = is_calm  # whether no disaster has begun: then the server has no excuse
        self._count = 0
        self.mine: set[str] = set()

    async def work(self, rng: random.Random, until: asyncio.Event) -> None:
        """Do one operation after the other; end with the server, or when *until* is set."""
        while not until.is_set():
            facts = self._choose(rng)
            name, operation = "create", self._create
            if facts is not None:
                name, chosen = rng.choices(list(_OPERATIONS.items()), weights=_WEIGHTS)[0]
                operation = partial(chosen, self, facts)
            try:
                await operation()
            except Gave as gave:
                self._note(name, gave, facts)
                if gave.kind is Kind.LOST:
                    return
            else:
                self._ledger.count(name, Kind.DONE)

    def _note(self, name: str, gave: Gave, facts: Facts | None) -> None:
        self._ledger.count(name, gave.kind, str(gave))
        has_expired = facts is not None and facts.due is not None and facts.due <= time.time()  # under the operation
        if gave.kind is not Kind.REFUSED and self._is_calm() and not has_expired:
            self._ledger.violations.append(f"{name} failed although nothing was wrong: {gave}")

    def _choose(self, rng: random.Random) -> Facts | None:
        """Return one of the client's sandboxes; None to create one."""
        mine = sorted(self.mine & self._ledger.sandboxes.keys())
        if len(mine) < MOST_SANDBOXES and (not mine or rng.random() < 0.3):
            return None
        return self._ledger.sandboxes[rng.choice(mine)]

    async def send(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] = NO_HEADERS
    ) -> httpx.Response:
        """Send a request. Raises Gave."""
        try:
            answer = await self._http.request(method, path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise Gave(Kind.LOST, type(error).__name__) from error
        if answer.status_code >= 400:
            kind = Kind.REFUSED if answer.status_code < 500 else Kind.FAILED
            raise Gave(kind, f"{answer.status_code} {answer.json().get('code')}")
        return answer

    async def run(
        self, facts: Facts, command: str, *, background: bool = False, headers: Mapping[str, str] = NO_HEADERS
    ) -> tuple[str, str]:
        """Run a command in a sandbox; return its id and what it printed. Raises Gave."""
        body = {"command": command, "background": background}
        answer = await self.send("POST", f"/v1/sandboxes/{facts.id}/proxy/44772/command", body, headers)
        return self._events(answer)

    async def recorded(self, facts: Facts, run_id: str) -> str:
        """Return what a recorded run has printed. Raises Gave."""
        answer = await self.send("GET", f"/v1/sandboxes/{facts.id}/proxy/44772/runs/{run_id}/events?after=0")
        return self._events(answer)[1]

    def _events(self, answer: httpx.Response) -> tuple[str, str]:
        lines = [line.removeprefix("data:") for line in answer.text.splitlines()]
        events = [json.loads(line) for line in lines if line.strip().startswith("{")]
        if any(event["type"] == "error" for event in events) or not events:
            raise Gave(Kind.FAILED, "an error event")
        ids = [event["text"] for event in events if event["type"] == "init"]
        return ids[0], "".join(event["text"] + "\n" for event in events if event["type"] == "stdout")

    # -- operations

    async def _create(self) -> None:
        self._count += 1
        tag = f"{self._name}-{self._count}"
        body = {
            "image": {"uri": IMAGE},
            "entrypoint": ["tail", "-f", "/dev/null"],
            "resourceLimits": {"memory": "256Mi"} if self._count % 4 == 0 else {},
            "timeout": 600,
            "metadata": {"tag": tag},
        }
        if self._count % 5 == 0:
            claim = {"claimName": f"chaos-{tag}", "createIfNotExists": True, "deleteOnSandboxTermination": True}
            body["volumes"] = [{"name": "data", "pvc": claim, "mountPath": "/data"}]
        self._ledger.unanswered_creates.add(tag)
        try:
            answer = await self.send("POST", "/v1/sandboxes", body)
        except Gave as gave:
            if gave.kind is Kind.REFUSED:
                self._ledger.unanswered_creates.discard(tag)
            raise
        self._ledger.unanswered_creates.discard(tag)
        facts = self._ledger.sandboxes[answer.json()["id"]] = Facts(answer.json()["id"])
        self.mine.add(facts.id)

    async def _delete(self, facts: Facts) -> None:
        facts.can_be(GONE)
        await self.send("DELETE", f"/v1/sandboxes/{facts.id}")
        self._ledger.forget(facts.id)

    async def _pause(self, facts: Facts) -> None:
        facts.can_be(*({PAUSED} if RUNNING in facts.may_be else ()))
        await self.send("POST", f"/v1/sandboxes/{facts.id}/pause")
        facts.is_now(PAUSED)

    async def _resume(self, facts: Facts) -> None:
        facts.can_be(*({RUNNING} if PAUSED in facts.may_be else ()))
        await self.send("POST", f"/v1/sandboxes/{facts.id}/resume")
        facts.is_now(RUNNING)

    async def _renew(self, facts: Facts) -> None:
        await self._set_deadline(facts, 3600)

    async def _expire(self, facts: Facts) -> None:
        facts.can_be(GONE)
        await self._set_deadline(facts, SOON_S)

    async def _set_deadline(self, facts: Facts, seconds: int) -> None:
        due = int(time.time()) + 1 + seconds
        wanted = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(due))
        facts.deadlines.add(wanted)
        await self.send("POST", f"/v1/sandboxes/{facts.id}/renew-expiration", {"expiresAt": wanted})
        facts.deadlines, facts.due = {wanted}, float(due)

    async def _write(self, facts: Facts) -> None:
        path, text = f"/tmp/{len(facts.files) % 3}", f"{self._name} {self._count} {len(facts.files)} {time.time_ns()}"
        may_hold = facts.files.setdefault(path, {""})
        may_hold.add(text)
        await self.run(facts, f"printf '%s' '{text}' > {path}.new && mv {path}.new {path}")
        facts.files[path] = {text}

    async def _start_background(self, facts: Facts) -> None:
        command, _ = await self.run(facts, f"printf '{KEPT_LINES}'; sleep 1000".replace("\n", "\\n"), background=True)
        facts.commands.append(command)

    async def _record(self, facts: Facts) -> None:
        command = f"printf '{KEPT_LINES}'".replace("\n", "\\n")
        run_id, _ = await self.run(facts, command, headers={"Sandlot-Keep": "3600"})
        facts.recorded.append(run_id)

    async def _snapshot(self, facts: Facts) -> None:
        if len(self._ledger.snapshots) >= MOST_SNAPSHOTS:
            await self._delete_snapshot()
            return
        self._ledger.unanswered_snapshots += 1
        answer = await self.send("POST", f"/v1/sandboxes/{facts.id}/snapshots", {})
        self._ledger.unanswered_snapshots -= 1
        self._ledger.snapshots.add(answer.json()["id"])

    async def _delete_snapshot(self) -> None:
        snapshot_id = self._ledger.snapshots.pop()  # nobody says any more that it is there, nor that it is not
        self._ledger.unanswered_snapshots += 1
        await self.send("DELETE", f"/v1/snapshots/{snapshot_id}")
        self._ledger.unanswered_snapshots -= 1

    async def _list(self, _: Facts) -> None:
        await self.send("GET", "/v1/sandboxes?pageSize=200")


_OPERATIONS: dict[str, Operation] = {
    "delete": Client._delete,
    "pause": Client._pause,
    "resume": Client._resume,
    "renew": Client._renew,
    "expire": Client._expire,
    "write": Client._write,
    "background": Client._start_background,
    "record": Client._record,
    "snapshot": Client._snapshot,
    "list": Client._list,
}
_WEIGHTS = (3, 2, 3, 1, 1, 5, 1, 1, 1, 1)
