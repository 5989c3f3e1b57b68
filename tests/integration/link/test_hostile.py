"""A hostile execd: whatever it sends or does not send, it costs its own link, and a neighbour's goes on undisturbed.

The attacker speaks WebSocket by hand, byte by byte. Beside it, in the same process, a good execd answers one call after
the other; the slowest of those calls is what the attack cost the neighbour.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from websockets.protocol import Event

from controlplane.errors import AgentError, LinkLost
from controlplane.link import accept as accept_module
from controlplane.link import link as link_module
from controlplane.link import listener as listener_module
from controlplane.link import websocket as websocket_module
from controlplane.link.accept import SOCKET_NAME, Accept
from controlplane.link.directory import Directory
from controlplane.link.link import MAX_OUTPUT_BYTES, Link, read_output
from controlplane.link.websocket import LinkSocket
from execd.dispatch import Dispatcher
from execd.server import serve_forever
from execd.wire.aio import MAX_CHUNK_BYTES, Data, Stream
from execd.wire.flow import INITIAL_WINDOW_BYTES
from execd.wire.frames import MAX_PAYLOAD_BYTES, MORE, Channel, Kind, encode
from execd.wire.messages import ContextRun, Done, MetricsRead, ProcessOutput, ProcessState, Request, encode_message
from tests.support.agent.wire_pair import HELLO, PROBLEM
from tests.support.turns import steps_of

GOOD, EVIL = "00000000000000aa", "00000000000000ee"
HANDSHAKE = (
    b"GET /link HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
GREETING = encode(0, Kind.HELLO, encode_message(HELLO))
PART = b"\xa0" * MAX_PAYLOAD_BYTES

# Generous: two slow cores shared with other tests. What must not happen is seconds, or without end.
LATENCY_S = 1.0
MEMORY_BYTES = 96 << 20


def websocket(payload: bytes, *, opcode: int = 2, fin: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """Return a WebSocket frame as a client sends it (mask 0 leaves the bytes as they are)."""
    size = len(payload)
    first = bytes([(0x80 if fin else 0) | reserved << 4 | opcode])
    if size < 126:
        length = bytes([0x80 * masked | size])
    elif size < 1 << 16:
        length = bytes([0x80 * masked | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([0x80 * masked | 127]) + size.to_bytes(8, "big")
    return first + length + b"\0\0\0\0" * masked + payload


class Attacker:
    """A raw connection to the socket of the evil sandbox."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Write, as fast as the other side takes it; errors mean that it hung up."""
        self.writer.write(data)
        await self.writer.drain()

    async def send_for_ever(self, data: bytes) -> None:
        """Until the other side hangs up."""
        while True:
            await self.send(data)
            await asyncio.sleep(0)

    async def shake_hands(self) -> None:
        """Become a WebSocket."""
        await self.send(HANDSHAKE)
        await self.reader.readuntil(b"\r\n\r\n")


