"""`/events` over a real socket, before a control plane on an engine in memory."""

from __future__ import annotations

import json

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from controlplane.errors import EngineUnavailable
from controlplane.lifecycle.events import bus as bus_module
from controlplane.runtime.events import EventKind, RuntimeEvent
from controlplane.sandbox import SnapshotState
from tests.support.server.application import Ears, Said, World
from tests.support.server.control_plane import IMAGE, a_request, until


async def test_the_life_of_a_sandbox(world: World) -> None:
    """Made, changed and ended: as GET shows it, and null when no list has it any more."""
    ears = await world.listen(world.admin)
    sandbox = await world.plane.sandboxes.create(a_request(metadata={"a": "b"}))
    created = await ears.until("sandbox")
    assert (created["event"], created["sandbox"]["status"]["state"]) == ("created", "Pending")
    running = await ears.until("sandbox")
    assert running["event"] == "changed"
    async with world.client(world.admin) as client:
        assert running["sandbox"] == (await client.get(f"/sandboxes/{sandbox.id}")).json()
        await client.patch(f"/sandboxes/{sandbox.id}/metadata", json={"a": "c"})
        assert (await ears.until("sandbox"))["sandbox"]["metadata"] == {"a": "c"}
        await client.delete(f"/sandboxes/{sandbox.id}")
    ended = await ears.until("sandbox")
    assert ended == {
        "type": "sandbox",
        "seq": ended["seq"],
        "id": sandbox.id,
        "event": "ended",
        "sandbox": None,
        "reason": "DELETED",
    }
    await until(lambda: world.plane.registry.find(sandbox.id) is None)
    await world.plane.sandboxes.create(a_request())
    assert (await ears.until("sandbox"))["event"] == "created", "the removal of the record is no news"


async def test_a_sandbox_that_ends_by_itself_is_still_in_the_list(world: World) -> None:
    """So it is told with its state and its reason."""
    sandbox = await world.plane.sandboxes.create(a_request())
    ears = await world.listen(world.admin)
    world.home.engine.agents[sandbox.id].exit(3)  # type: ignore[attr-defined]
    ended = await ears.until("sandbox")
    assert (ended["event"], ended["reason"]) == ("ended", "CONTAINER_EXITED_ERROR")
    assert ended["sandbox"]["status"]["state"] == "Failed"


@pytest.mark.attack(
    "secrets",
    "Listen to the events of the server with the key of another owner, and count what is not told",
    "Sandboxes and snapshots of others leave no trace, not even in the numbers of the messages",
)
async def test_owners_hear_of_their_own(world: World) -> None:
    """Not of others, nor of pools; a reader hears of those too, and of the counters."""
    one, reader = world.key("one", "create"), world.key("two", "read")
    mine, watching = await world.listen(one), await world.listen(reader)
    await world.plane.sandboxes.create(a_request())
    sandbox = await world.plane.sandboxes.create(a_request(), by=world.caller("one"))
    first = await mine.next()
    assert (first["type"], first["id"], first["seq"]) == ("sandbox", sandbox.id, 1)
    pool = await watching.until("pool")
    assert (pool["name"], pool["image"], pool["target"]) == ("default", IMAGE, 1)
    counters = await watching.until("counters")
    assert counters["sandboxes"] == {"Running": 2}
    assert counters["loop_lag_s"] >= 0


@pytest.mark.attack(
    "secrets",
    "Go on listening to the events of the server after the key was withdrawn, or with a ticket of that key",
    "The connections end at once, and the tickets open nothing",
)
async def test_a_key_that_ends_ends_its_ears(world: World) -> None:
    """Also those that a ticket of it has opened; and its tickets open nothing any more."""
    text = world.key("bot", "read")
    async with world.client(text) as client:
        tickets = [(await client.post("/events/tickets")).json()["ticket"] for _ in range(2)]
    by_key, by_ticket = await world.listen(text), await world.listen(query=f"?ticket={tickets[0]}")
    world.plane.access.keys.withdraw(world.plane.access.keys.find("bot").id)
    for ears in (by_key, by_ticket):
        with pytest.raises(ConnectionClosed) as closed:
            await ears.until("nothing")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
    with pytest.raises(InvalidStatus) as refused:
        await world.listen(query=f"?ticket={tickets[1]}")
    assert refused.value.response.status_code == 401


async def test_a_ticket_opens_the_events_once_and_nothing_else(world: World) -> None:
    """What it opens, it opens as its key sees it."""
    one = world.key("one", "create")
    async with world.client(one) as client:
        ticket = (await client.post("/events/tickets")).json()["ticket"]
    async with httpx.AsyncClient(base_url=f"http://{world.address}/v1") as nobody:
        assert (await nobody.get(f"/events?ticket={ticket}")).status_code == 401
        assert (await nobody.get(f"/sandboxes?ticket={ticket}")).status_code == 401
    ears = await world.listen(query=f"?ticket={ticket}")
    await world.plane.sandboxes.create(a_request())
    sandbox = await world.plane.sandboxes.create(a_request(), by=world.caller("one"))
    assert (await ears.next())["id"] == sandbox.id
    with pytest.raises(InvalidStatus):
        await world.listen(query=f"?ticket={ticket}")


