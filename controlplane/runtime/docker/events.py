"""The engine's stream of events about our containers.

Read with the HTTP client itself: aiodocker's channel has unbounded queues, and the parameters of its first subscriber.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import aiodocker
import aiohttp
import msgspec

from controlplane.errors import EngineUnavailable, RuntimeFailure
from controlplane.runtime import labels
from controlplane.runtime.docker.engine import ENDLESS, endpoint, our_errors, request
from controlplane.runtime.events import EventKind, RuntimeEvent

GIVE_UP_S = 60.0
FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0
# An engine that hangs keeps its connections open. So it is asked whether it lives when it has told nothing for a while;
# one that is only busy answers that within a second or two.
PING_S = 3.0
PING_TIMEOUT_S = 7.0
# An event carries all labels of its container, and an image can bring any number of them. What is longer is skipped;
# `list()` at the next reconnect, or the reconcile every minute, finds out.
MAX_LINE_BYTES = 1 << 20

_KINDS = {
    "die": EventKind.DIED,
    "oom": EventKind.OOM,
    "destroy": EventKind.REMOVED,
    "pause": EventKind.PAUSED,
    "unpause": EventKind.RESUMED,
}


class _Actor(msgspec.Struct, rename={"id": "ID", "attributes": "Attributes"}):
    id: str
    attributes: dict[str, str] = {}


class _Event(msgspec.Struct, rename={"action": "Action", "actor": "Actor"}):
    action: str
    actor: _Actor


_decoder = msgspec.json.Decoder(_Event)


async def follow(
    docker: aiodocker.Docker, instance: str, *, give_up_s: float = GIVE_UP_S
) -> AsyncGenerator[RuntimeEvent, None]:
    """Yield events as `Containers.events` promises.

    Raises:
        EngineUnavailable: no connection for *give_up_s* seconds.
    """
    delay_s = FIRST_RETRY_S
    failing_since: float | None = None  # DISCONNECTED was told
    while True:
        try:
            async with aclosing(_connected(docker, instance)) as events:
                async for event in events:
                    delay_s, failing_since = FIRST_RETRY_S, None
                    yield event
        except RuntimeFailure as error:
            now = time.monotonic()
            if failing_since is None:
                failing_since = now
                yield RuntimeEvent(EventKind.DISCONNECTED)
            if now - failing_since >= give_up_s:
                raise EngineUnavailable(f"no events from the engine for {give_up_s:.0f} s: {error.message}") from error
        await asyncio.sleep(delay_s)
        delay_s = min(delay_s * 2, LAST_RETRY_S)


async def _connected(docker: aiodocker.Docker, instance: str) -> AsyncGenerator[RuntimeEvent, None]:
    """Yield CONNECTED and the events of one connection; ends when the engine closes it.

    Raises:
        RuntimeFailure: it cannot be opened, or broke.
    """
    filters = {"type": ["container"], "event": list(_KINDS), "label": [f"{labels.INSTANCE}={instance}"]}
    # The engine answers before it subscribes us: `since` covers the moment between.
    parameters = {"filters": msgspec.json.encode(filters).decode(), "since": f"{time.time():.9f}"}
    response: aiohttp.ClientResponse | None = None
    try:
        with our_errors("follow the engine's events"):
            async with asyncio.timeout(PING_TIMEOUT_S):
                url = await endpoint(docker, "events")
                response = await docker.session.get(url, params=parameters, timeout=ENDLESS)
            response.raise_for_status()
        yield RuntimeEvent(EventKind.CONNECTED)
        async with aclosing(_lines(docker, response)) as lines:
            async for line in lines:
                if (event := parse(line)) is not None:
                    yield event
    finally:
        if response is not None:
            response.close()


async def _lines(docker: aiodocker.Docker, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """Yield the lines of an endless response, as long as its engine lives. Raises RuntimeFailure."""
    buffer = bytearray()
    skipping = False
    while True:
        with our_errors("follow the engine's events"):
            chunk = await _read(docker, response)
        if not chunk:
            return
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            buffer += piece
            if buffer and not skipping:
                yield bytes(buffer)
            buffer.clear()
            skipping = False
        buffer += rest
        if len(buffer) > MAX_LINE_BYTES:
            buffer.clear()
            skipping = True


async def _read(docker: aiodocker.Docker, response: aiohttp.ClientResponse) -> bytes:
    """Return what comes next; b"" at the end. Raises TimeoutError when the engine does not answer any more."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PING_S):
                return await response.content.readany()
        async with asyncio.timeout(PING_TIMEOUT_S):
            await request(docker, "GET", "version")


def parse(line: bytes) -> RuntimeEvent | None:
    """Return what a line of the stream tells, None when that is nothing to us."""
    try:
        event = _decoder.decode(line)
    except msgspec.DecodeError:
        return None
    kind = _KINDS.get(event.action)
    sandbox_id = event.actor.attributes.get(labels.SANDBOX)
    if kind is None or sandbox_id is None:
        return None
    exit_code = event.actor.attributes.get("exitCode", "") if kind is EventKind.DIED else ""
    return RuntimeEvent(kind, sandbox_id, event.actor.id, int(exit_code) if exit_code.isdecimal() else None)
