"""`/keys` over the real lifecycle: keys, their quotas, and whose things are whose."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from controlplane.access.key import Quotas
from controlplane.access.scopes import caller_of_key
from controlplane.api.edge.bodies import decode
from controlplane.api.lifecycle.admission import admit
from controlplane.api.lifecycle.schema import CreateSandboxRequest
from controlplane.errors import StartFailed
from controlplane.lifecycle.room import capacity as capacity_module
from controlplane.runtime.docker.volumes import engine_name
from controlplane.sandbox import Limits, SnapshotState
from controlplane.server.composition import ControlPlane
from tests.support.server.application import application
from tests.support.server.control_plane import Home, a_request, stuck_store, until

CREATE: dict[str, Any] = {
    "image": {"uri": "fake/image"},
    "entrypoint": ["sleep"],
    "resourceLimits": {"cpu": "1", "memory": "256Mi"},
}


class Api:
    """Clients of one application, by the text of their key."""

    def __init__(self, plane: ControlPlane, app: Any, stack: contextlib.AsyncExitStack) -> None:
        self.plane = plane
        self._transport = httpx.ASGITransport(app)
        self._stack = stack

    async def client(self, text: str) -> httpx.AsyncClient:
        """Return a client with that key."""
        headers = {"OPEN-SANDBOX-API-KEY": text}
        client = httpx.AsyncClient(transport=self._transport, base_url="http://here/v1", headers=headers)
        return await self._stack.enter_async_context(client)

    async def admin(self) -> httpx.AsyncClient:
        """Return a client with the key of the first start."""
        self.plane.access.keys.create("root", ("admin",), Quotas())
        return await self.client((await self.make("admin2", "admin"))[1])

    async def make(self, name: str, *scopes: str, **quotas: Any) -> tuple[str, str]:
        """Make a key; return its id and text."""
        key, text = self.plane.access.keys.create(name, scopes, Quotas(**quotas))
        return key.id, text


@contextlib.asynccontextmanager
async def serving(plane: ControlPlane) -> AsyncIterator[Api]:
    """Serve a control plane without a socket."""
    async with contextlib.AsyncExitStack() as stack:
        yield Api(plane, application(plane), stack)


@pytest.fixture
async def api(home: Home) -> AsyncIterator[Api]:
    async with home.run() as plane, serving(plane) as api:
        yield api


# -- keys ----------------------------------------


async def test_a_store_that_fails_is_told_with_what_to_do(api: Api, home: Home) -> None:
    """The operations of the contract keep a status that its clients read; ours say 503."""
    admin = await api.admin()
    with stuck_store(home), capture_logs():
        made = await admin.post("/keys", json={"name": "bot", "scopes": ["create"]})
        created = await admin.post("/sandboxes", json=CREATE)
    assert (made.status_code, made.json()["code"]) == (503, "STORE_UNAVAILABLE")
    assert (created.status_code, created.json()["code"]) == (500, "STORE_UNAVAILABLE")
    for answer in (made, created):
        assert answer.json()["message"].endswith("try again")


async def test_a_key_is_made_used_and_withdrawn(api: Api) -> None:
    """Its text is in the answer to its making and in no other."""
    admin = await api.admin()
    body = {"name": "bot", "scopes": ["create"], "quotas": {"sandboxes": 2, "memory": "1Gi", "createsPerMinute": 9}}
    made = await admin.post("/keys", json=body)
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    view = made.json()
    text = view.pop("key")
    assert text.startswith("sandlot_")
    assert view["quotas"] == {"sandboxes": 2, "memory": "1024Mi", "createsPerMinute": 9}
    assert (view["owner"], view["createdBy"], view["source"]) == (view["id"], "admin2", "store")
    assert made.headers["location"] == f"/v1/keys/{view['id']}"

    bot = await api.client(text)
    assert (await bot.post("/sandboxes", json=CREATE)).status_code == 202
    for key in (view["id"], "bot"):
        shown = (await admin.get(f"/keys/{key}")).json()
        assert shown["usage"] == {"sandboxes": 1, "cpus": 1.0, "memory": "256Mi", "disk": "0Mi"}
        assert "lastUsedAt" in shown
        assert text not in str(shown)
    listed = (await admin.get("/keys")).json()
    assert [key["name"] for key in listed["items"]] == ["api-key", "root", "admin2", "bot"]
    assert listed["items"][0]["source"] == "settings"

    changed = await admin.patch("/keys/bot", json={"quotas": {"sandboxes": None, "cpus": 4}, "name": "robot"})
    assert changed.json()["quotas"] == {"cpus": 4.0, "memory": "1024Mi", "createsPerMinute": 9}
    assert changed.json()["name"] == "robot"

    assert (await admin.delete("/keys/robot")).status_code == 204
    assert (await bot.get("/sandboxes")).status_code == 401
    assert (await admin.get("/keys/robot")).json()["code"] == "KEY_NOT_FOUND"
    assert len((await admin.get("/sandboxes")).json()["items"]) == 1  # its sandbox stays


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"name": "a b"}, 400, "name"),
        ({"name": ""}, 400, "name"),
        ({"name": "admin"}, 400, "looks like an owner"),
        ({"name": "key_0"}, 400, "looks like an owner, or the id"),
        ({"scopes": []}, 400, "scopes"),
        ({"scopes": ["root"]}, 400, "not a scope"),
        ({"quotas": {"sandboxes": -1}}, 400, "sandboxes"),
        ({"quotas": {"memory": "lots"}}, 400, "quotas.memory"),
        ({"quotas": {"disk": "1"}}, 400, "quotas.disk"),
        ({"owner": "nobody"}, 400, "'nobody' is no key"),
        ({"expiresAt": "2001-01-01T00:00:00Z"}, 400, "in the future"),
        ({"expiresAt": "0001-01-01T00:00:00+14:00"}, 400, "no such moment"),
        ({"name": "root"}, 409, "there is a key root already"),
    ],
)
async def test_what_is_no_key(change: dict[str, Any], status: int, words: str, api: Api) -> None:
    """The message says what is wrong; nothing is made."""
    admin = await api.admin()
    answer = await admin.post("/keys", json={"name": "bot", "scopes": ["create"], **change})
    assert (answer.status_code, words in answer.json()["message"]) == (status, True), answer.text
    assert len((await admin.get("/keys")).json()["items"]) == 3


async def test_the_key_of_the_first_start_stays(api: Api) -> None:
    """Otherwise nobody could make keys any more."""
    admin = await api.admin()
    for answer in (await admin.delete("/keys/api-key"), await admin.patch("/keys/api-key", json={"name": "x"})):
        assert (answer.status_code, answer.json()["code"]) == (409, "KEY_IN_SETTINGS")


async def test_sandboxes_end_with_their_key_if_that_is_asked(api: Api) -> None:
    """Those of others stay; where another key makes some for the same owner, it is refused."""
    admin = await api.admin()
    made = [(await api.make(name, "create"))[1] for name in ("one", "two")]
    for text in made:
        await (await api.client(text)).post("/sandboxes", json=CREATE)
    for name, scope in (("reader", "read"), ("maker", "create")):
        body = {"name": name, "scopes": [scope], "owner": "one"}
        assert (await admin.post("/keys", json=body)).status_code == 201
    refused = await admin.delete("/keys/one?endSandboxes=true")
    assert (refused.status_code, refused.json()["code"]) == (409, "KEY_SHARES_SANDBOXES")
    assert (await admin.delete("/keys/maker")).status_code == 204
    assert (await admin.delete("/keys/one?endSandboxes=true")).status_code == 204
    (left,) = (await admin.get("/sandboxes")).json()["items"]
    assert (await (await api.client(made[1])).get(f"/sandboxes/{left['id']}")).status_code == 200


async def test_a_create_that_is_under_way_ends_with_its_key(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an Idempotency-Key it is completed whatever becomes of its request; then the sandbox ends as well."""
    _, text = await api.make("bot", "create")
    admin, bot = await api.admin(), await api.client(text)
    begun, goes_on = asyncio.Event(), asyncio.Event()
    make = api.plane.creation._make

    async def wait(*arguments: Any) -> Any:
        begun.set()
        await goes_on.wait()
        return await make(*arguments)

    monkeypatch.setattr(api.plane.creation, "_make", wait)
    creating = asyncio.ensure_future(bot.post("/sandboxes", json=CREATE, headers={"Idempotency-Key": "x"}))
    await asyncio.wait_for(begun.wait(), 10)
    withdrawing = asyncio.ensure_future(admin.delete("/keys/bot?endSandboxes=true"))
    assert (await asyncio.wait_for(creating, 10)).status_code == 401
    goes_on.set()
    assert (await asyncio.wait_for(withdrawing, 10)).status_code == 204
    assert api.plane.sandboxes.statistics().created == 1
    assert (await admin.get("/sandboxes")).json()["items"] == []


