"""Attacks on the edge by WebSocket frames."""

from __future__ import annotations

import asyncio
import contextlib
import struct

from controlplane.attack.client import raw
from controlplane.attack.client.outcome import Outcome, broken, held, not_applicable, unclear
from controlplane.attack.client.target import Target

SOCKET_CLOSE_S = 15.0  # the server closes a socket within this time after a breach of the protocol


def _frame(opcode: int, payload: bytes, *, fin: bool = True, bits: int = 0, length: int | None = None) -> bytes:
    """Return a WebSocket _frame with a mask of zeros; *length* is what it claims, if not what it has."""
    size = len(payload) if length is None else length
    first = (0x80 if fin else 0) | bits | opcode
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + bytes(4) + payload


async def _socket_flood(target: Target, beginning: bytes, piece: bytes) -> Outcome:
    """Open the native stream and send frames without an end, reading nothing."""
    box = await target.box()
    async with raw.Watched(target) as watched, target.api.connection() as (reader, writer):
        writer.write(raw.handshake(target.api, f"/v1/sandboxes/{box.id}/stream", key=True))
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head:
            return not_applicable("this server has no native stream")
        sent = 0
        with contextlib.suppress(OSError, TimeoutError):
            writer.write(beginning)
            while sent < raw.MOST_BYTES // 2 and not reader.at_eof():
                writer.write(piece)
                async with asyncio.timeout(2.0):
                    await writer.drain()
                sent += len(piece)
    if not await (await target.neighbour()).answers():
        return broken("another sandbox answers no more")
    return watched.judge(held(f"{sent >> 10} KiB were taken"))


async def fragments(target: Target) -> Outcome:
    return await _socket_flood(target, _frame(1, b"", fin=False), _frame(0, b"", fin=False) * 5000)


async def small_messages(target: Target) -> Outcome:
    return await _socket_flood(target, b"", _frame(1, b"x") * 5000)


async def pings(target: Target) -> Outcome:
    return await _socket_flood(target, b"", _frame(9, b"x" * 125) * 500)


async def large_message(target: Target) -> Outcome:
    """Announce a message of 1 GiB, and send it."""
    return await _socket_flood(target, _frame(2, b"", length=1 << 30), bytes(65536))


async def compression(target: Target) -> Outcome:
    """Ask for permessage-deflate: what inflates is not bounded by what was sent."""
    box = await target.box()
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    data = raw.handshake(target.api, f"/v1/sandboxes/{box.id}/stream", offer, key=True)
    reaction = await target.api.send_raw(data, patience_s=raw.OPEN_S)
    if 101 not in reaction.statuses:
        return not_applicable("this server has no native stream")
    return broken("the server agrees to permessage-deflate") if b"permessage-deflate" in reaction.received else held()


async def bad_frames(target: Target) -> Outcome:
    """Break the protocol; the connection ends."""
    box = await target.box()
    for name, data in {
        "reserved bits": _frame(1, b"x", bits=0x70),
        "unknown opcode": _frame(5, b"x"),
        "long ping": _frame(9, b"x" * 200),
        "split ping": _frame(9, b"x", fin=False),
        "no mask": b"\x81\x01x",
        "continuation of nothing": _frame(0, b"x"),
        "no text": _frame(1, b"\xff\xfe"),
        "negative length": b"\x82\xff" + b"\xff" * 8 + bytes(4),
    }.items():
        handshake = raw.handshake(target.api, f"/v1/sandboxes/{box.id}/stream", key=True)
        reaction = await target.api.send_raw(handshake + data, patience_s=SOCKET_CLOSE_S)
        if 101 not in reaction.statuses:
            return unclear(f"the stream did not open: {reaction.statuses}")
        if not reaction.closed:
            return broken(f"{name}: the connection goes on")
    return held()