async def test_server_sent_events_and_their_ids(world: World) -> None:
    """The same messages; who comes back with the last id misses nothing."""
    async with world.client(world.admin) as client:
        lines: list[str] = []
        async with client.stream("GET", "/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            sandbox = await world.plane.sandboxes.create(a_request())
            async for line in answer.aiter_lines():
                lines.append(line)
                if '"Running"' in line:
                    break
        assert json.loads(lines[0].removeprefix("data: "))["type"] == "hello"
        last = next(line for line in reversed(lines) if line.startswith("id: ")).removeprefix("id: ")
        world.plane.sandboxes.change_metadata(sandbox.id, {"x": "y"}, most=5)
        async with client.stream("GET", "/events", headers={"Last-Event-ID": last}) as answer:
            told: list[Said] = []
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    told.append(json.loads(line.removeprefix("data: ")))
                    if told[-1].get("sandbox", {}).get("metadata") == {"x": "y"}:
                        break
        assert told[0]["type"] == "hello"
        assert not any(each["type"] == "skipped" for each in told)


async def test_who_was_away_for_too_long_hears_that(world: World) -> None:
    """Over the WebSocket too."""
    ears = Ears((await world.listen(world.admin, "?after=gone.17")).socket)
    assert await ears.until("skipped") == {"type": "skipped"}


@pytest.mark.attack(
    "edge",
    "Listen to the events of the server and read nothing, while everything changes",
    "Others hear of each change at once; the server keeps a bounded number of messages, and tells of the gap",
)
async def test_a_listener_that_does_not_read_delays_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears that it has missed something; the others miss nothing, and memory does not grow."""
    monkeypatch.setattr(bus_module, "MAX_MESSAGES", 64)
    sandbox = await world.plane.sandboxes.create(a_request())
    quick = await world.listen(world.admin)
    url, headers = f"ws://{world.address}/v1/events", {"OPEN-SANDBOX-API-KEY": world.admin}
    big = "x" * 60_000
    async with connect(url, additional_headers=headers, proxy=None, max_queue=1, ping_interval=None) as slow:
        assert json.loads(await slow.recv())["type"] == "hello"
        for number in range(300):
            world.plane.sandboxes.change_metadata(sandbox.id, {"big": big, "number": str(number)}, most=5)
            said = await quick.until("sandbox")
            assert said["sandbox"]["metadata"]["number"] == str(number)
        heard = [json.loads(await slow.recv())]
        while heard[-1]["type"] != "skipped":
            heard.append(json.loads(await slow.recv()))
        numbers = [each["seq"] for each in heard if each["type"] == "sandbox"]
        assert heard[-1]["count"] > 0
        assert numbers == sorted(numbers)


async def test_who_speaks_is_sent_away(world: World) -> None:
    """The socket only speaks."""
    ears = await world.listen(world.admin)
    await ears.socket.send("hello?")
    with pytest.raises(ConnectionClosed) as closed:
        await ears.until("nothing")
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "this socket takes no messages")


async def test_too_many_listen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal says so, over both."""
    monkeypatch.setattr(bus_module, "MAX_LISTENERS", 1)
    await world.listen(world.admin)
    with pytest.raises(InvalidStatus) as refused:
        await world.listen(world.admin)
    assert refused.value.response.status_code == 429
    async with world.client(world.admin) as client:
        answer = await client.get("/events")
        assert answer.status_code == 429
        assert "listen to events already" in answer.json()["message"]


async def test_snapshots_and_pools_and_the_engine(world: World) -> None:
    """Each by its own message."""
    sandbox = await world.plane.sandboxes.create(a_request())
    ears = await world.listen(world.admin)
    snapshot = world.plane.snapshots.create(sandbox.id, "first")
    made = await ears.until("snapshot")
    assert (made["event"], made["snapshot"]["status"]["state"]) == ("created", SnapshotState.CREATING.value)
    ready = await ears.until("snapshot")
    assert (ready["event"], ready["snapshot"]["status"]["state"]) == ("changed", SnapshotState.READY.value)
    await world.plane.snapshots.delete(snapshot.id)
    assert (await ears.until("snapshot", event="ended"))["snapshot"] is None
    for queue in world.home.engine._subscribers:
        queue.put_nowait((world.home.driver.instance, RuntimeEvent(EventKind.DISCONNECTED)))
    silent = await ears.until("engine")
    assert (silent["up"], silent["message"]) == (False, "the engine does not answer")
    for queue in world.home.engine._subscribers:
        queue.put_nowait((world.home.driver.instance, RuntimeEvent(EventKind.CONNECTED)))
    assert (await ears.until("engine"))["up"] is True


async def test_a_pool_whose_containers_do_not_start_says_why(world: World) -> None:
    """And a pull that goes on, and ends."""
    ears = await world.listen(world.admin)
    world.home.driver.fail_create = EngineUnavailable("the disk is full")
    await world.plane.sandboxes.create(a_request())
    assert (await ears.until("pool", idle=0))["hits"] == 1
    while not (said := await ears.until("pool"))["problem"]:
        pass
    assert "the disk is full" in said["problem"]
    world.home.driver.fail_create = None
    world.home.engine.registry["some/image"] = None
    async with world.client(world.admin) as client:
        body = {"image": {"uri": "some/image"}, "entrypoint": ["sleep"], "resourceLimits": {"memory": "256Mi"}}
        assert (await client.post("/sandboxes", json=body)).status_code == 202
    assert (await ears.until("image", event="pulling"))["name"] == "some/image"
    assert (await ears.until("image"))["event"] == "pulled"
