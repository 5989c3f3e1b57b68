"""Attacks on the edge by what is sent: without an end, in pieces, by halves, or costly to read."""

from __future__ import annotations

import asyncio
import contextlib
import gzip

import msgspec

from controlplane.attack.client import raw
from controlplane.attack.client.api import Reaction, Unreachable
from controlplane.attack.client.outcome import Outcome, broken, held
from controlplane.attack.client.target import Target

CONNECTIONS = 256
PATIENCE_S = 90.0  # what says nothing must be sent away within this time; clients keep idle connections for 75 s


async def _endless(target: Target, beginning: bytes, piece: bytes) -> Outcome:
    """Send something without an end; the server must stop taking it, by an answer or by closing."""
    async with raw.Watched(target) as watched:
        reaction = await target.api.send_raw(raw.repeat(beginning, piece), patience_s=raw.ANSWER_S)
        outcome = _stopped(reaction)
    return watched.judge(outcome)


def _stopped(reaction: Reaction) -> Outcome:
    if any(status < 400 for status in reaction.statuses):
        return broken(f"it is answered with {reaction.statuses[0]}")
    if reaction.sent >= raw.MOST_BYTES and not reaction.closed and not reaction.statuses:
        return broken(f"{reaction.sent >> 20} MiB were taken, and more would be")
    return held(f"stopped after {reaction.sent >> 10} KiB, {reaction.statuses[:1] or 'without an answer'}")


async def header_lines(target: Target) -> Outcome:
    return await _endless(target, raw.head(target.api), b"a: b\r\n" * 10_000)


async def header_value(target: Target) -> Outcome:
    return await _endless(target, raw.head(target.api) + b"a: ", b"b" * 65_536)


async def header_name(target: Target) -> Outcome:
    return await _endless(target, raw.head(target.api), b"b" * 65_536)


async def url(target: Target) -> Outcome:
    return await _endless(target, b"GET /", b"a" * 65_536)


async def method(target: Target) -> Outcome:
    return await _endless(target, b"", b"A" * 65_536)


async def trailers(target: Target) -> Outcome:
    head = raw.head(target.api, "POST", "/v1/sandboxes", "Transfer-Encoding: chunked", "", key=True)
    return await _endless(target, head + b"0\r\n", b"a: b\r\n" * 10_000)


async def chunk_extension(target: Target) -> Outcome:
    head = raw.head(target.api, "POST", "/v1/sandboxes", "Transfer-Encoding: chunked", "", key=True)
    return await _endless(target, head + b"1;", b"a" * 65_536)


async def body(target: Target) -> Outcome:
    head = raw.head(
        target.api,
        "POST",
        "/v1/sandboxes",
        "Content-Type: application/json",
        "Content-Length: 99999999999",
        "",
        key=True,
    )
    return await _endless(target, head, b" " * 65_536)


async def chunked_body(target: Target) -> Outcome:
    head = raw.head(
        target.api,
        "POST",
        "/v1/sandboxes",
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
        "",
        key=True,
    )
    return await _endless(target, head, b"10000\r\n" + b" " * 65_536 + b"\r\n")


async def tiny_chunks(target: Target) -> Outcome:
    head = raw.head(
        target.api,
        "POST",
        "/v1/sandboxes",
        "Content-Type: application/json",
        "Transfer-Encoding: chunked",
        "",
        key=True,
    )
    return await _endless(target, head, b"1\r\n \r\n" * 10_000)


async def body_without_key(target: Target) -> Outcome:
    head = raw.head(
        target.api, "POST", "/v1/sandboxes", "Content-Type: application/json", "Content-Length: 99999999999", ""
    )
    return await _endless(target, head, b" " * 65_536)


async def pipeline(target: Target) -> Outcome:
    """Send many requests and read no answer: the server stops reading, or ends the connection."""
    piece = (raw.head(target.api) + b"\r\n") * 500
    async with raw.Watched(target) as watched, target.api.connection() as (_, writer):
        sent = 0
        with contextlib.suppress(OSError, TimeoutError):
            while sent < raw.MOST_BYTES:
                writer.write(piece)
                async with asyncio.timeout(2.0):
                    await writer.drain()
                sent += len(piece)
    outcome = (
        held(f"stopped after {sent >> 10} KiB") if sent < raw.MOST_BYTES else broken(f"{sent >> 20} MiB were taken")
    )
    return watched.judge(outcome)


async def _closes(target: Target, data: bytes) -> Outcome:
    """Send the beginning of something and no more; the server must close the connection in time."""
    reaction = await target.api.send_raw(data, patience_s=PATIENCE_S)
    return held() if reaction.closed else broken(f"the connection was still open after {PATIENCE_S:.0f} s")


async def silent(target: Target) -> Outcome:
    return await _closes(target, b"")


