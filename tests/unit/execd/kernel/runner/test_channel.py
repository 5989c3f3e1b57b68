"""The channel's framing and decoding, against a peer that may send anything."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from execd.kernel.runner.channel import Channel, ChannelError, Display, Error, Lines, Ready, Result, RunDone


@pytest.fixture
def pair() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    theirs.settimeout(10)
    channel = Channel(ours)
    yield channel, theirs
    channel.close()
    theirs.close()


@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_are_the_same_however_the_bytes_arrive(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    parser = Lines(limit=20)

    found = [line for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) for line in parser.feed(stream[a:b])]

    assert found == lines


def test_a_line_of_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    assert Lines(limit=4).feed(b"1234\n") == [b"1234"]
    with pytest.raises(ChannelError, match="more than 4 bytes"):
        Lines(limit=4).feed(b"12345\n")


def test_a_line_that_never_ends_is_refused_before_it_grows() -> None:
    lines = Lines(limit=4)
    lines.feed(b"123")

    with pytest.raises(ChannelError, match="more than 4 bytes"):
        lines.feed(b"45")


def test_every_message_is_read(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    theirs.sendall(
        b'{"type": "ready", "protocol": 1}\n'
        b'{"type": "result", "data": {"text/plain": "2"}, "metadata": {}, "count": 1}\n'
        b'{"type": "display", "data": {}, "display_id": "d", "update": true, "ack": 7}\n'
        b'{"type": "error", "name": "E", "value": "v", "traceback": ["a", "b"]}\n'
        b'{"type": "done", "id": 3, "status": "ok", "count": 1}\n'
    )

    assert channel.receive_nowait() == [
        Ready(1),
        Result({"text/plain": "2"}, count=1),
        Display({}, display_id="d", update=True, ack=7),
        Error("E", "v", ("a", "b")),
        RunDone(3, "ok", 1),
    ]
    assert channel.receive_nowait() == []
    assert not channel.ended


@pytest.mark.parametrize(
    "line",
    [
        b"not JSON",
        b"",
        b"[1]",
        b"{}",
        b'{"type": "surprise"}',
        b'{"type": "done", "id": "three", "status": "ok"}',
        b'{"type": "result", "data": {"image/png": 1}}',
        b'{"type": "error", "name": "\xff", "value": ""}',
        b"[" * 100_000,
    ],
)
def test_nonsense_is_refused(pair: tuple[Channel, socket.socket], line: bytes) -> None:
    channel, theirs = pair
    theirs.sendall(line + b"\n")

    with pytest.raises(ChannelError, match="undecodable"):
        channel.receive_nowait()


def test_the_end_is_told(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    theirs.close()

    assert channel.receive_nowait() == []
    assert channel.ended


async def test_a_large_message_waits_for_its_reader_and_nothing_gets_into_the_middle_of_it(
    pair: tuple[Channel, socket.socket],
) -> None:
    channel, theirs = pair
    code = "x" * 2_000_000
    sending = asyncio.ensure_future(channel.send("run", id=1, code=code))
    await asyncio.sleep(0)
    assert not sending.done()
    channel.send_nowait("interrupt", id=1)

    stream = theirs.makefile("rb")
    first = await asyncio.to_thread(stream.readline)
    second = await asyncio.to_thread(stream.readline)
    await sending

    assert first == b'{"op":"run","id":1,"code":"' + code.encode() + b'"}\n'
    assert second == b'{"op":"interrupt","id":1}\n'


async def test_sending_to_a_runner_that_is_gone_is_no_error(pair: tuple[Channel, socket.socket]) -> None:
    channel, theirs = pair
    theirs.close()

    await channel.send("run", id=1, code="x" * 2_000_000)
    channel.send_nowait("interrupt", id=1)


def _next(channel: Channel) -> None:
    while not channel.receive_nowait():
        select.select([channel], [], [], 10)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({"type": "error", "name": "E", "value": "", "traceback": [""] * 100_001}, id="traceback"),
        pytest.param({"type": "display", "data": {str(number): "" for number in range(1001)}}, id="MIME types"),
    ],
)
def test_what_the_link_would_not_take_ends_the_context_and_not_the_link(
    pair: tuple[Channel, socket.socket], message: dict[str, object]
) -> None:
    channel, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    sending = threading.Thread(target=theirs.sendall, args=(json.dumps(message).encode() + b"\n",))
    sending.start()

    with pytest.raises(ChannelError, match="length"):
        _next(channel)

    sending.join()
