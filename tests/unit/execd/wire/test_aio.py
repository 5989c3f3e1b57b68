"""The streams for asyncio, over a pipe in memory: wake-ups, cancelling, credit, and a link that ends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable

import pytest

from execd.wire import aio, connection
from execd.wire.aio import (
    MAX_CHUNK_BYTES,
    MAX_UNSENT_BYTES,
    TURN_BYTES,
    Data,
    Endpoint,
    Stream,
    StreamClosed,
    StreamLost,
    StreamReset,
)
from execd.wire.connection import MAX_MESSAGE_BYTES, MAX_STREAM_ID, MAX_STREAMS, Connection, Role
from execd.wire.errors import LocalProtocolError, MessageTooLarge, RemoteProtocolError, TooManyStreams
from execd.wire.frames import MAX_PAYLOAD_BYTES, Channel, Kind, encode
from execd.wire.messages import (
    ContextError,
    ContextRun,
    Done,
    Hello,
    MetricsRead,
    ProcessSignal,
    ProcessStarted,
    encode_message,
)
from tests.support.agent.carriers import Joined, MemoryCarrier, StuckCarrier, carrier_pair, joined, until_idle
from tests.support.agent.wire_pair import HELLO
from tests.support.turns import steps_of

REQUEST = ProcessSignal("p", 15)
WINDOW = 524288


@pytest.fixture(autouse=True)
async def nothing_unretrieved() -> AsyncIterator[None]:
    """No task and no future may end with an error that nobody sees."""
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    yield
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


@pytest.fixture
async def pair() -> AsyncIterator[Joined]:
    """Two endpoints joined in memory."""
    async with joined() as pair:
        yield pair


async def _outcome(awaitable: Awaitable[object]) -> object:
    """Return what it returned, or the error it raised."""
    try:
        return await awaitable
    except aio.WireError as error:
        return error


def _start(awaitable: Awaitable[object]) -> asyncio.Task[object]:
    return asyncio.ensure_future(_outcome(awaitable))


# -- a stream's life


async def test_a_request_is_served_and_leaves_nothing_behind(pair: Joined) -> None:
    """Request, data both ways, reply, both ends: the stream is gone at both endpoints."""
    ours, theirs = await pair.open(REQUEST)
    await ours.write(b"in", Channel.INPUT)
    ours.end()
    assert await theirs.receive() == Data(0, b"in")
    assert await theirs.receive() is None
    assert await theirs.receive() is None
    await theirs.write(b"out", Channel.STDOUT)
    await theirs.send(Done())
    theirs.end()
    assert [await ours.receive() for _ in range(4)] == [Data(1, b"out"), Done(), None, None]
    assert ours.ended
    await until_idle()
    for endpoint in (pair.control_plane, pair.agent):
        assert (endpoint.stream_count, endpoint._streams) == (0, {})
    ours.end()
    ours.reset("late", "harmless")


async def test_a_stream_that_ended_both_ways_is_forgotten_before_it_is_read(pair: Joined) -> None:
    """What has arrived can still be read; the endpoint keeps no stream for it."""
    ours, theirs = await pair.open(REQUEST)
    ours.end()
    await theirs.write(b"rest", Channel.STDOUT)
    theirs.end()
    await until_idle()
    assert (pair.control_plane._streams, pair.agent._streams) == ({}, {})
    assert [await ours.receive(), await ours.receive()] == [Data(1, b"rest"), None]


async def test_receive_nowait_returns_what_is_there(pair: Joined) -> None:
    """None stands for nothing yet, and for the end."""
    ours, theirs = await pair.open(REQUEST)
    assert ours.receive_nowait() is None
    assert not ours.ended
    await theirs.send(ProcessStarted(3))
    theirs.end()
    await until_idle()
    assert ours.receive_nowait() == ProcessStarted(3)
    assert ours.receive_nowait() is None
    assert ours.ended


async def test_a_request_of_one_mebibyte_arrives_whole(pair: Joined) -> None:
    """And a reply of eight comes back: larger than a frame, than the window, than a chunk."""
    request = ContextRun("c", "x" * (1 << 20))
    opening = asyncio.ensure_future(pair.control_plane.open(request))
    theirs, arrived = await pair.opened.get()
    assert arrived == request
    ours = await opening
    reply = ContextError("E", "y" * (8 << 20))
    sending = asyncio.ensure_future(theirs.send(reply))
    assert await ours.receive() == reply
    await sending
    assert pair.control_plane.connection.large_bytes == 0


async def test_a_message_that_no_peer_would_take_is_refused_here(pair: Joined) -> None:
    """The stream lives on, nothing was sent."""
    ours, theirs = await pair.open(REQUEST)
    with pytest.raises(MessageTooLarge):
        await theirs.send(ContextError("E", "x" * MAX_MESSAGE_BYTES))
    with pytest.raises(MessageTooLarge):
        await pair.control_plane.open(ContextRun("c", "x" * MAX_MESSAGE_BYTES))
    await theirs.send(Done())
    assert await ours.receive() == Done()


async def test_many_requests_at_once(pair: Joined) -> None:
    """Each of 500 gets its own answer."""

    async def serve() -> None:
        while True:
            stream, request = await pair.opened.get()
            assert isinstance(request, ProcessSignal)
            await stream.send(ProcessStarted(request.signal))
            stream.end()

    async def call(number: int) -> None:
        stream = await pair.control_plane.open(ProcessSignal("p", number))
        assert await stream.receive() == ProcessStarted(number)
        assert await stream.receive() is None
        stream.end()

    server = asyncio.ensure_future(serve())
    await asyncio.gather(*(call(number) for number in range(500)))
    server.cancel()
    await until_idle()
    assert (pair.control_plane.stream_count, pair.agent.stream_count) == (0, 0)


async def test_more_streams_than_a_link_takes_are_refused_here(pair: Joined) -> None:
    """The link lives on."""
    for _ in range(MAX_STREAMS):
        await pair.control_plane.open(REQUEST)
    with pytest.raises(TooManyStreams):
        await pair.control_plane.open(REQUEST)


# -- waiting and cancelling


async def test_cancelling_receive_loses_nothing(pair: Joined) -> None:
    """Neither before something arrives nor in the very turn in which it does."""
    ours, theirs = await pair.open(REQUEST)
    waiting = asyncio.ensure_future(ours.receive())
    await until_idle()
    waiting.cancel()
    await until_idle()
    await theirs.write(b"first", Channel.STDOUT)
    assert await ours.receive() == Data(1, b"first")
    waiting = asyncio.ensure_future(ours.receive())
    await until_idle()
    ours._arrived(ProcessStarted(1), 0)
    waiting.cancel()
    await until_idle()
    assert waiting.cancelled()
    assert await ours.receive() == ProcessStarted(1)


async def test_two_tasks_cannot_read_one_stream(pair: Joined) -> None:
    """The second is told so; the first is not disturbed."""
    ours, theirs = await pair.open(REQUEST)
    first = _start(ours.receive())
    await until_idle()
    with pytest.raises(LocalProtocolError, match="two tasks read"):
        await ours.receive()
    await theirs.send(Done())
    assert await first == Done()


async def test_two_tasks_cannot_wait_to_write_one_stream(pair: Joined) -> None:
    """The second is told so; the first is not disturbed."""
    ours, theirs = await pair.open(REQUEST)
    first = _start(theirs.write(b"x" * 1_000_000, Channel.STDOUT))
    await until_idle()
    with pytest.raises(LocalProtocolError, match="two tasks write"):
        await theirs.write(b"y" * 1_000_000, Channel.STDOUT)
    read = 0
    while read < 1_000_000:
        item = await ours.receive()
        assert isinstance(item, Data)
        read += len(item.data)
    assert await first is None


async def test_write_waits_for_credit_and_takes_it(pair: Joined) -> None:
    """It stops at a window, and goes on when half of it was read."""
    ours, theirs = await pair.open(REQUEST)
    writing = _start(theirs.write(b"x" * 1_000_000, Channel.STDOUT))
    await until_idle()
    assert sum(cost for _, cost in ours._inbox) > WINDOW - 100
    assert not writing.done()
    received = []
    while sum(map(len, received)) < 1_000_000:
        item = await ours.receive()
        assert isinstance(item, Data)
        received.append(item.data)
    assert b"".join(received) == b"x" * 1_000_000
    assert await writing is None


async def test_write_nowait_sends_what_there_is_credit_for(pair: Joined) -> None:
    """It returns how much that was, and wait_writable returns when there is room again."""
    ours, theirs = await pair.open(REQUEST)
    sent = theirs.write_nowait(b"x" * 1_000_000, Channel.STDOUT)
    assert WINDOW - 100 < sent < WINDOW
    assert theirs.write_nowait(b"more", Channel.STDOUT) == 0
    writable = _start(theirs.wait_writable())
    await until_idle()
    assert not writable.done()
    for _ in range(4):
        await ours.receive()
    assert await writable is None
    assert theirs.write_nowait(b"more", Channel.STDOUT) == 4


async def test_a_slow_reader_stops_only_its_own_stream(pair: Joined) -> None:
    """50 MiB pass on another stream meanwhile."""
    slow, slow_agent = await pair.open(REQUEST)
    fast, fast_agent = await pair.open(REQUEST)
    stopped = _start(slow_agent.write(b"s" * 1_000_000, Channel.STDOUT))
    moving = _start(fast_agent.write(bytes(50 << 20), Channel.STDOUT))
    moved = 0
    while moved < 50 << 20:
        item = await fast.receive()
        assert isinstance(item, Data)
        moved += len(item.data)
    assert await moving is None
    assert not stopped.done()
    slow.reset("test.over", "enough")
    assert isinstance(await stopped, StreamReset)


async def test_cancelling_a_large_send_halfway_resets_the_stream(pair: Joined) -> None:
    """Half a message can be followed by nothing: the peer hears why, and the link lives on."""
    ours, theirs = await pair.open(REQUEST)
    await theirs.write(b"unread", Channel.STDOUT)  # so that the parts get no credit
    sending = asyncio.ensure_future(theirs.send(ContextError("E", "x" * 1_000_000)))
    await until_idle()
    sending.cancel()
    await until_idle()
    assert await ours.receive() == Data(1, b"unread")
    with pytest.raises(StreamReset, match=r"stream\.abandoned"):
        await ours.receive()
    theirs.end()
    again, again_agent = await pair.open(REQUEST)
    await again_agent.send(Done())
    assert await again.receive() == Done()


async def test_cancelling_a_send_that_has_not_begun_is_harmless(pair: Joined) -> None:
    """The stream can still be used."""
    ours, theirs = await pair.open(REQUEST)
    while theirs.write_nowait(b"x" * 1000, Channel.STDOUT):
        pass
    sending = asyncio.ensure_future(theirs.send(ContextError("E", "x" * 1_000_000)))
    await until_idle()
    sending.cancel()
    await until_idle()
    theirs.end()
    while (item := await ours.receive()) is not None:
        assert isinstance(item, Data)


async def test_cancelling_open_leaves_no_stream(pair: Joined) -> None:
    """A request that is half sent is taken back."""
    blocker, _ = await pair.open(REQUEST)
    opening = asyncio.ensure_future(pair.control_plane.open(ContextRun("c", "x" * (4 << 20))))
    await asyncio.sleep(0)  # the first window is out, its credit is not back yet
    opening.cancel()
    await until_idle()
    assert opening.cancelled()
    assert pair.opened.empty()
    blocker.reset("test.over", "")
    await until_idle()
    assert (pair.control_plane.stream_count, pair.agent.stream_count) == (0, 0)


# -- resets


async def test_a_reset_wakes_the_peers_reader_and_writer(pair: Joined) -> None:
    """Both learn why; what had arrived before is returned first; on_broken is called once."""
    ours, theirs = await pair.open(REQUEST)
    calls = []
    theirs.on_broken(lambda: calls.append("broken"))
    reading, writing = _start(theirs.receive()), _start(theirs.write(b"x" * 1_000_000, Channel.STDOUT))
    await until_idle()
    ours.reset("test.over", "enough")
    for outcome in (await reading, await writing):
        assert isinstance(outcome, StreamReset)
        assert (outcome.problem.code, outcome.problem.message) == ("test.over", "enough")
    assert calls == ["broken"]
    theirs.on_broken(lambda: calls.append("at once"))
    assert calls == ["broken", "at once"]
    assert (pair.agent.stream_count, pair.agent._streams) == (0, {})


async def test_what_arrived_before_a_reset_is_returned_first(pair: Joined) -> None:
    """Then the error, every time."""
    ours, theirs = await pair.open(REQUEST)
    await theirs.write(b"out", Channel.STDOUT)
    theirs.reset("process.failed", "it did")
    await until_idle()
    assert await ours.receive() == Data(1, b"out")
    for _ in range(2):
        with pytest.raises(StreamReset, match="it did"):
            await ours.receive()
    with pytest.raises(StreamReset):
        await ours.write(b"x", Channel.INPUT)


async def test_a_reset_right_behind_the_end_is_heard_too(pair: Joined) -> None:
    """Both in one chunk: the reader has its end, and closing the stream afterwards is harmless."""
    ours, theirs = await pair.open(REQUEST)
    broken: list[str] = []
    ours.on_broken(lambda: broken.append("broken"))
    theirs.end()
    theirs.reset("process.failed", "after all")
    await until_idle()
    assert await ours.receive() is None
    assert broken == ["broken"]
    ours.end()
    assert (pair.control_plane._streams, pair.agent._streams) == ({}, {})


async def test_a_reset_wakes_this_sides_reader_and_writer_too(pair: Joined) -> None:
    """One task closes a stream that another reads: that one must not wait for ever."""
    ours, theirs = await pair.open(REQUEST)
    reading, writing = _start(ours.receive()), _start(ours.write(b"x" * 1_000_000, Channel.INPUT))
    await until_idle()
    ours.reset("test.over", "")
    assert isinstance(await reading, StreamClosed)
    assert isinstance(await writing, StreamClosed)
    await until_idle()
    # What had arrived over there is read first, then the reset.
    while isinstance(outcome := await _outcome(theirs.receive()), Data):
        pass
    assert isinstance(outcome, StreamReset)


async def test_a_reset_drops_what_was_not_read(pair: Joined) -> None:
    """Also after the peer's own reset: a large message is not kept by a stream that nobody reads any more."""
    ours, theirs = await pair.open(REQUEST)
    await theirs.send(ContextError("E", "x" * 1_000_000))
    theirs.reset("process.failed", "it did")
    await until_idle()
    assert pair.control_plane.connection.large_bytes > 900_000
    ours.reset("test.over", "")
    assert pair.control_plane.connection.large_bytes == 0
    assert ours.receive_nowait() is None