async def half_a_head(target: Target) -> Outcome:
    return await _closes(target, raw.head(target.api))


async def half_a_body(target: Target) -> Outcome:
    head = raw.head(
        target.api, "POST", "/v1/sandboxes", "Content-Type: application/json", "Content-Length: 1000", "", key=True
    )
    return await _closes(target, head + b"{")


async def idle(target: Target) -> Outcome:
    return await _closes(target, raw.head(target.api) + b"\r\n")


async def half_a_handshake(target: Target) -> Outcome:
    return await _closes(target, raw.head(target.api, "GET", "/v1/sandboxes/x/stream", "Upgrade: websocket"))


async def connections(target: Target) -> Outcome:
    """Hold many connections open; others are still served."""
    neighbour = await target.neighbour()
    async with raw.Watched(target) as watched, contextlib.AsyncExitStack() as stack:
        with contextlib.suppress(Unreachable):
            for _ in range(CONNECTIONS):
                await stack.enter_async_context(target.api.connection())
        answers = await neighbour.answers()
    return watched.judge(held() if answers else broken("sandboxes answer no more"))


async def json(target: Target) -> Outcome:
    """Send JSON that costs its reader more than its sender."""
    async with raw.Watched(target) as watched:
        outcome = held()
        for name, data in {
            "deep lists": b"[" * 500_000,
            "deep objects": b'{"a":' * 200_000,
            "long number": b'{"timeout":' + b"9" * 500_000 + b"}",
            "large exponent": b'{"timeout":1e999999}',
            "many keys": b"{" + b",".join(b'"k%d":1' % n for n in range(100_000)) + b"}",
            "same key": b'{"image":1' + b',"image":2' * 100_000 + b"}",
            "surrogates": b'{"image":{"uri":"\\ud800"}}',
            "no text": b'{"image":{"uri":"\xff\xfe"}}',
            "many variables": msgspec.json.encode(
                {"image": {"uri": "x"}, "env": {f"K{n}": "v" for n in range(50_000)}}
            ),
            "infinite": b'{"timeout":Infinity}',
        }.items():
            answer = await target.api.request(
                "POST", "/v1/sandboxes", data=data, headers={"Content-Type": "application/json"}
            )
            if not 400 <= answer.status < 500:
                outcome = broken(f"{name}: {answer.status}")
                break
    return watched.judge(outcome)


async def compressed_body(target: Target) -> Outcome:
    """Send a body that says it is compressed; the server must not unpack it."""
    bomb = gzip.compress(b" " * (8 << 20))
    async with raw.Watched(target) as watched:
        answer = await target.api.request(
            "POST", "/v1/sandboxes", data=bomb, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}
        )
    return watched.judge(held() if 400 <= answer.status < 500 else broken(f"it is answered with {answer.status}"))


async def multipart(target: Target) -> Outcome:
    """Upload a form of very many parts, and one whose part has an endless head."""
    box = await target.box()
    path = f"{box.agent}/files/upload"
    part = b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\nv\r\n'
    forms = {"many parts": part * 50_000 + b"--x--\r\n", "long head": b"--x\r\nA: " + b"b" * (4 << 20)}
    async with raw.Watched(target) as watched:
        outcome = held()
        for name, data in forms.items():
            try:
                answer = await target.api.request(
                    "POST", path, data=data, headers={"Content-Type": "multipart/form-data; boundary=x"}
                )
            except Unreachable:
                continue  # closed in the middle
            if not 400 <= answer.status < 500:
                outcome = broken(f"{name}: {answer.status}")
    return watched.judge(outcome)


async def lists(target: Target) -> Outcome:
    """Ask for pages and filters beyond every measure."""
    async with raw.Watched(target) as watched:
        outcome = held()
        for query in (
            "pageSize=999999999",
            "page=999999999999999999999",
            "page=-1",
            "&".join(f"state=S{n}" for n in range(2000)),
            "metadata=" + "a%3Db%26" * 2000,
        ):
            answer = await target.api.request("GET", f"/v1/sandboxes?{query}")
            if answer.status >= 500:
                outcome = broken(f"{query[:40]}: {answer.status}")
    return watched.judge(outcome)


async def patterns(target: Target) -> Outcome:
    """Search files by a pattern that makes careless matchers go on for ever."""
    box = await target.box()
    async with raw.Watched(target) as watched:
        outcome = held()
        pattern = "%2Aa" * 60 + "b"
        with contextlib.suppress(Unreachable):
            answer = await target.api.request("GET", f"{box.agent}/files/search?path=/usr&pattern={pattern}")
            if answer.status >= 500 and answer.json() is None:
                outcome = broken(f"{answer.status}")
        if not await box.answers():
            outcome = broken("the sandbox answers no more")
    return watched.judge(outcome)