async def test_a_key_takes_another_one_s_place(api: Api) -> None:
    """With the same owner it has the same sandboxes, also those of a key that is gone."""
    admin = await api.admin()
    old_id, old_text = await api.make("old", "create")
    made = (await (await api.client(old_text)).post("/sandboxes", json=CREATE)).json()["id"]
    body = {"scopes": ["create"], "owner": "old"}
    second = await api.client((await admin.post("/keys", json={"name": "new", **body})).json()["key"])
    await admin.delete("/keys/old")
    third = await api.client((await admin.post("/keys", json=body | {"name": "n3", "owner": old_id})).json()["key"])
    for client in (second, third):
        assert (await client.get(f"/sandboxes/{made}")).status_code == 200
    assert (await second.post("/sandboxes", json=CREATE)).status_code == 202
    assert (await third.get("/sandboxes")).json()["pagination"]["totalItems"] == 2


# -- whose things are whose ----------------------------------------


@pytest.mark.attack(
    "secrets", "a key repeats the Idempotency-Key of another owner", "it gets a sandbox of its own, not the other one's"
)
async def test_an_idempotency_key_is_its_owner_s(api: Api) -> None:
    """With the same key, and the same owner, it is the same sandbox."""
    one, two = [await api.client((await api.make(name, "create"))[1]) for name in ("one", "two")]
    headers = {"Idempotency-Key": "same"}
    made = [(await client.post("/sandboxes", json=CREATE, headers=headers)).json()["id"] for client in (one, one, two)]
    assert made[0] == made[1] != made[2]


