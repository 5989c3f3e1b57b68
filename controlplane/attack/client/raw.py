"""Bytes as no client should send them, and a watch over the server meanwhile."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import AsyncIterator

from controlplane.attack.client.api import KEY_HEADER, Api, Memory, Unreachable, Watch
from controlplane.attack.client.outcome import Outcome, broken
from controlplane.attack.client.target import Target

MOST_BYTES = 16 << 20  # that one attack sends
MAX_GROWTH_BYTES = 96 << 20  # of the server meanwhile
OPEN_S = 2.0  # what opens or answers at all does so within this time
ANSWER_S = 3.0  # to what was too much, the server answers within this time, if it does


def head(api: Api, method: str = "GET", path: str = "/health", *lines: str, key: bool = False) -> bytes:
    """Return the beginning of a request: without the empty line that ends its head."""
    own = [f"{KEY_HEADER}: {api.key}"] if key else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {api.host}:{api.port}", *own, *lines, ""]).encode()


def handshake(api: Api, path: str, *lines: str, key: bool = False) -> bytes:
    return (
        head(
            api,
            "GET",
            path,
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            *lines,
            key=key,
        )
        + b"\r\n"
    )


async def repeat(beginning: bytes, piece: bytes) -> AsyncIterator[bytes]:
    yield beginning
    sent = len(beginning)
    while sent < MOST_BYTES:
        yield piece
        sent += len(piece)


class Watched:
    """A judge of the server under a stream of bytes: its pace, its memory, and whether it still answers."""

    def __init__(self, target: Target) -> None:
        self._api = target.api
        self._watch = Watch(target.api)

    async def __aenter__(self) -> Watched:
        self._before = await _memory(self._api)
        await self._watch.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._watch.__aexit__()
        self._growth = (await _memory(self._api)).growth_since(self._before)

    def judge(self, outcome: Outcome) -> Outcome:
        """Return *outcome*, or what was worse."""
        if self._watch.complaint:
            return broken(self._watch.complaint)
        if self._growth > MAX_GROWTH_BYTES:
            return broken(f"the server grew by {self._growth >> 20} MiB")
        return outcome


async def _memory(api: Api) -> Memory:
    with contextlib.suppress(Unreachable):
        return await api.memory()
    return Memory(0, 0)
