"""The two shells over a real WebSocket: Link at one end, execd's server and dispatcher at the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
from websockets.asyncio.client import unix_connect
from websockets.asyncio.server import ServerConnection, unix_serve

from controlplane.errors import AgentError, CapacityExhausted, InvalidRequest, LinkClosed, LinkLost, SandlotError
from controlplane.link import link as link_module
from controlplane.link.link import Link
from controlplane.link.stream import Stream
from execd import server
from execd.dispatch import Dispatcher, Handler
from execd.errors import ExecdError
from execd.wire import aio, connection
from execd.wire.aio import MAX_CHUNK_BYTES, Data
from execd.wire.frames import Channel, Kind, encode
from execd.wire.messages import (
    ContextError,
    ContextList,
    ContextRun,
    Done,
    FileRead,
    FileWrite,
    MetricsRead,
    ProcessList,
    ProcessSignal,
    ProcessState,
    Request,
    encode_message,
)
from tests.support.agent.execd_link import ControlPlaneEnd, collect, control_plane_of
from tests.support.agent.wire_pair import HELLO

MEBIBYTE = 1 << 20


async def _done(stream: aio.Stream, _: Request) -> None:
    await stream.send(Done())


async def _list(stream: aio.Stream, request: ProcessList) -> None:
    for number in range(int(request.id)):
        await stream.send(ProcessState(str(number), "true", number, 0.0))


async def _read(stream: aio.Stream, request: FileRead) -> None:
    assert request.length is not None
    await stream.write(bytes(request.length), Channel.STDOUT)


async def _swallow(stream: aio.Stream, _: FileWrite) -> None:
    total = 0
    while isinstance(item := await stream.receive(), Data):
        total += len(item.data)
    await stream.send(ProcessState("", str(total), 0, 0.0))


async def _echo(stream: aio.Stream, request: ContextRun) -> None:
    await stream.send(ContextError("echo", request.code))


class Fails:
    """Handlers that end in every bad way, by the signal's number."""

    async def __call__(self, stream: aio.Stream, request: ProcessSignal) -> None:
        match request.signal:
            case 1:
                raise ExecdError("process.not_found", f"no process {request.id}")
            case 2:
                raise ZeroDivisionError("a bug")
            case 3:
                stream.end()
                await stream.write(b"too late", Channel.STDOUT)
            case 4:
                await stream.send(Done())
                await stream.send(Done())
            case 5:
                raise ExecdError("file.not_found", "no file \udcff\udcfe")


HANDLERS: dict[type[Request], Handler] = {
    MetricsRead: _done,
    ProcessList: _list,
    FileRead: _read,
    FileWrite: _swallow,
    ContextRun: _echo,
    ProcessSignal: Fails(),
}


@pytest.fixture
async def end() -> AsyncIterator[ControlPlaneEnd]:
    """The control plane's end; execd dials it."""
    async with control_plane_of(HANDLERS) as end:
        yield end


async def _outcome(awaitable: Awaitable[object]) -> object:
    try:
        return await awaitable
    except SandlotError as error:
        return error


async def _drain(stream: Stream) -> int:
    """Read a stream to its end; return how many bytes of data it had."""
    total = 0
    while (item := await stream.receive()) is not None:
        assert isinstance(item, Data)
        total += len(item.data)
    return total


# -- requests


async def test_a_call_returns_its_reply_and_leaves_no_stream(link: Link) -> None:
    """Neither here nor in the statistics."""
    assert await link.call(MetricsRead(), Done) == Done()
    async with await link.open(ProcessList("3")) as stream:
        assert [state.id for state in await collect(stream, ProcessState)] == ["0", "1", "2"]
    assert link.statistics().streams == 0
    assert link.statistics().bytes_in > 0


async def test_two_hundred_calls_at_once(link: Link) -> None:
    """Each gets its own answer."""

    async def call(number: int) -> None:
        code = f"{number}-" * (number * 50)
        assert await link.call(ContextRun("c", code), ContextError) == ContextError("echo", code)

    await asyncio.gather(*(call(number) for number in range(200)))
    assert link.statistics().streams == 0


async def test_a_request_and_a_reply_of_eight_mebibytes(link: Link) -> None:
    """Larger than a frame, than a window, than a WebSocket message."""
    code = "x" * (8 * MEBIBYTE)
    assert await link.call(ContextRun("c", code), ContextError) == ContextError("echo", code)


