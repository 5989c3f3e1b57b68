"""The proxy before the engine: each of its moods does what it says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.chaos.engine_proxy import WELL, EngineProxy, Mood

PATIENCE_S = 10.0


class Engine:
    """An engine that notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.over = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """As an engine."""
        self.asked.append(f"{request.method} {request.path_qs} {await request.text()}".rstrip())
        if not request.path.endswith("/events"):
            return web.json_response({"Id": "c"}, status=201)
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first\n")
        await self.over.wait()
        return response


class Bench:
    """The engine, the proxy, and a client."""

    def __init__(self, engine: Engine, proxy: EngineProxy, http: aiohttp.ClientSession) -> None:
        self.engine = engine
        self.proxy = proxy
        self.http = http

    async def create(self) -> int:
        """Ask for something to be done; return the status."""
        async with self.http.post("http://engine/create?name=x", data="body") as answer:
            return answer.status


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    engine = Engine()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", engine.answer)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "real.sock")).start()
    proxy = EngineProxy(str(tmp_path / "real.sock"), tmp_path / "proxy.sock", 1)
    connector = aiohttp.UnixConnector(str(proxy.path))
    async with proxy.serve(), aiohttp.ClientSession(connector=connector) as http, asyncio.timeout(PATIENCE_S):
        yield Bench(engine, proxy, http)
        engine.over.set()
    await runner.cleanup()


async def test_a_well_engine_is_passed_on(bench: Bench) -> None:
    """Method, path, query, body and status."""
    assert await bench.create() == 201
    assert bench.engine.asked == ["POST /create?name=x body"]


async def test_a_failure_does_nothing(bench: Bench) -> None:
    bench.proxy.mood = Mood(fail=1.0)
    assert await bench.create() == 500
    assert bench.engine.asked == []


async def test_a_lost_answer_is_done(bench: Bench) -> None:
    bench.proxy.mood = Mood(lose=1.0)
    with pytest.raises(aiohttp.ClientError):
        await bench.create()
    assert bench.engine.asked[0] == "POST /create?name=x body"


async def test_what_hangs_goes_on_when_the_mood_is_over(bench: Bench) -> None:
    bench.proxy.mood = Mood(hang=1.0)
    creating = asyncio.ensure_future(bench.create())
    await asyncio.wait([creating], timeout=0.1)
    assert not creating.done()
    bench.proxy.mood = WELL
    assert await creating == 201


async def test_an_engine_that_is_gone_ends_streams_of_events(bench: Bench) -> None:
    """And answers nothing, until it is back."""
    async with bench.http.get("http://engine/events") as events:
        assert await events.content.readline() == b"first\n"
        bench.proxy.mood = Mood(is_gone=True)
        with contextlib.suppress(aiohttp.ClientError):
            assert await events.content.readline() == b""
    with pytest.raises(aiohttp.ClientError):
        await bench.create()
    bench.proxy.mood = WELL
    assert await bench.create() == 201


async def test_the_same_seed_gives_the_same_wrongs(tmp_path: Path) -> None:
    proxies = [EngineProxy("", tmp_path / "proxy.sock", 5) for _ in range(2)]
    first, second = ([proxy._happens("fail", 0.5) for _ in range(50)] for proxy in proxies)
    assert first == second
    assert 0 < sum(first) < 50


async def test_what_hangs_late_hangs_no_longer_than_its_mood(bench: Bench) -> None:
    """The mood ends while the request is delayed."""
    bench.proxy.mood = Mood(delay=1.0, hang=1.0)
    creating = asyncio.ensure_future(bench.create())
    await asyncio.wait([creating], timeout=0.05)
    bench.proxy.mood = WELL
    assert await creating == 201
