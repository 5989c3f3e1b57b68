"""`/server`, its report and its log, and the specifications."""

from __future__ import annotations

import asyncio
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest

from controlplane import logs
from controlplane.api.app import Operator
from controlplane.api.server import information, specs
from controlplane.api.server.report import Reports
from controlplane.api.server.schema import CheckView
from controlplane.sandbox import Limits
from controlplane.settings.differences import HIDDEN, SECRETS, differences
from controlplane.settings.sections import PoolSettings, SandboxSettings, ServerSettings, Settings, TraceSettings
from controlplane.settings.table import SECTIONS
from tests.support.server import application
from tests.support.server.application import World
from tests.support.server.control_plane import a_request


async def get(world: World, path: str, key: str = "", **headers: str) -> httpx.Response:
    async with world.client(key or world.admin) as client:
        return await client.get(path, headers=headers)


async def test_the_server_tells_what_it_is(world: World) -> None:
    """Of the engine what it can do, of the pools how they stand, of the disk what is left."""
    await world.plane.sandboxes.create(a_request())
    found = (await get(world, "/server")).json()
    assert found["version"] == metadata.version("sandlot")
    assert found["engine"]["answers"] is True
    assert (found["engine"]["name"], "pull images" in found["engine"]["abilities"]) == ("fake", True)
    assert found["sandboxes"]["Running"] == 1
    (pool,) = found["pools"]
    assert (pool["name"], pool["target"], pool["hits"], pool["misses"]) == ("default", 1, 1, 0)
    assert found["disk"]["free_bytes"] > 0
    assert found["limits"]["memory_bytes"] == Limits().memory_bytes
    assert found["problem"] == ""


async def test_an_engine_that_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is told all the same, and at once, also if the engine only hangs."""
    never = asyncio.Event()
    monkeypatch.setattr(information, "ENGINE_PATIENCE_S", 0.01)
    monkeypatch.setattr(world.plane.driver, "describe", never.wait)
    found = (await get(world, "/server")).json()
    assert found["engine"]["answers"] is False
    assert found["engine"]["name"] == "fake"
    assert found["disk"] is None
    assert found["problem"] == "the container engine does not answer"


async def test_settings_are_for_administrators(world: World) -> None:
    """Others may know what the server is, but not where its files are."""
    reader = (await get(world, "/server", world.key("reader", "read"))).json()
    assert reader["settings"] == []
    assert (await get(world, "/server", world.key("maker", "create"))).status_code == 403
    admin = (await get(world, "/server")).json()
    assert {"name": "[sandbox] pool_size", "value": "1", "default": "5"} in admin["settings"]


def test_what_an_operator_has_set() -> None:
    """As people write it, and nothing else."""
    settings = Settings(
        server=ServerSettings(api_keys={"ci": "a-very-secret-key-1"}, open_metrics=True),
        sandbox=SandboxSettings(pool_size=0),
        pools=(PoolSettings(image="x", size=2, allow_network=False),),
        aliases={"py": "sandlot/python"},
    )
    assert [(each.name, each.value, each.default) for each in differences(settings)] == [
        ("[server] api_keys", HIDDEN, ""),
        ("[server] open_metrics", "true", "false"),
        ("[sandbox] pool_size", "0", "5"),
        ("[[pools]]", "image = x, size = 2, allow_network = false", ""),
        ("[aliases] py", "sandlot/python", ""),
    ]
    assert list(differences(Settings())) == []


def test_a_password_in_a_url_is_not_shown() -> None:
    """The rest of the URL is."""
    settings = Settings(traces=TraceSettings(endpoint="https://me:correct-horse@collector.example:4318/v1/traces"))
    (found,) = differences(settings)
    assert found.value == "https://…@collector.example:4318/v1/traces"


def test_every_setting_that_sounds_like_a_secret_is_one() -> None:
    """A new one has to be named there, or called otherwise."""
    words = ("key", "secret", "token", "password", "header", "credential")
    found = {
        (section, field)
        for section, struct in SECTIONS.items()
        for field in struct.__struct_fields__
        if any(word in field for word in words)
    }
    assert found - SECRETS <= {("server", "endpoint_tokens")}


async def test_the_report(world: World) -> None:
    """Each check with its cure; for administrators."""
    found = (await get(world, "/server/report")).json()["checks"]
    assert [(each["name"], each["ok"], each["cure"]) for each in found] == [
        ("disk", True, ""),
        ("images", False, "`make images`"),
    ]
    assert (await get(world, "/server/report", world.key("reader", "read"))).status_code == 403


async def test_who_asks_meanwhile_gets_the_same_report() -> None:
    """The checks are made once, and again for who asks later."""
    begun: list[int] = []
    gate = asyncio.Event()

    async def check() -> list[CheckView]:
        begun.append(1)
        await gate.wait()
        return []

    reports, nobody = Reports(check), Any
    asked = [asyncio.ensure_future(reports.read(nobody)) for _ in range(3)]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    asked[0].cancel()
    gate.set()
    assert [answer.status_code for answer in await asyncio.gather(*asked[1:])] == [200, 200]
    assert len(begun) == 1
    await reports.read(nobody)  # type: ignore[arg-type]
    assert len(begun) == 2


@pytest.fixture
def tail(monkeypatch: pytest.MonkeyPatch) -> logs.Tail:
    """A log of this test's own."""
    tail = logs.Tail()
    monkeypatch.setattr("controlplane.api.app.TAIL", tail)
    return tail