class Plane:
    """The part of a control plane that sandboxes can reach, with one good sandbox and one evil."""

    def __init__(self, run_dir: Path) -> None:
        self.directory = Directory()
        self.violations: list[tuple[str, str]] = []
        self.violated = asyncio.Event()
        self.accept = Accept(run_dir, self.directory, verify=lambda pid, container_id: True)
        self.accept.on_violation = self._on_violation
        self.slowest_s = 0.0
        self.calls = 0
        self._called = asyncio.Condition()

    def _on_violation(self, sandbox_id: str, text: str) -> None:
        self.violations.append((sandbox_id, text))
        self.violated.set()

    async def call_for_ever(self, link: Link) -> None:
        """Call the good execd over and over, and keep the time of the slowest call."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            assert await link.call(MetricsRead(), Done) == Done()
            self.slowest_s = max(self.slowest_s, loop.time() - started)
            async with self._called:
                self.calls += 1
                self._called.notify_all()

    async def calls_reach(self, count: int) -> None:
        """Return when the good execd has answered so often."""
        async with self._called:
            await self._called.wait_for(lambda: self.calls >= count)

    async def dial(self) -> Attacker:
        """Connect as the evil sandbox."""
        return Attacker(*await asyncio.open_unix_connection(self.accept.socket_dir(EVIL) / SOCKET_NAME))

    async def evil_link(self) -> tuple[Attacker, Link]:
        """Connect as the evil sandbox, and say hello as if nothing was."""
        attacker = await self.dial()
        await attacker.shake_hands()
        await attacker.send(websocket(GREETING))
        return attacker, await self.directory.wait(EVIL, timeout_s=5)


async def _done(stream: Stream, _: Request) -> None:
    await stream.send(Done())


@contextlib.asynccontextmanager
async def plane_at_work() -> AsyncIterator[Plane]:
    """A plane whose good sandbox is called all the time; at the end it must still be well."""
    run_dir = Path(tempfile.mkdtemp(prefix="sandlot-"))
    plane = Plane(run_dir)
    plane.accept.prepare()
    for sandbox_id in (GOOD, EVIL):
        await plane.accept.listen(sandbox_id)
        plane.accept.expect(sandbox_id, "c")
    good_socket = plane.accept.socket_dir(GOOD) / SOCKET_NAME
    execd = asyncio.ensure_future(serve_forever(str(good_socket), Dispatcher({MetricsRead: _done})))
    link = await plane.directory.wait(GOOD, timeout_s=5)
    calling = asyncio.ensure_future(plane.call_for_ever(link))
    try:
        yield plane
        assert not calling.done()
        assert plane.directory.get(GOOD) is link
        async with asyncio.timeout(5):
            await plane.calls_reach(plane.calls + 3)
        assert plane.slowest_s < LATENCY_S
        assert all(sandbox_id == EVIL for sandbox_id, _ in plane.violations)
    finally:
        calling.cancel()
        execd.cancel()
        await asyncio.wait([calling, execd])
        await plane.accept.aclose()
        shutil.rmtree(run_dir)


def _memory_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


Attack = Callable[[Attacker], Awaitable[None]]


def _once(data: bytes) -> Attack:
    return lambda attacker: attacker.send(data)


def _for_ever(data: bytes) -> Attack:
    return lambda attacker: attacker.send_for_ever(data)


async def _fragments_of_one_byte(attacker: Attacker) -> None:
    await attacker.send(websocket(b"x", fin=False))
    await attacker.send_for_ever(websocket(b"x", opcode=0, fin=False) * 1000)


async def _credit(attacker: Attacker) -> None:
    await attacker.send_for_ever(websocket(encode(1, Kind.CREDIT, b"\0\0\0\1") * 1000))


async def _message_without_end(attacker: Attacker) -> None:
    await attacker.send_for_ever(websocket(encode(1, Kind.MESSAGE, PART, MORE)))


async def _data_without_credit(attacker: Attacker) -> None:
    await attacker.send_for_ever(websocket(encode(1, Kind.DATA, PART, 1)))


async def _tiny_data(attacker: Attacker) -> None:
    await attacker.send_for_ever(websocket(encode(1, Kind.DATA, b"x", 1) * 40_000))


async def _hello_again(attacker: Attacker) -> None:
    await attacker.send(websocket(GREETING))


BREACHES: dict[str, tuple[Attack, str]] = {
    "garbage": (_once(websocket(os.urandom(1000))), ""),
    "text": (_once(websocket(b"hello", opcode=1)), "text"),
    "text that is no UTF-8": (_once(websocket(b"\xff\xfe", opcode=1)), "text"),
    "an empty message": (_once(websocket(b"")), "nothing"),
    "a flood of empty messages": (_for_ever(websocket(b"") * 40_000), "nothing"),
    "a gigabyte, said": (
        _once(websocket(b"")[:1] + b"\xff" + (1 << 30).to_bytes(8, "big") + b"\0\0\0\0x"),
        "no WebSocket",
    ),
    "a message over the limit": (_once(websocket(bytes(MAX_CHUNK_BYTES + 1))), "no WebSocket"),
    "compressed": (_once(websocket(b"\xaa\x56\x2a", reserved=4)), "no WebSocket"),
    "not masked": (_once(websocket(GREETING, masked=False)), "no WebSocket"),
    "an unknown opcode": (_once(websocket(b"", opcode=11)), "no WebSocket"),
    "a ping": (_once(websocket(b"x", opcode=9)), "ping"),
    "a flood of pings": (_for_ever(websocket(b"x" * 125, opcode=9) * 2000), "ping"),
    "a pong for no ping": (_once(websocket(b"x", opcode=10)), "pong"),
    "fragments of one byte": (_fragments_of_one_byte, "fragment"),
    "an unknown stream": (_once(websocket(encode(7, Kind.DATA, b"x", 1))), "never opened"),
    "an oversized frame": (_once(websocket(encode(1, Kind.DATA, b"", 1)[:6] + b"\x7f\xff\xff\xff")), "kind 4"),
    "a second hello": (_hello_again, "second hello"),
    "a stream of its own": (_once(websocket(encode(9, Kind.OPEN, encode_message(MetricsRead())))), "execd opened"),
    "credit for nothing": (_credit, "credit of"),
    "a message without end": (_message_without_end, "16777216"),
    "data without credit": (_data_without_credit, "credit for"),
    "tiny data without credit": (_tiny_data, "credit for"),
    "a flood of ends": (_for_ever(websocket(encode(1, Kind.END) * 50_000)), "peer_done"),
    "a flood of resets": (_for_ever(websocket(encode(1, Kind.RESET, encode_message(PROBLEM)) * 10_000)), "closed"),
    "nothing that can be decoded": (_once(websocket(encode(1, Kind.MESSAGE, b"\x91" * 60_000))), "undecodable"),
}


async def _attack(name: str) -> None:
    attack, words = BREACHES[name]
    async with plane_at_work() as plane:
        before = _memory_bytes()
        attacker, link = await plane.evil_link()
        stream = await link.open(MetricsRead())
        attacking = asyncio.ensure_future(attack(attacker))
        async with asyncio.timeout(20):
            await plane.violated.wait()
        with contextlib.suppress(LinkLost, AgentError):
            while await stream.receive() is not None:  # what came before the breach
                pass
        assert plane.directory.get(EVIL) is None
        async with asyncio.timeout(1):  # no goodbye that gives a flood more time: the other side has hung up
            with contextlib.suppress(ConnectionError):
                await attacker.reader.read()
            await asyncio.wait([attacking])
        attacking.exception()
        attacker.writer.transport.abort()
        assert plane.violations[0][0] == EVIL
        assert words in plane.violations[0][1]
        assert _memory_bytes() - before < MEMORY_BYTES


@pytest.mark.parametrize("name", BREACHES)
async def test_a_breach_costs_its_own_link_and_nothing_else(name: str) -> None:
    """Its streams are lost, the violation is reported once with its reason, the neighbour is answered all the time."""
    await _attack(name)


@pytest.mark.parametrize("name", ["garbage", "a flood of pings", "tiny data without credit", "fragments of one byte"])
def test_the_same_on_the_loop_that_production_uses(name: str) -> None:
    """uvloop reads and buffers in its own way."""
    uvloop.run(_attack(name))


@pytest.mark.attack(
    "agent",
    "an agent cuts what it says into messages of one byte",
    "a few hundred of them are parsed before everybody else is served",
)
@pytest.mark.parametrize("is_bounded", [True, False])
async def test_messages_of_one_byte_take_turns(is_bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the bound, all that one read of the socket gives is parsed in one turn."""
    if not is_bounded:
        monkeypatch.setattr(websocket_module, "FRAMES_A_PIECE", 1 << 30)
    parsed = 0

    class Counted(LinkSocket):
        def process_event(self, event: Event) -> None:
            nonlocal parsed
            parsed += 1
            super().process_event(event)

    monkeypatch.setattr(listener_module, "LinkSocket", Counted)
    async with plane_at_work() as plane:
        attacker, link = await plane.evil_link()
        stream = await link.open(MetricsRead())
        said = encode(1, Kind.DATA, b"x" * 60_000, 1) + encode(1, Kind.END)
        with steps_of(lambda: parsed) as steps:
            sending = asyncio.ensure_future(attacker.send(b"".join(websocket(bytes([byte])) for byte in said)))
            item = await stream.receive()
            assert await stream.receive() is None
            await sending
        assert isinstance(item, Data)
        assert len(item.data) == 60_000
        assert parsed > 60_000
        assert (steps.largest <= 2 * websocket_module.FRAMES_A_PIECE) if is_bounded else (steps.largest > 5000)
        attacker.writer.transport.abort()