async def test_a_problem_with_any_text_reaches_the_peer(pair: Joined) -> None:
    """A file name that is no UTF-8, and a text far too long."""
    ours, theirs = await pair.open(REQUEST)
    theirs.reset("file.not_found", "\udcff" + "x" * 100_000)
    with pytest.raises(StreamReset) as caught:
        await ours.receive()
    assert caught.value.problem.message.startswith("\\udcffxxx")
    assert len(caught.value.problem.message) == 1000


# -- the link ends


async def test_a_lost_link_wakes_everybody() -> None:
    """Readers, writers, and those who wait for room; whoever comes later is told at once."""
    async with joined() as pair:
        streams = [await pair.open(REQUEST) for _ in range(3)]
        reading = [_start(stream.receive()) for both in streams for stream in both]
        writing = [_start(ours.write(b"x" * 1_000_000, Channel.INPUT)) for ours, _ in streams]
        broken: list[int] = []
        for number, (_, theirs) in enumerate(streams):
            theirs.on_broken(lambda number=number: broken.append(number))
        await asyncio.sleep(0)
        await pair.lose()
        outcomes = await asyncio.gather(*reading, *writing)
    assert {type(outcome) for outcome in outcomes} <= {StreamLost, Data}
    assert sum(isinstance(outcome, StreamLost) for outcome in outcomes) >= 6
    assert broken == [0, 1, 2]
    with pytest.raises(StreamLost):
        await pair.control_plane.open(REQUEST)
    ours, _ = streams[0]
    ours.end()
    ours.reset("late", "harmless")
    with pytest.raises(StreamLost):
        await ours.write(b"x", Channel.INPUT)