def say(tail: logs.Tail, number: int) -> None:
    tail.keep(None, "", {"timestamp": "2026-11-29T00:00:00Z", "level": "info", "event": f"e{number}"})


async def test_the_log_by_pages_and_live(tail: logs.Tail, world: World) -> None:
    """The last lines, those after a number, and those that follow."""
    for number in range(1, 6):
        say(tail, number)
    page = (await get(world, "/server/log?limit=2")).json()
    assert (page["first"], page["last"]) == (1, 5)
    assert [line["event"] for line in page["lines"]] == ["e4", "e5"]
    page = (await get(world, "/server/log?after=1&limit=2")).json()
    assert [line["seq"] for line in page["lines"]] == [2, 3]
    assert (await get(world, "/server/log?after=x")).status_code == 400
    assert (await get(world, "/server/log", world.key("reader", "read"))).status_code == 403
    async with world.client(world.admin) as client:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": "4"}
        async with client.stream("GET", "/server/log", headers=headers) as answer:
            lines = answer.aiter_lines()
            assert await anext(lines) == "id: 5"
            assert json.loads((await anext(lines)).removeprefix("data: "))["event"] == "e5"
            say(tail, 6)
            assert await anext(lines) == ""
            assert await anext(lines) == "id: 6"


async def test_a_follower_of_an_earlier_run_goes_on(tail: logs.Tail, world: World) -> None:
    """Its number is higher than any of this run."""
    say(tail, 1)
    async with world.client(world.admin) as client:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": "900"}
        async with client.stream("GET", "/server/log", headers=headers) as answer:
            say(tail, 2)
            assert await anext(answer.aiter_lines()) == "id: 2"


async def test_the_specifications(world: World) -> None:
    """As they are in the clone; any key may read them."""
    key = world.key("bot", "sandbox:abc")
    found = {each["name"]: each for each in (await get(world, "/specs", key)).json()["items"]}
    assert found["events.asyncapi.yaml"]["title"] == "Sandlot: events of the server"
    assert {"lifecycle.openapi.yaml", "execd.openapi.yaml", "stream.asyncapi.yaml"} <= set(found)
    answer = await get(world, "/specs/lifecycle.openapi.yaml", key)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert "\nopenapi: " in answer.text
    assert len(answer.content) == found["lifecycle.openapi.yaml"]["size_bytes"]
    missing = await get(world, "/specs/..%2Fpyproject.toml", key)
    assert missing.status_code == 404
    assert (await get(world, "/specs/pyproject.toml", key)).json()["message"].endswith("GET /v1/specs lists them")
    async with httpx.AsyncClient() as nobody:
        assert (await nobody.get(f"http://{world.address}/v1/specs")).status_code == 401


def test_the_specifications_of_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no clone is, what was installed with the package; not what another package has left beside it."""
    (tmp_path / "share" / "sandlot" / "specs").mkdir(parents=True)
    installed = tmp_path / "share" / "sandlot" / "specs" / "a.openapi.yaml"
    installed.write_text('info:\n  title: "A: b"\n')
    foreign = tmp_path / "specs"
    foreign.mkdir()
    (foreign / "b.json").write_text("{}")

    class Distributed(metadata.PackagePath):
        def locate(self) -> Path:
            return tmp_path / self

    monkeypatch.setattr(specs, "_CLONE", foreign)
    listed = [Distributed("share/sandlot/specs/a.openapi.yaml"), Distributed("sandlot/x.json")]
    monkeypatch.setattr(specs.metadata, "files", lambda _: listed)
    assert specs.files() == [installed]
    assert [view.title for view in specs._views()] == ["A: b"]


def test_a_server_shows_what_is_its_own() -> None:
    """The parts for the tests are complete."""
    assert isinstance(application.operator_of(), Operator)
