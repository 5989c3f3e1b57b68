"""The bus: who hears what, in which order, and what a slow listener costs the others."""

from __future__ import annotations

import asyncio
import json

import pytest

from controlplane.access.scopes import OPERATOR, Caller
from controlplane.errors import CapacityExhausted
from controlplane.lifecycle.events import bus as bus_module
from controlplane.lifecycle.events.bus import Bus, Heard, Latest, Message, Missed
from controlplane.lifecycle.events.news import EngineNews, ImageNews, News, SandboxNews
from tests.support.server.parts import a_record


class Encoder:
    """Counts what it encodes."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, news: News) -> bytes:
        self.count += 1
        match news:
            case SandboxNews(sandbox):
                return json.dumps({"id": sandbox.id}).encode()
            case ImageNews(name=name):
                return json.dumps({"name": name}).encode()
        return b'{"type":"engine"}'


def caller(owner: str, *scopes: str, sandboxes: tuple[str, ...] = ()) -> Caller:
    return Caller(key_id=owner, name=owner, owner=owner, scopes=frozenset(scopes), sandboxes=frozenset(sandboxes))


def image(number: int) -> ImageNews:
    return ImageNews(name=str(number), event="pulled")


def sandbox(sandbox_id: str, owner: str) -> SandboxNews:
    return SandboxNews(a_record(id=sandbox_id, owner=owner), is_new=True, is_there=True)


async def settle() -> None:
    """Let everything that is published arrive."""
    for _ in range(50):
        await asyncio.sleep(0)


def texts(heard: list[Heard]) -> list[dict[str, object]]:
    return [json.loads(each.text) for each in heard if isinstance(each, Message)]


async def test_nobody_listens() -> None:
    """Nothing is encoded, nothing is kept: who comes later hears what happens later."""
    encode = Encoder()
    bus = Bus(encode)
    bus.publish(image(1))
    await settle()
    with bus.listening(OPERATOR) as listener:
        bus.publish(image(2))
        assert texts(await listener.next()) == [{"seq": 1, "name": "2"}]
    assert encode.count == 1


async def test_an_event_is_encoded_once_whoever_listens() -> None:
    """Also for callers who see different things, each with numbers of their own."""
    encode = Encoder()
    bus = Bus(encode)
    with bus.listening(OPERATOR) as one, bus.listening(OPERATOR) as two, bus.listening(caller("a", "read")) as three:
        for news in (image(1), sandbox("s1", "b"), image(2)):
            bus.publish(news)
        assert texts(await one.next()) == texts(await two.next())
        assert texts(await three.next()) == [{"seq": 1, "name": "1"}, {"seq": 2, "name": "2"}]
    assert encode.count == 3


@pytest.mark.parametrize(
    ("who", "heard"),
    [
        (OPERATOR, ["a1", "b1", "image"]),
        (caller("admin", "read"), ["a1", "b1", "image"]),
        (caller("a", "read"), ["a1", "image"]),
        (caller("a", "create"), ["a1"]),
        (caller("c", sandboxes=("b1",)), ["b1"]),
        (caller("c", "create"), []),
    ],
    ids=["admin", "the administrator's reader", "reader", "creator", "one sandbox", "stranger"],
)
async def test_everybody_hears_what_he_sees(who: Caller, heard: list[str]) -> None:
    """Others' sandboxes leave no trace, not even in the numbers."""
    bus = Bus(Encoder())
    with bus.listening(who) as listener:
        bus.publish(sandbox("a1", "a"))
        bus.publish(sandbox("b1", "b"))
        bus.publish(ImageNews(name="image", event="pulled"))
        await settle()
        bus.publish(sandbox("z", who.owner) if who.scopes else sandbox("b1", "b"))  # which all of them hear
        await settle()
        found = texts(await listener.next())
        assert [each.get("id") or each["name"] for each in found[:-1]] == heard
        assert [each["seq"] for each in found] == list(range(1, len(found) + 1))


async def test_a_slow_listener_hears_of_its_gap_and_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring moves on; the number of what is missing is exact."""
    monkeypatch.setattr(bus_module, "MAX_MESSAGES", 10)
    bus = Bus(Encoder())
    with bus.listening(OPERATOR) as slow, bus.listening(OPERATOR) as quick:
        heard: list[Heard] = []
        for number in range(25):
            bus.publish(image(number))
            heard += await quick.next()
        assert [each["name"] for each in texts(heard)] == [str(number) for number in range(25)]
        late = await slow.next()
        assert late[0] == Missed(15)
        assert [each["seq"] for each in texts(late)] == list(range(16, 26))


async def test_the_ring_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large messages fewer are kept."""
    monkeypatch.setattr(bus_module, "MAX_BYTES", 1000)
    bus = Bus(Encoder())
    with bus.listening(OPERATOR) as listener:
        for _ in range(10):
            bus.publish(ImageNews(name="x" * 300, event="pulled"))
        await settle()
        gap, *rest = await listener.next()
        assert gap == Missed(7)
        assert len(rest) == 3