async def test_whoever_waits_for_hello_learns_that_the_link_is_lost() -> None:
    """An error, not a cancellation: the waiting task goes on."""
    near, far = carrier_pair()
    endpoint = Endpoint(Connection(Role.CONTROL_PLANE, HELLO))
    waiting = [_start(endpoint.wait_hello()) for _ in range(2)]
    await asyncio.sleep(0)
    await far.close()
    await endpoint.run(near)
    assert [type(outcome) for outcome in await asyncio.gather(*waiting)] == [StreamLost, StreamLost]


async def test_cancelling_one_who_waits_for_hello_leaves_the_others() -> None:
    """And the hello itself."""
    near, far = carrier_pair()
    endpoint = Endpoint(Connection(Role.CONTROL_PLANE, HELLO))
    running = asyncio.ensure_future(endpoint.run(near))
    first, second = asyncio.ensure_future(endpoint.wait_hello()), asyncio.ensure_future(endpoint.wait_hello())
    await asyncio.sleep(0)
    first.cancel()
    await far.send(encode(0, Kind.HELLO, encode_message(HELLO)))
    assert await second == HELLO
    assert await endpoint.wait_hello() == HELLO
    await far.close()
    await running


async def test_cancelling_run_loses_the_streams_and_ends_the_writer() -> None:
    """Nothing of it goes on."""
    pair = Joined()
    running = [
        asyncio.ensure_future(pair.control_plane.run(pair.near)),
        asyncio.ensure_future(pair.agent.run(pair.far)),
    ]
    await pair.control_plane.wait_hello()
    ours, _ = await pair.open(REQUEST)
    before = asyncio.all_tasks()
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    assert all(task.cancelled() for task in running)
    with pytest.raises(StreamLost):
        await ours.receive()
    assert len(asyncio.all_tasks()) == len(before) - 4