@pytest.mark.attack(
    "secrets", "a key mounts a named volume by the name that another owner uses", "it gets a volume of its own"
)
async def test_a_named_volume_is_its_owner_s(api: Api) -> None:
    """Two keys of one owner share it, and what administrators have keeps its name of before."""
    keys, names = api.plane.access.keys, []
    one, _ = keys.create("one", ("create",), Quotas())
    two, _ = keys.create("two", ("create",), Quotas())
    same, _ = keys.create("same", ("create",), Quotas(), owner=one.owner)
    admin, _ = keys.create("boss", ("admin",), Quotas())
    body = CREATE | {"volumes": [{"name": "v", "pvc": {"claimName": "data"}, "mountPath": "/data"}]}
    for key in (one, two, same, admin):
        caller = caller_of_key(key)

        asked = admit(decode(msgspec.json.encode(body), CreateSandboxRequest, code="x"), Limits())
        sandbox = await api.plane.sandboxes.create(asked, by=caller)
        names.append(engine_name(sandbox.spec.volumes[0]))
    assert names == [
        f"sandlot-claim-{one.id}.data",
        f"sandlot-claim-{two.id}.data",
        f"sandlot-claim-{one.id}.data",
        "sandlot-claim-data",
    ]


async def test_a_snapshot_of_another_makes_no_sandbox(api: Api) -> None:
    """It does not exist for the key."""
    one, two = [await api.client((await api.make(name, "create"))[1]) for name in ("one", "two")]
    made = (await one.post("/sandboxes", json=CREATE)).json()["id"]
    snapshot = (await one.post(f"/sandboxes/{made}/snapshots")).json()["id"]
    body = {"snapshotId": snapshot, "entrypoint": ["sleep"], "resourceLimits": {}}
    foreign = await two.post("/sandboxes", json=body)
    nothing = await two.post("/sandboxes", json=body | {"snapshotId": "f" * 36})
    assert (foreign.status_code, foreign.text) == (nothing.status_code, nothing.text.replace("f" * 36, snapshot))
    assert "there is no snapshot" in foreign.text