async def test_many_news_take_turns() -> None:
    """A thousand changes at once do not keep the event loop from others."""
    bus = Bus(Encoder())
    with bus.listening(OPERATOR) as listener:
        for number in range(1000):
            bus.publish(image(number))
        first = await listener.next()
        assert len(first) == 256
        await settle()
        assert [len(await listener.next()) for _ in range(3)] == [256, 256, 232]


async def test_who_comes_back_goes_on_where_he_was() -> None:
    """Messages of the meantime are there."""
    bus = Bus(Encoder())
    with bus.listening(OPERATOR) as listener:
        bus.publish(image(1))
        await listener.next()
        place = f"{listener.view.instance}.1"
    bus.publish(image(2))
    await settle()
    with bus.listening(OPERATOR, place) as again:
        assert texts(await again.next()) == [{"seq": 2, "name": "2"}]


@pytest.mark.parametrize(
    "place",
    ["another.1", "{instance}.99", "{instance}.x", "{instance}", "17", "{instance}.-1", "{instance}.¹", "." * 5000],
)
async def test_a_place_that_nobody_knows(place: str) -> None:
    """The client hears that something may be missing, and then what happens from now on."""
    bus = Bus(Encoder())
    with bus.listening(OPERATOR) as first:
        bus.publish(image(1))
        await first.next()
        with bus.listening(OPERATOR, place.replace("{instance}", first.view.instance)) as listener:
            assert await listener.next() == [Missed(None)]
            bus.publish(image(2))
            assert texts(await listener.next()) == [{"seq": 2, "name": "2"}]


async def test_a_view_is_forgotten_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """From then on the bus costs nothing again, and the numbers begin anew."""
    monkeypatch.setattr(bus_module, "KEPT_S", 0.01)
    bus = Bus(Encoder())
    with bus.listening(OPERATOR) as listener:
        instance = listener.view.instance
        with bus.listening(caller("a", "read")):
            pass
    async with asyncio.timeout(60):
        while bus.is_heard:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.005)
    with bus.listening(OPERATOR, f"{instance}.0") as listener:
        assert await listener.next() == [Missed(None)]


async def test_counters_are_the_newest_and_for_watchers_only() -> None:
    """They take no room in the ring, and a slow listener gets one of them."""
    bus = Bus(Encoder())
    with bus.listening(OPERATOR) as watcher, bus.listening(caller("a", "create")) as other:
        for number in range(100):
            bus.tell_latest(b"%d" % number)
        bus.publish(EngineNews(up=True))
        await settle()
        message, latest = await watcher.next()
        assert isinstance(message, Message)
        assert latest == Latest(b"99")
        assert not other.woken.is_set() or texts(other._take()) == []
        with bus.listening(OPERATOR) as newcomer:
            assert newcomer._take() == []


async def test_there_is_a_bound_on_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those who see the same: nobody takes the places of others."""
    monkeypatch.setattr(bus_module, "MAX_LISTENERS", 1)
    bus = Bus(Encoder())
    with bus.listening(OPERATOR):
        with pytest.raises(CapacityExhausted), bus.listening(OPERATOR):
            pass
        with bus.listening(caller("a", "read")):
            assert bus.listeners == 2
    assert bus.listeners == 0


async def test_a_wait_can_be_cancelled() -> None:
    """Nothing that came meanwhile is lost."""
    bus = Bus(Encoder())
    with bus.listening(OPERATOR) as listener:
        waiting = asyncio.ensure_future(listener.next())
        await settle()
        waiting.cancel()
        await asyncio.wait([waiting])
        bus.publish(image(1))
        assert texts(await listener.next()) == [{"seq": 1, "name": "1"}]


async def test_who_listens_first_starts_what_measures() -> None:
    """And nobody else does."""
    bus = Bus(Encoder())
    begun: list[int] = []
    bus.on_listening.append(lambda: begun.append(bus.listeners))
    with bus.listening(OPERATOR), bus.listening(OPERATOR):
        pass
    with bus.listening(OPERATOR):
        pass
    assert begun == [1, 1]