@pytest.mark.parametrize("message", ["text", b""])
async def test_text_and_empty_messages_are_a_breach(message: str | bytes) -> None:
    """execd never sends them."""
    near, far = carrier_pair()
    await far.send(message)
    with pytest.raises(RemoteProtocolError, match="text, or is empty"):
        await Endpoint(Connection(Role.CONTROL_PLANE, HELLO)).run(near)


async def test_a_breach_ends_run_and_what_came_before_it_is_delivered() -> None:
    """The reply that came in the same chunk reaches its reader; then the stream is lost."""
    near, far = carrier_pair()
    endpoint = Endpoint(Connection(Role.CONTROL_PLANE, HELLO))
    running = _start(endpoint.run(near))
    await far.send(encode(0, Kind.HELLO, encode_message(HELLO)))
    await endpoint.wait_hello()
    stream = await endpoint.open(REQUEST)
    await far.send(encode(1, Kind.MESSAGE, encode_message(ProcessStarted(5))) + encode(9, Kind.END))
    assert isinstance(await running, RemoteProtocolError)
    assert await stream.receive() == ProcessStarted(5)
    with pytest.raises(StreamLost):
        await stream.receive()


class BrokenCarrier(MemoryCarrier):
    """Its send fails; its reader would wait for ever."""

    async def send(self, message: bytes | str) -> None:
        """Fail."""
        raise OSError("no more")