async def test_nothing_may_come_before_the_answer_to_the_handshake() -> None:
    """Where frames begin would not be known."""
    async with plane_at_work() as plane:
        attacker = await plane.dial()
        await attacker.send(HANDSHAKE + websocket(GREETING))
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                while await attacker.reader.read(1000):
                    pass
        assert plane.directory.get(EVIL) is None
        attacker.writer.transport.abort()


async def test_after_a_breach_an_honest_execd_may_come() -> None:
    """What is done about the sandbox is decided above the link; the socket still listens."""
    async with plane_at_work() as plane:
        attacker, _ = await plane.evil_link()
        await attacker.send(websocket(b"text", opcode=1))
        await plane.violated.wait()
        attacker.writer.transport.abort()
        honest, link = await plane.evil_link()
        assert plane.directory.get(EVIL) is link
        honest.writer.transport.abort()


async def test_one_byte_at_a_time_is_slow_but_no_breach() -> None:
    """The frames of a reply, cut anywhere, in messages cut anywhere."""
    async with plane_at_work() as plane:
        attacker, link = await plane.evil_link()
        stream = await link.open(MetricsRead())
        reply = encode(1, Kind.MESSAGE, encode_message(Done())) + encode(1, Kind.END)
        for byte in b"".join(websocket(bytes([byte])) for byte in reply):
            await attacker.send(bytes([byte]))
            await asyncio.sleep(0)
        assert await stream.expect_only(Done) == Done()
        assert plane.violations == []
        attacker.writer.transport.abort()


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"garbage\r\n\r\n", HANDSHAKE, HANDSHAKE + websocket(GREETING)[:9]])
async def test_whoever_connects_and_falls_silent_is_hung_up_on(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a handshake, half a hello: ten seconds, shortened here, and the connection is closed."""
    monkeypatch.setattr(accept_module, "HELLO_TIMEOUT_S", 0.3)
    async with plane_at_work() as plane:
        await plane.accept.close(EVIL)
        await plane.accept.listen(EVIL)
        plane.accept.expect(EVIL, "c")
        attacker = await plane.dial()
        await attacker.send(said)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                while await attacker.reader.read(1000):
                    pass
        assert plane.directory.get(EVIL) is None
        attacker.writer.transport.abort()


async def test_a_link_that_is_dropped_in_the_middle_of_a_frame_is_lost_not_a_violation() -> None:
    """A killed sandbox does that."""
    async with plane_at_work() as plane:
        attacker, link = await plane.evil_link()
        stream = await link.open(MetricsRead())
        await attacker.send(websocket(encode(1, Kind.DATA, b"x" * 100, 1))[:50])
        attacker.writer.transport.abort()
        with pytest.raises(LinkLost):
            await stream.receive()
        assert plane.violations == []


async def test_an_execd_that_reads_nothing_holds_a_few_megabytes_whatever_clients_ask() -> None:
    """A thousand requests of 60 kB, each given up: they wait for the socket, and are gone when they are cancelled."""
    async with plane_at_work() as plane:
        attacker, link = await plane.evil_link()
        attacker.writer.transport.pause_reading()
        before = _memory_bytes()
        for _ in range(1000):
            asking = asyncio.ensure_future(link.open(ContextRun("c", "x" * 60_000)))
            await asyncio.sleep(0)
            if asking.done():
                asking.result().close()
            else:
                asking.cancel()
                await asyncio.wait([asking])
        assert _memory_bytes() - before < 20 << 20
        assert link.statistics().streams == 0
        attacker.writer.transport.abort()


async def test_large_replies_that_no_client_reads_are_bounded() -> None:
    """The attacker is the sandbox and its clients: a hundred slow readers, as much as execd can send to each."""
    async with plane_at_work() as plane:
        attacker, link = await plane.evil_link()
        before = _memory_bytes()
        streams = [await link.open(MetricsRead()) for _ in range(100)]
        sending = asyncio.ensure_future(_send_large_replies(attacker, len(streams)))
        await asyncio.wait([sending], timeout=20)
        assert sending.done(), "the attacker is never stopped by the network here, only by credit"
        assert _memory_bytes() - before < 256 << 20
        for stream in streams:
            stream.close()
        attacker.writer.transport.abort()


async def _endless_output(stream: Stream, request: Request) -> None:
    await stream.send(ProcessState("entrypoint", "sh", 1, 0.0))
    while True:
        await stream.write(b"x" * 60_000, Channel.STDOUT)


async def _endless_words(stream: Stream, request: Request) -> None:
    while True:
        await stream.send(ProcessState("entrypoint", "sh", 1, 0.0))


@contextlib.asynccontextmanager
async def _evil_agent(plane: Plane, handler: Callable[[Stream, Request], Awaitable[None]]) -> AsyncIterator[Link]:
    """The evil sandbox's execd, which keeps the protocol and answers so to the question for output."""
    path = plane.accept.socket_dir(EVIL) / SOCKET_NAME
    serving = asyncio.ensure_future(serve_forever(str(path), Dispatcher({ProcessOutput: handler})))
    try:
        yield await plane.directory.wait(EVIL, timeout_s=5)
    finally:
        serving.cancel()
        await asyncio.wait([serving])


@pytest.mark.attack(
    "agent",
    "A hijacked agent answers the question for an entrypoint's output without end",
    "The server takes 4 MiB of it, or ends the answer at the first word that is no output",
)
@pytest.mark.parametrize("most_bytes", [MAX_OUTPUT_BYTES, 64 << 20], ids=["bounded", "unbounded"])
async def test_output_without_end(monkeypatch: pytest.MonkeyPatch, most_bytes: int) -> None:
    """With the bound lifted, the server takes as much as that allows."""
    monkeypatch.setattr(link_module, "MAX_OUTPUT_BYTES", most_bytes)
    async with plane_at_work() as plane, _evil_agent(plane, _endless_output) as link:
        async with asyncio.timeout(20):
            assert len((await read_output(link, "entrypoint")).data) == most_bytes
        assert link.statistics().streams == 0


async def test_output_that_is_none() -> None:
    """Words where bytes were due: the first one ends the answer."""
    async with plane_at_work() as plane, _evil_agent(plane, _endless_words) as link:
        async with asyncio.timeout(20):
            with pytest.raises(LinkLost, match="ProcessState where output was due"):
                await read_output(link, "entrypoint")


async def _send_large_replies(attacker: Attacker, count: int) -> None:
    """Send each stream as many parts of a large message as its credit allows, stream after stream."""
    window = INITIAL_WINDOW_BYTES // (MAX_PAYLOAD_BYTES + 10)
    for stream_id in range(1, count + 1):
        for _ in range(window):
            await attacker.send(websocket(encode(stream_id, Kind.MESSAGE, PART, MORE)))
            await asyncio.sleep(0)