@pytest.mark.attack(
    "secrets", "an image is named that is another owner's snapshot, by its name or by an id", "no sandbox is made of it"
)
@pytest.mark.parametrize(
    "name",
    [
        "sandlot-snapshots:{id}",
        "docker.io/library/sandlot-snapshots:{id}",
        "localhost/sandlot-snapshots:{id}",
        "sandlot-snapshots",
        "sha256:6e2",
        "sha256:" + "6e" * 32,
        "6e" * 32,
    ],
)
async def test_a_snapshot_of_another_is_no_image(name: str, api: Api) -> None:
    """An administrator may have every snapshot."""
    one, two = [await api.client((await api.make(each, "create"))[1]) for each in ("one", "two")]
    made = (await one.post("/sandboxes", json=CREATE)).json()["id"]
    snapshot = (await one.post(f"/sandboxes/{made}/snapshots")).json()["id"]
    await until(lambda: api.plane.snapshots.get(snapshot).state is SnapshotState.READY)
    body = CREATE | {"image": {"uri": name.format(id=snapshot)}}
    refused = await two.post("/sandboxes", json=body)
    assert (refused.status_code, refused.json()["code"]) in [
        (400, "SNAPSHOT::NOT_FOUND"),
        (400, "SANDBOX::INVALID_PARAMETER"),
    ]
    if name == "sandlot-snapshots:{id}":
        assert (await (await api.admin()).post("/sandboxes", json=body)).status_code == 202


async def test_digits_mean_a_name(api: Api) -> None:
    """An engine would look for an image whose id begins so."""
    client = await api.client((await api.make("bot", "create"))[1])
    refused = await client.post("/sandboxes", json=CREATE | {"image": {"uri": "6e2"}})
    assert "6e2:latest" in refused.json()["message"]


@pytest.mark.attack("secrets", "a ticket is used after the key that asked for it was withdrawn", "it opens nothing")
async def test_a_ticket_ends_with_its_key(api: Api) -> None:
    """Seen by way of its caller: while the key is there, the ticket is its."""
    key_id, text = await api.make("bot", "create")
    client = await api.client(text)
    made = (await client.post("/sandboxes", json=CREATE)).json()["id"]
    tickets = [(await client.post(f"/sandboxes/{made}/stream/tickets")).json()["ticket"] for _ in range(2)]
    assert await status_of_stream(api, made, tickets[0]) == 101
    api.plane.access.keys.withdraw(key_id)
    assert await status_of_stream(api, made, tickets[1]) == 401


async def test_a_ticket_may_no_more_than_its_key(api: Api) -> None:
    """Also if that may less only since the ticket was made."""
    key_id, text = await api.make("bot", "create")
    client = await api.client(text)
    made = (await client.post("/sandboxes", json=CREATE)).json()["id"]
    for scopes, expected in ((("read",), 401), ((f"sandbox:{made[::-1]}",), 401), (("create", "read"), 101)):
        api.plane.access.keys.change(key_id, scopes=("create",))
        ticket = (await client.post(f"/sandboxes/{made}/stream/tickets")).json()["ticket"]
        api.plane.access.keys.change(key_id, scopes=scopes)
        assert await status_of_stream(api, made, ticket) == expected


async def status_of_stream(api: Api, sandbox_id: str, ticket: str) -> int:
    """Open the stream of a sandbox with a ticket; return the status, 101 when it is accepted."""
    came: asyncio.Queue[Any] = asyncio.Queue()
    path = f"/v1/sandboxes/{sandbox_id}/stream"
    scope = {
        "type": "websocket",
        "path": path,
        "raw_path": path.encode(),
        "query_string": f"ticket={ticket}".encode(),
        "headers": [],
        "extensions": {"websocket.http.response": {}},
        "subprotocols": [],
    }

    async def receive() -> dict[str, Any]:
        if came.empty():
            return {"type": "websocket.connect"}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        came.put_nowait(message)

    task = asyncio.ensure_future(api._transport.app(scope, receive, send))
    first = await asyncio.wait_for(came.get(), 10)
    task.cancel()
    await asyncio.wait([task])
    return 101 if first["type"] == "websocket.accept" else first["status"]