async def test_a_writer_that_fails_ends_run() -> None:
    """A link that can only read is no link: run() raises what the writer met, after the reader has read all."""
    near, far = carrier_pair()
    await far.send(encode(0, Kind.HELLO, encode_message(HELLO)))
    endpoint = Endpoint(Connection(Role.CONTROL_PLANE, HELLO))
    with pytest.raises(OSError, match="no more"):
        await endpoint.run(BrokenCarrier(near._incoming, near._outgoing))
    assert await endpoint.wait_hello() == HELLO


async def test_a_worn_out_link_is_closed_so_that_a_new_one_comes(pair: Joined) -> None:
    """After four billion streams there are no ids left."""
    pair.control_plane.connection._last_stream_id = MAX_STREAM_ID
    with pytest.raises(StreamLost, match="worn out"):
        await pair.control_plane.open(REQUEST)
    await until_idle()
    with pytest.raises(StreamLost, match="gone"):
        await pair.control_plane.open(REQUEST)


# -- a peer that does not read, and one that never stops


@pytest.fixture
async def stuck() -> AsyncIterator[tuple[StuckCarrier, Endpoint]]:
    """A control plane whose peer has said hello and reads nothing."""
    carrier = StuckCarrier()
    carrier.said.put_nowait(encode(0, Kind.HELLO, encode_message(HELLO)))
    endpoint = Endpoint(Connection(Role.CONTROL_PLANE, HELLO))
    running = asyncio.ensure_future(endpoint.run(carrier))
    await endpoint.wait_hello()
    yield carrier, endpoint
    await carrier.close()
    await running


