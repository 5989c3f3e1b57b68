"""A proxy in front of a container engine that behaves as engines do on a bad day: a seed decides when and how."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

# What one connection says to the other, and what aiohttp says by itself.
_OWN_HEADERS = {"connection", "transfer-encoding", "content-length", "keep-alive", "upgrade", "host"}
_LARGEST_BODY_BYTES = 4 << 30


class Mood(msgspec.Struct, frozen=True):
    """How the engine behaves: for each request the probabilities of what goes wrong with it."""

    delay: float = 0.0  # it takes up to a second
    fail: float = 0.0  # status 500, and nothing was done
    lose: float = 0.0  # it is done, and its answer is lost
    hang: float = 0.0  # it is done when the mood is over
    is_gone: bool = False  # nobody answers, and the stream of events is cut


WELL = Mood()


class EngineProxy:
    """A Unix socket before the engine's. `mood` may be set at any time; `cut_events()` ends streams of events."""

    def __init__(self, engine: str, path: Path, seed: int | str) -> None:
        self.path = path
        self.wrongs: Counter[str] = Counter()  # what went wrong so far
        self._engine = engine
        self._random = random.Random(seed)
        self._mood = WELL
        self._is_over = asyncio.Event()
        self._events: dict[int, web.Request] = {}
        self._session: aiohttp.ClientSession

    @property
    def mood(self) -> Mood:
        """How it behaves now."""
        return self._mood

    @mood.setter
    def mood(self, mood: Mood) -> None:
        self._mood = mood
        self._is_over.set()
        self._is_over = asyncio.Event()
        if mood.is_gone:
            self.cut_events()

    def cut_events(self) -> None:
        """End all streams of events."""
        for request in list(self._events.values()):
            _hang_up(request)

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[EngineProxy]:
        """Listen inside of the block."""
        connector = aiohttp.UnixConnector(self._engine, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as self._session:
            application = web.Application(client_max_size=_LARGEST_BODY_BYTES)
            application.router.add_route("*", "/{path:.*}", self._answer)
            runner = web.AppRunner(application, shutdown_timeout=0, handler_cancellation=True, access_log=None)
            await runner.setup()
            await web.UnixSite(runner, str(self.path)).start()
            try:
                yield self
            finally:
                self._is_over.set()
                self.cut_events()
                await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        mood, is_over, is_events = self._mood, self._is_over, request.path.endswith("/events")
        if mood.is_gone:
            self.wrongs["gone"] += 1
            return _hang_up(request)
        if self._happens("delay", mood.delay):
            await asyncio.sleep(self._random.random())
        if self._happens("fail", mood.fail):
            return web.json_response({"message": "chaos: the engine failed"}, status=500)
        is_lost = not is_events and self._happens("lose", mood.lose)
        if not is_events and self._happens("hang", mood.hang):
            await is_over.wait()  # that of this mood, which may have ended during the delay
        return await self._forward(request, is_lost=is_lost, is_events=is_events)

    def _happens(self, wrong: str, probability: float) -> bool:
        happens = self._random.random() < probability
        self.wrongs[wrong] += happens
        return happens

    async def _forward(self, request: web.Request, *, is_lost: bool, is_events: bool) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN_HEADERS}
        url = f"http://engine{request.path_qs}"
        body = await request.read()
        async with self._session.request(request.method, url, headers=headers, data=body or None) as answer:
            if is_lost:
                await answer.read()
                return _hang_up(request)
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _OWN_HEADERS}
            response = web.StreamResponse(status=answer.status, headers=kept)
            if is_events:
                self._events[id(request)] = request
            try:
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            except (ConnectionError, aiohttp.ClientError):
                pass  # one of the two has gone, or was sent away
            finally:
                self._events.pop(id(request), None)
            return response


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