# -- quotas ----------------------------------------


@pytest.mark.attack(
    "resources",
    "a key creates more sandboxes, CPUs or memory than its quota",
    "status 429 with Retry-After, and other keys notice nothing",
)
@pytest.mark.parametrize(
    ("quotas", "words"),
    [
        ({"sandboxes": 2}, "as many sandboxes as it may have at once: 2"),
        ({"cpus": 2.5}, "more than 2.5 CPUs"),
        ({"memory_bytes": 600 << 20}, "more than 600Mi of memory"),
        ({"creates_per_minute": 2}, "may create 2 sandboxes a minute"),
    ],
)
async def test_a_quota_is_never_exceeded(quotas: dict[str, Any], words: str, api: Api) -> None:
    """Not by ten at once either. Without the quota, all of them are made."""
    bot = await api.client((await api.make("bot", "create", **quotas))[1])
    other = await api.client((await api.make("other", "create"))[1])
    answers = await asyncio.gather(*(bot.post("/sandboxes", json=CREATE) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [202, 202, 429, 429, 429, 429]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "KUBERNETES::QUOTA_EXCEEDED"
    assert words in refused.json()["message"]
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert {(await other.post("/sandboxes", json=CREATE)).status_code for _ in range(3)} == {202}


async def test_no_sandbox_is_made_beyond_a_quota_of_disk(api: Api) -> None:
    """What counts is what was written, as it was measured."""
    key_id, text = await api.make("bot", "create", disk_bytes=1 << 30)
    bot = await api.client(text)
    for taken, status in ((0, 202), (1 << 30, 429), ((1 << 30) - 1, 202)):
        api.plane.sandboxes.capacity.disk_taken = {key_id: taken}.__getitem__
        answer = await bot.post("/sandboxes", json=CREATE)
        assert answer.status_code == status, answer.text


async def test_a_quota_has_room_again_when_a_sandbox_ends(api: Api) -> None:
    """At once when it was deleted."""
    bot = await api.client((await api.make("bot", "create", sandboxes=1))[1])
    made = (await bot.post("/sandboxes", json=CREATE)).json()["id"]
    assert (await bot.post("/sandboxes", json=CREATE)).status_code == 429
    assert (await bot.delete(f"/sandboxes/{made}")).status_code == 204
    assert (await bot.post("/sandboxes", json=CREATE)).status_code == 202


async def test_snapshots_have_a_quota_too(api: Api) -> None:
    """Those of others are not counted; without the quota there is only the server's own bound."""
    for name, quotas, expected in (("bot", {"snapshots": 1}, [202, 429]), ("other", {}, [202, 202])):
        client = await api.client((await api.make(name, "create", **quotas))[1])
        made = (await client.post("/sandboxes", json=CREATE)).json()["id"]
        answers = [await client.post(f"/sandboxes/{made}/snapshots") for _ in range(2)]
        assert [answer.status_code for answer in answers] == expected
        assert ("retry-after" in answers[1].headers) == (expected[1] == 429)


async def test_an_administrator_s_sandbox_is_not_named_to_the_owner_of_its_snapshot(api: Api) -> None:
    """That the snapshot is in use, is."""
    bot = await api.client((await api.make("bot", "create"))[1])
    made = (await bot.post("/sandboxes", json=CREATE)).json()["id"]
    snapshot = (await bot.post(f"/sandboxes/{made}/snapshots")).json()["id"]
    await until(lambda: api.plane.snapshots.get(snapshot).state is SnapshotState.READY)
    for client, is_named in ((await api.admin(), False), (bot, True)):
        body = {"snapshotId": snapshot, "entrypoint": ["sleep"], "resourceLimits": {}}
        user = (await client.post("/sandboxes", json=body)).json()["id"]
        refused = await bot.delete(f"/snapshots/{snapshot}")
        assert refused.json()["code"] == "SNAPSHOT::DELETE_CONFLICT"
        assert (user in refused.json()["message"]) is is_named
        await client.delete(f"/sandboxes/{user}")


async def test_a_create_that_fails_counts_against_nothing(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at once nor a minute."""
    bot = await api.client((await api.make("bot", "create", sandboxes=1, creates_per_minute=1))[1])

    async def fail(*_: object, **__: object) -> Any:
        raise StartFailed("no luck")

    with monkeypatch.context() as patched:
        patched.setattr(api.plane.creation, "_make", fail)
        assert {(await bot.post("/sandboxes", json=CREATE)).status_code for _ in range(3)} == {500}
    assert (await bot.post("/sandboxes", json=CREATE)).status_code == 202


async def test_a_sandbox_without_a_limit_counts_as_the_whole_machine(home: Home) -> None:
    """Otherwise a quota of CPUs would bound nothing where the settings set no limit."""
    async with home.run(cpu_quota=0, memory_limit=0) as plane, serving(plane) as api:
        body = CREATE | {"resourceLimits": {}}
        for name, quotas in (("c", {"cpus": 0.5}), ("m", {"memory_bytes": 1 << 20})):
            bot = await api.client((await api.make(name, "create", **quotas))[1])
            assert (await bot.post("/sandboxes", json=body)).status_code == 429
        bot = await api.client((await api.make("large", "create", cpus=10_000.0, memory_bytes=1 << 50))[1])
        assert (await bot.post("/sandboxes", json=body)).status_code == 202


async def test_a_restart_changes_no_count(home: Home) -> None:
    """Sandboxes are counted by their records, and so are the creates of the last minute."""
    async with home.run() as plane, serving(plane) as api:
        _, text = await api.make("bot", "create", sandboxes=3, creates_per_minute=2)
        bot = await api.client(text)
        for _ in range(2):
            assert (await bot.post("/sandboxes", json=CREATE)).status_code == 202
    async with home.run() as plane, serving(plane) as api:
        bot = await api.client(text)
        refused = await bot.post("/sandboxes", json=CREATE)
        assert (refused.status_code, "a minute" in refused.json()["message"]) == (429, True)
        key = next(key for key in plane.access.keys.list() if key.name == "bot")
        plane.access.keys.change(key.id, quotas=Quotas(sandboxes=3))
        statuses = [(await bot.post("/sandboxes", json=CREATE)).status_code for _ in range(2)]
        assert statuses == [202, 429]


async def test_when_to_try_again(home: Home) -> None:
    """When the next sandbox ends, if that is soon, or the oldest create is a minute old; else it is a guess."""
    now, start = 0.0, time.time()
    async with home.run(clock=lambda: start + now) as plane, serving(plane) as api:
        bot = await api.client((await api.make("bot", "create", sandboxes=2))[1])
        await bot.post("/sandboxes", json=CREATE | {"timeout": 3600})
        await bot.post("/sandboxes", json=CREATE)
        guessed = await bot.post("/sandboxes", json=CREATE)
        assert guessed.headers["retry-after"] == str(capacity_module.RETRY_GUESS_S)
        now = 3580.0
        known = await bot.post("/sandboxes", json=CREATE)
        assert int(known.headers["retry-after"]) in (20, 21)
        rated = await api.client((await api.make("rated", "create", creates_per_minute=1))[1])
        await rated.post("/sandboxes", json=CREATE)
        now += 45
        refused = await rated.post("/sandboxes", json=CREATE)
        assert refused.headers["retry-after"] == "15"
        now += 15
        assert (await rated.post("/sandboxes", json=CREATE)).status_code == 202
        now -= 3600  # the clock is set back
        assert (await rated.post("/sandboxes", json=CREATE)).status_code == 202


async def test_the_owner_s_sandboxes_count_for_all_keys_of_one_owner(api: Api) -> None:
    """A second key is no second quota."""
    keys = api.plane.access.keys
    one, text = keys.create("one", ("create",), Quotas(sandboxes=1))
    _, second = keys.create("two", ("create",), Quotas(sandboxes=1), owner=one.owner)
    statuses = [(await (await api.client(key)).post("/sandboxes", json=CREATE)).status_code for key in (text, second)]
    assert statuses == [202, 429]


async def test_a_sandbox_made_by_the_server_itself_is_the_administrator_s(api: Api) -> None:
    """As are those of a store from before there were owners."""
    sandbox = await api.plane.sandboxes.create(a_request())
    assert sandbox.owner == "admin"