async def test_requests_to_a_peer_that_does_not_read_wait_and_do_not_pile_up(
    stuck: tuple[StuckCarrier, Endpoint],
) -> None:
    """A client may ask and go away a thousand times: what waits for the socket stays near a megabyte."""
    carrier, endpoint = stuck
    request = ContextRun("c", "x" * 60_000)
    for _ in range(1000):
        asking = asyncio.ensure_future(endpoint.open(request))
        await asyncio.sleep(0)
        if asking.done():
            asking.result().reset("client.gone", "timeout")
        else:
            asking.cancel()
    await until_idle()
    assert endpoint.connection.unsent_bytes < MAX_UNSENT_BYTES + MAX_PAYLOAD_BYTES + 100_000
    assert sum(map(len, carrier.taken)) < MAX_CHUNK_BYTES
    assert endpoint._blocked == {}
    assert endpoint.stream_count == 0


async def test_writers_to_a_peer_that_does_not_read_wait_together(stuck: tuple[StuckCarrier, Endpoint]) -> None:
    """Each has credit of its own; the link's limit holds for all. When the peer reads again all go on."""
    carrier, endpoint = stuck
    streams = [await endpoint.open(REQUEST) for _ in range(20)]
    writing = [_start(stream.write(b"x" * 200_000, Channel.INPUT)) for stream in streams]
    await until_idle()
    assert not all(task.done() for task in writing)
    assert endpoint.connection.unsent_bytes < MAX_UNSENT_BYTES + MAX_PAYLOAD_BYTES + 20
    late = _start(endpoint.open(REQUEST))
    await until_idle()
    assert not late.done()
    carrier.unstuck.set()
    assert await asyncio.gather(*writing) == [None] * 20
    assert isinstance(await late, Stream)
    await until_idle()
    assert sum(map(len, carrier.taken)) > 20 * 200_000
    assert max(map(len, carrier.taken)) <= MAX_CHUNK_BYTES