async def test_data_streams_both_ways(link: Link) -> None:
    """32 MiB down and 32 MiB up, counted at the far end."""
    async with await link.open(FileRead("/f", length=32 * MEBIBYTE)) as stream:
        assert await _drain(stream) == 32 * MEBIBYTE
    async with await link.open(FileWrite("/f")) as stream:
        for _ in range(32):
            await stream.write(bytes(MEBIBYTE))
        stream.end()
        assert (await stream.expect_only(ProcessState)).command == str(32 * MEBIBYTE)


async def test_a_slow_reader_stops_only_its_own_stream(link: Link) -> None:
    """50 MiB pass on another stream, and small calls are answered, while one stream is read by nobody."""
    async with await link.open(FileRead("/slow", length=10 * MEBIBYTE)) as slow:
        async with await link.open(FileRead("/fast", length=50 * MEBIBYTE)) as fast:
            assert await _drain(fast) == 50 * MEBIBYTE
        assert await link.call(MetricsRead(), Done) == Done()
        assert await _drain(slow) == 10 * MEBIBYTE


async def test_cancelling_a_receive_loses_nothing(link: Link) -> None:
    """A reader that is interrupted over and over still gets every byte."""
    total = 0
    async with await link.open(FileRead("/f", length=3 * MEBIBYTE)) as stream:
        while True:
            waiting = asyncio.ensure_future(stream.receive())
            await asyncio.sleep(0)
            if not waiting.done():
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await waiting
                waiting = asyncio.ensure_future(stream.receive())
            item = await waiting
            if item is None:
                break
            assert isinstance(item, Data)
            total += len(item.data)
    assert total == 3 * MEBIBYTE


# -- failures


async def test_a_refused_request_is_an_agent_error_with_execds_code(link: Link) -> None:
    """The code is what the caller's error table is keyed by."""
    with pytest.raises(AgentError, match="no process p") as caught:
        await link.call(ProcessSignal("p", 1), Done)
    assert caught.value.code == "process.not_found"