async def test_whoever_waits_for_a_stuck_peer_is_woken_when_the_link_is_lost() -> None:
    """Openers and writers alike."""
    carrier = StuckCarrier()
    carrier.said.put_nowait(encode(0, Kind.HELLO, encode_message(HELLO)))
    endpoint = Endpoint(Connection(Role.CONTROL_PLANE, HELLO))
    running = asyncio.ensure_future(endpoint.run(carrier))
    await endpoint.wait_hello()
    streams = [await endpoint.open(REQUEST) for _ in range(10)]
    waiting = [_start(stream.write(b"x" * 200_000, Channel.INPUT)) for stream in streams]
    await until_idle()
    waiting.append(_start(endpoint.open(REQUEST)))
    await until_idle()
    await carrier.close()
    await running
    outcomes = await asyncio.gather(*waiting)
    assert isinstance(outcomes[-1], StreamLost)
    assert sum(isinstance(outcome, StreamLost) for outcome in outcomes) >= 5


class EndlessCarrier(StuckCarrier):
    """Always has another message ready, and never waits."""

    def __init__(self, message: bytes) -> None:
        super().__init__()
        self.given = 0
        self._message = message

    async def __aiter__(self) -> AsyncIterator[bytes | str]:
        yield encode(0, Kind.HELLO, encode_message(Hello(1, "endless")))
        while True:
            self.given += 1
            yield self._message


_END = encode(1, Kind.END)


@pytest.mark.parametrize("message", [_END, _END * 1000], ids=["small", "large"])
async def test_a_peer_that_never_pauses_leaves_the_loop_to_others(message: bytes) -> None:
    """Between two turns of the loop no more than 64 KiB are read, overhead counted."""
    carrier = EndlessCarrier(message)
    endpoint = Endpoint(Connection(Role.AGENT, HELLO))
    endpoint.connection._last_stream_id = 1  # a stream that is closed here
    endpoint.connection._late_bytes = 1 << 30
    running = asyncio.ensure_future(endpoint.run(carrier))
    await endpoint.wait_hello()
    for _ in range(20):
        before = carrier.given
        await asyncio.sleep(0)
        assert (carrier.given - before) * len(message) <= TURN_BYTES + len(message)
        assert carrier.given - before <= 250
    assert carrier.given > 4
    running.cancel()
    await asyncio.wait([running])


@pytest.mark.attack(
    "agent",
    "an agent says fifty thousand frames in one message",
    "everybody else is served after every 256 of them",
)
@pytest.mark.parametrize("is_bounded", [True, False])
async def test_a_message_of_many_frames_takes_turns(is_bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the bound, they are read in one turn."""
    if not is_bounded:
        monkeypatch.setattr(connection, "FRAMES_A_STEP", 1 << 30)
    carrier = EndlessCarrier(_END * 50_000)
    endpoint = Endpoint(Connection(Role.AGENT, HELLO))
    endpoint.connection._last_stream_id = 1
    endpoint.connection._late_bytes = 1 << 30
    with steps_of(lambda: (1 << 30) - endpoint.connection._late_bytes) as steps:
        running = asyncio.ensure_future(endpoint.run(carrier))
        for _ in range(1000 if is_bounded else 4):
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])

    frames = steps.largest // len(_END)
    assert (frames <= connection.FRAMES_A_STEP) if is_bounded else (frames >= 50_000)


async def test_statistics_of_bytes_are_those_of_the_carrier(pair: Joined) -> None:
    """What one counts out the other counts in."""
    ours, theirs = await pair.open(MetricsRead())
    await theirs.write(b"x" * 1000, Channel.STDOUT)
    await ours.receive()
    await until_idle()
    assert pair.agent.bytes_out == pair.control_plane.bytes_in > 1000
    assert pair.control_plane.bytes_out == pair.agent.bytes_in > 20