async def test_a_bug_in_a_handler_is_an_internal_error_of_that_request(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    """Logged with its traceback; the link lives on."""
    with pytest.raises(AgentError, match="ZeroDivisionError") as caught:
        await link.call(ProcessSignal("p", 2), Done)
    assert caught.value.code == "internal"
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert await link.call(MetricsRead(), Done) == Done()


async def test_a_handler_that_writes_after_its_end_is_a_bug_that_shows(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and nobody waits for ever: the caller has read the end, the reset behind it does no harm."""
    with pytest.raises(LinkLost, match="NoneType where Done"):
        await link.call(ProcessSignal("p", 3), Done)
    assert "LocalProtocolError" in caplog.text
    assert await link.call(MetricsRead(), Done) == Done()


async def test_an_error_whose_text_is_no_utf8_still_arrives(link: Link) -> None:
    """File names may hold anything."""
    with pytest.raises(AgentError, match="udcff") as caught:
        await link.call(ProcessSignal("p", 5), Done)
    assert caught.value.code == "file.not_found"


async def test_a_request_that_execd_does_not_serve_fails_alone(link: Link) -> None:
    """An image without contexts, an older execd."""
    with pytest.raises(AgentError) as caught:
        await link.call(ContextList(), Done)
    assert caught.value.code == "request.unsupported"


async def test_two_replies_where_one_is_due_are_an_error(link: Link) -> None:
    """And so is another kind of reply."""
    with pytest.raises(LinkLost, match="more than one"):
        await link.call(ProcessSignal("p", 4), Done)
    with pytest.raises(LinkLost, match="where ContextError was due"):
        await link.call(MetricsRead(), ContextError)


async def test_a_request_that_is_too_large_is_the_callers_fault(link: Link) -> None:
    """It is refused before anything is sent."""
    before = link.statistics().bytes_out
    with pytest.raises(InvalidRequest):
        await link.open(ContextRun("c", "x" * (17 * MEBIBYTE)))
    assert link.statistics().bytes_out == before


async def test_more_streams_than_a_link_takes_mean_try_again_later(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is told so; when one stream has gone there is room."""
    monkeypatch.setattr(connection, "MAX_STREAMS", 3)
    streams = [await link.open(FileWrite("/f")) for _ in range(3)]
    with pytest.raises(CapacityExhausted):
        await link.open(MetricsRead())
    streams[0].close()
    assert await link.call(MetricsRead(), Done) == Done()


async def test_leaving_the_block_cancels_what_execd_does() -> None:
    """The handler's task is cancelled, and its stream is gone at both ends."""
    cancelled = asyncio.Event()
    started = asyncio.Event()

    async def forever(stream: aio.Stream, _: Request) -> None:
        started.set()
        try:
            await stream.receive()
        finally:
            cancelled.set()

    async with control_plane_of({MetricsRead: forever}) as end:
        link = await end.next_link()
        async with await link.open(MetricsRead()) as stream:
            await started.wait()
            reading = asyncio.ensure_future(_outcome(stream.receive()))
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await cancelled.wait()
        assert isinstance(await reading, LinkClosed)
        assert link.statistics().streams == 0


# -- the link itself


async def test_when_the_link_is_lost_everybody_is_woken_and_execd_dials_again() -> None:
    """Readers and writers get LinkLost, handlers are cancelled, and a new link works within a second."""
    cancelled: list[str] = []

    async def forever(stream: aio.Stream, request: FileRead) -> None:
        try:
            await stream.receive()
            await asyncio.Event().wait()
        finally:
            cancelled.append(request.path)

    async with control_plane_of({FileRead: forever, MetricsRead: _done}) as end:
        link = await end.next_link()
        streams = [await link.open(FileRead(str(number))) for number in range(3)]
        waiting = [asyncio.ensure_future(_outcome(stream.receive())) for stream in streams]
        waiting += [asyncio.ensure_future(_outcome(stream.write(bytes(MEBIBYTE)))) for stream in streams]
        await link.call(MetricsRead(), Done)
        link._websocket.transport.abort()
        outcomes = await asyncio.gather(*waiting)
        assert {type(outcome) for outcome in outcomes} == {LinkLost}
        again = await end.next_link()
        assert again is not link
        assert await again.call(MetricsRead(), Done) == Done()
        assert sorted(cancelled) == ["0", "1", "2"]
        with pytest.raises(LinkLost):
            await link.open(MetricsRead())


class Failures(logging.Handler):
    """Counts what execd logs; `enough` is set at the tenth."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.enough = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Count."""
        self.count += "link lost" in record.msg
        if self.count == 10:
            self.enough.set()


async def test_execd_redials_quickly_however_long_it_had_to_wait_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A link that worked resets the patience that grew before it."""
    monkeypatch.setattr(server, "LAST_RETRY_S", 0.3)
    failures, logger = Failures(), logging.getLogger("execd")
    logger.addHandler(failures)
    caplog.set_level(logging.INFO, "execd")
    times: list[float] = []
    linked = asyncio.Event()

    async def answer(websocket: ServerConnection) -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 2:
            linked.set()
            return
        link = Link("x", websocket)
        running = asyncio.ensure_future(link.run())
        await link.wait_hello()
        await link.call(MetricsRead(), Done)
        websocket.transport.abort()
        await running

    socket_path = str(tmp_path / "link.sock")
    dialling = asyncio.ensure_future(server.serve_forever(socket_path, Dispatcher(HANDLERS)))
    async with asyncio.timeout(30):
        await failures.enough.wait()  # nobody listened: by now the pause between two tries is at its longest
        async with unix_serve(answer, socket_path, compression=None, max_size=MAX_CHUNK_BYTES):
            await linked.wait()
    dialling.cancel()
    await asyncio.wait([dialling])
    logger.removeHandler(failures)
    assert times[1] - times[0] < 0.2


async def test_closing_a_link_to_a_peer_that_does_not_read_is_not_stopped_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paused sandbox must not hold up its own removal: two seconds for a goodbye, then the socket goes."""
    assert link_module.CLOSE_TIMEOUT_S == 2
    monkeypatch.setattr(link_module, "CLOSE_TIMEOUT_S", 0.2)
    links: asyncio.Queue[Link] = asyncio.Queue()

    async def answer(websocket: ServerConnection) -> None:
        link = Link("x", websocket)
        links.put_nowait(link)
        await link.run()

    socket_path = str(tmp_path / "link.sock")
    async with (
        unix_serve(answer, socket_path, compression=None, max_size=MAX_CHUNK_BYTES, close_timeout=60),
        unix_connect(socket_path, uri="ws://x/link", compression=None, ping_interval=None, max_queue=1) as peer,
    ):
        await peer.send(encode(0, Kind.HELLO, encode_message(HELLO)))
        link = await links.get()
        await link.wait_hello()
        peer.transport.pause_reading()
        streams = [await link.open(FileWrite("/f")) for _ in range(20)]
        writing = [asyncio.ensure_future(_outcome(stream.write(bytes(MEBIBYTE)))) for stream in streams]
        await asyncio.sleep(0)
        started = asyncio.get_running_loop().time()
        await link.aclose()
        assert asyncio.get_running_loop().time() - started < 1.5
        assert {type(outcome) for outcome in await asyncio.gather(*writing)} == {LinkLost}
        peer.transport.abort()
