"""The multiplexer: what it says and hears, byte by byte, and every rule that a peer may break."""

from __future__ import annotations

import pytest

from execd.wire.connection import MAX_MESSAGE_BYTES, MAX_STREAM_ID, MAX_STREAMS, Connection, Role
from execd.wire.errors import LocalProtocolError, RemoteProtocolError, TooManyStreams
from execd.wire.events import (
    CreditReceived,
    DataReceived,
    EndReceived,
    HelloReceived,
    MessageReceived,
    ResetReceived,
    StreamOpened,
)
from execd.wire.flow import LATE_CONTROL_BYTES, MAX_LARGE_BYTES
from execd.wire.frames import HEADER_BYTES, MAX_PAYLOAD_BYTES, MORE, Channel, Kind, encode
from execd.wire.messages import (
    GENERATION,
    ContextError,
    ContextRun,
    Done,
    Hello,
    MetricsRead,
    Problem,
    ProcessSignal,
    ProcessStarted,
    encode_message,
)
from tests.support.agent.wire_pair import HELLO, PROBLEM, Pair, frames_of, greeted

REQUEST = ProcessSignal("p", 15)
PART = b"\xa0" * MAX_PAYLOAD_BYTES
WINDOW = 524288


def _pieces(payload: bytes) -> list[bytes]:
    return [payload[at : at + MAX_PAYLOAD_BYTES] for at in range(0, len(payload), MAX_PAYLOAD_BYTES)]


# -- hello


def test_hello_is_said_before_anything_was_heard() -> None:
    """Neither side waits for the other."""
    assert frames_of(Connection(Role.AGENT, HELLO).data_to_send()) == [(0, Kind.HELLO, 0, encode_message(HELLO))]


def test_the_lower_generation_rules() -> None:
    """A newer peer is welcome; what it can do more is not used."""
    connection = Connection(Role.CONTROL_PLANE, HELLO)
    connection.receive_data(encode(0, Kind.HELLO, encode_message(Hello(GENERATION + 5, "9.9.9"))))
    assert connection.events_received() == [HelloReceived(Hello(GENERATION + 5, "9.9.9"))]
    assert connection.generation == GENERATION


def test_nothing_may_come_before_hello() -> None:
    """Data before hello is a breach."""
    for frame in (encode(0, Kind.END), encode(1, Kind.DATA, b"x", 1), encode(1, Kind.HELLO, encode_message(HELLO))):
        with pytest.raises(RemoteProtocolError, match="not a hello"):
            Connection(Role.CONTROL_PLANE, HELLO).receive_data(frame)


def test_no_stream_can_be_opened_before_the_peers_hello() -> None:
    """We would not know what it understands."""
    with pytest.raises(LocalProtocolError, match="no hello"):
        Connection(Role.CONTROL_PLANE, HELLO).open(encode_message(REQUEST))


# -- a stream's life


def test_a_request_and_its_reply_byte_by_byte() -> None:
    """OPEN goes out, MESSAGE and END come back, END goes out: the stream is gone at both ends."""
    pair = Pair()
    stream_id = pair.control_plane.open(encode_message(REQUEST))
    said = pair.control_plane.data_to_send()
    assert said == b"\x00\x00\x00\x01\x02\x00\x00\x00\x00\x14" + encode_message(REQUEST)
    pair.agent.receive_data(said)
    assert pair.agent.events_received() == [StreamOpened(1, REQUEST, 30)]
    pair.agent.send_message(stream_id, encode_message(Done()))
    pair.agent.send_end(stream_id)
    assert pair.to_control_plane() == [MessageReceived(1, Done(), 16), EndReceived(1)]
    pair.control_plane.send_end(stream_id)
    assert pair.control_plane.stream_count == 0
    assert pair.to_agent() == [EndReceived(1)]
    assert pair.agent.stream_count == 0


def test_stream_ids_count_from_one_and_never_come_again() -> None:
    """A late frame of an old stream can never hit a new one."""
    pair = Pair()
    for expected in (1, 2, 3):
        stream_id = pair.open(REQUEST)
        assert stream_id == expected
        pair.control_plane.send_reset(stream_id, PROBLEM)
        pair.exchange()


def test_data_keeps_its_channel_and_order() -> None:
    """Both channels of execd share one stream, in order."""
    pair = Pair()
    stream_id = pair.open(REQUEST)
    pair.agent.send_data(stream_id, b"out", Channel.STDOUT)
    pair.agent.send_data(stream_id, memoryview(b"err"), Channel.STDERR)
    pair.control_plane.send_data(stream_id, b"in", Channel.INPUT)
    assert pair.to_agent() == [DataReceived(1, 0, b"in", 12)]
    assert pair.to_control_plane() == [DataReceived(1, 1, b"out", 13), DataReceived(1, 2, b"err", 13)]


def test_a_reset_ends_both_ways_at_once() -> None:
    """Nothing can be sent on it any more, at either end, and a second reset is harmless."""
    pair = Pair()
    stream_id = pair.open(REQUEST)
    pair.agent.send_reset(stream_id, Problem("file.not_found", "no such file"))
    assert pair.to_control_plane() == [ResetReceived(1, Problem("file.not_found", "no such file"))]
    assert (pair.agent.stream_count, pair.control_plane.stream_count) == (0, 0)
    pair.control_plane.send_reset(stream_id, PROBLEM)
    assert pair.control_plane.data_to_send() == b""
    with pytest.raises(LocalProtocolError, match="closed"):
        pair.control_plane.send_data(stream_id, b"x", Channel.INPUT)


def test_what_was_on_its_way_when_we_reset_is_dropped() -> None:
    """The peer could not know; it is not punished and we hear nothing of it."""
    pair = Pair()
    stream_id = pair.open(REQUEST)
    pair.agent.send_data(stream_id, b"late", Channel.STDOUT)
    pair.agent.send_message(stream_id, encode_message(Done()))
    pair.agent.send_end(stream_id)
    pair.control_plane.send_reset(stream_id, PROBLEM)
    assert pair.to_control_plane() == []
    assert pair.to_agent() == [ResetReceived(1, PROBLEM)]


def test_an_error_on_our_side_sends_nothing() -> None:
    """A bug here must not become a breach there."""
    pair = Pair()
    stream_id = pair.open(REQUEST)
    pair.agent.send_end(stream_id)
    pair.agent.data_to_send()
    with pytest.raises(LocalProtocolError, match="local_done"):
        pair.agent.send_message(stream_id, encode_message(Done()))
    with pytest.raises(LocalProtocolError, match="local_done"):
        pair.agent.send_end(stream_id)
    with pytest.raises(LocalProtocolError, match="only the peer sends"):
        pair.agent.send_data(stream_id, b"x", Channel.INPUT)
    with pytest.raises(LocalProtocolError, match="only the control plane"):
        pair.agent.open(encode_message(REQUEST))
    for size in (0, MAX_PAYLOAD_BYTES + 1):
        with pytest.raises(LocalProtocolError, match="not a payload"):
            pair.control_plane.send_data(stream_id, b"x" * size, Channel.INPUT)
    with pytest.raises(LocalProtocolError, match="not a payload"):
        pair.control_plane.send_message(stream_id, b"short", more=True)
    assert pair.agent.data_to_send() + pair.control_plane.data_to_send() == b""
    assert pair.control_plane.sendable(stream_id) == MAX_PAYLOAD_BYTES


def test_a_link_takes_4096_streams_and_not_one_more() -> None:
    """Close one, and there is room again."""
    pair = Pair()
    for _ in range(MAX_STREAMS):
        pair.control_plane.open(encode_message(REQUEST))
    assert MAX_STREAMS == 4096
    with pytest.raises(TooManyStreams):
        pair.control_plane.open(encode_message(REQUEST))
    pair.control_plane.send_reset(7, PROBLEM)
    pair.control_plane.open(encode_message(REQUEST))
    assert len(pair.to_agent()) == MAX_STREAMS + 2


def test_a_link_whose_ids_are_used_up_says_so() -> None:
    """After four billion streams: the shell makes a new link then."""
    connection = greeted(Role.CONTROL_PLANE)
    connection._last_stream_id = MAX_STREAM_ID - 1
    assert not connection.worn_out
    assert connection.open(encode_message(REQUEST)) == MAX_STREAM_ID
    assert connection.worn_out
    with pytest.raises(LocalProtocolError, match="used up"):
        connection.open(encode_message(REQUEST))


# -- sending


def test_unsent_bytes_counts_what_waits() -> None:
    """The shell stops writers by it."""
    pair = Pair()
    stream_id = pair.open(REQUEST)
    pair.agent.send_data(stream_id, b"x" * 1000, Channel.STDOUT)
    pair.agent.send_end(stream_id)
    assert pair.agent.unsent_bytes == 1020
    assert len(pair.agent.data_to_send()) == 1020
    assert pair.agent.unsent_bytes == 0


def test_data_to_send_with_a_limit_gives_whole_frames() -> None:
    """As many as fit, and at least one: no frame is cut, none is lost."""
    pair = Pair()
    stream_id = pair.open(REQUEST)
    for size in (50, 40, 30, 200, 10):
        pair.agent.send_data(stream_id, b"x" * size, Channel.STDOUT)
    sizes = []
    while data := pair.agent.data_to_send(120):
        sizes.append([len(frame.payload) for frame in frames_of(data)])
    assert sizes == [[50, 40], [30], [200], [10]]
    assert pair.agent.unsent_bytes == 0


def test_a_buffer_may_be_used_again_at_once() -> None:
    """What may change is copied when it is sent; bytes are not."""
    pair = Pair()
    stream_id = pair.open(REQUEST)
    buffer = bytearray(b"first")
    pair.agent.send_data(stream_id, memoryview(buffer), Channel.STDOUT)
    buffer[:] = b"later"
    assert pair.to_control_plane() == [DataReceived(stream_id, 1, b"first", 15)]


# -- credit


def test_a_window_is_used_to_the_last_byte_and_comes_back_when_half_is_taken_in() -> None:
    """Eight full frames, but for their headers; nothing more until the peer has read."""
    pair = Pair()
    stream_id = pair.open(REQUEST)
    sent = 0
    while room := pair.agent.sendable(stream_id):
        pair.agent.send_data(stream_id, b"x" * room, Channel.STDOUT)
        sent += room + HEADER_BYTES
    # The last bytes of a window that are too few for a header and a byte stay.
    assert WINDOW - HEADER_BYTES <= sent <= WINDOW
    events = pair.to_control_plane()
    assert [len(event.data) for event in events][:7] == [MAX_PAYLOAD_BYTES] * 7
    for event in events[:3]:
        pair.control_plane.consumed(stream_id, event.cost)
    assert pair.control_plane.data_to_send() == b""
    pair.control_plane.consumed(stream_id, events[3].cost)
    assert pair.to_agent() == [CreditReceived(stream_id)]
    assert pair.agent.sendable(stream_id) == MAX_PAYLOAD_BYTES


def test_a_full_stream_stops_no_other() -> None:
    """50 MiB pass beside a stream that nobody reads."""
    pair = Pair()
    slow, fast = pair.open(REQUEST), pair.open(REQUEST)
    while room := pair.agent.sendable(slow):
        pair.agent.send_data(slow, b"s" * room, Channel.STDOUT)
    moved = 0
    while moved < 50 << 20:
        room = pair.agent.sendable(fast)
        assert room > 0
        pair.agent.send_data(fast, b"f" * room, Channel.STDOUT)
        for event in pair.to_control_plane():
            if event.stream_id == fast:
                pair.control_plane.consumed(fast, event.cost)
                moved += len(event.data)
        pair.to_agent()
    assert pair.agent.sendable(slow) == 0


def test_taking_in_more_than_there_was_is_our_mistake() -> None:
    """It would give credit for nothing."""
    pair = Pair()
    stream_id = pair.open(REQUEST)
    pair.agent.send_data(stream_id, b"x" * 10, Channel.STDOUT)
    (event,) = pair.to_control_plane()
    pair.control_plane.consumed(stream_id, event.cost)
    with pytest.raises(LocalProtocolError, match="consumed"):
        pair.control_plane.consumed(stream_id, 1)


def test_no_credit_is_given_to_a_peer_that_has_ended() -> None:
    """It has nothing more to send."""
    pair = Pair()
    stream_id = pair.open(REQUEST)
    for _ in range(7):
        pair.agent.send_data(stream_id, b"x" * MAX_PAYLOAD_BYTES, Channel.STDOUT)
    pair.agent.send_end(stream_id)
    for event in pair.to_control_plane()[:7]:
        pair.control_plane.consumed(stream_id, event.cost)
    assert pair.control_plane.data_to_send() == b""


# -- messages larger than a frame


@pytest.mark.parametrize("size", [65_536, 65_537, 131_072, 524_288, 1_000_000, MAX_MESSAGE_BYTES - 32])
def test_a_message_may_be_larger_than_a_frame_and_than_the_window(size: int) -> None:
    """A request of 1 MB and a reply of 1 MB, whole."""
    pair = Pair()
    request = ContextRun("c", "x" * size)
    first, *rest = _pieces(encode_message(request))
    stream_id = pair.control_plane.open(first, more=bool(rest))
    events = pair.exchange()
    for at, piece in enumerate(rest):
        assert pair.control_plane.sendable(stream_id) >= len(piece)
        pair.control_plane.send_message(stream_id, piece, more=at + 1 < len(rest))
        events += pair.exchange()
    (opened,) = [event for event in events if isinstance(event, StreamOpened)]
    assert opened.request == request
    assert pair.agent.large_bytes < size + 20 * 300
    pair.agent.consumed(stream_id, opened.cost)
    assert pair.agent.large_bytes == 0


def _send_part(pair: Pair, stream_id: int) -> None:
    pair.agent.send_message(stream_id, PART, more=True)
    pair.exchange()


def test_half_a_message_holds_memory_only_until_its_stream_is_gone() -> None:
    """Whoever resets it."""
    for side in ("agent", "control_plane"):
        pair = Pair()
        stream_id = pair.open(REQUEST)
        for _ in range(10):
            _send_part(pair, stream_id)
        assert pair.control_plane.large_bytes == 10 * (MAX_PAYLOAD_BYTES + HEADER_BYTES)
        getattr(pair, side).send_reset(stream_id, PROBLEM)
        pair.exchange()
        assert (pair.control_plane.large_bytes, pair.control_plane.stream_count) == (0, 0)


def _large_reply(pair: Pair, stream_id: int, size: int) -> list[MessageReceived]:
    pieces = _pieces(encode_message(ContextError("E", "x" * size)))
    events = []
    for at, piece in enumerate(pieces):
        if pair.agent.sendable(stream_id) < len(piece):
            break
        pair.agent.send_message(stream_id, piece, more=at + 1 < len(pieces))
        events += [event for event in pair.exchange() if isinstance(event, MessageReceived)]
    return events


def test_a_second_large_message_waits_until_the_first_is_taken_in() -> None:
    """Else a reader who does not read would hold one after the other, without end."""
    pair = Pair()
    stream_id = pair.open(REQUEST)
    (first,) = _large_reply(pair, stream_id, 1_000_000)
    held = pair.control_plane.large_bytes
    assert _large_reply(pair, stream_id, 1_000_000) == []
    assert pair.agent.sendable(stream_id) < MAX_PAYLOAD_BYTES
    assert pair.control_plane.large_bytes == held
    pair.control_plane.consumed(stream_id, first.cost)
    pair.exchange()
    assert pair.agent.sendable(stream_id) == MAX_PAYLOAD_BYTES
    assert pair.control_plane.large_bytes <= 8 * (MAX_PAYLOAD_BYTES + HEADER_BYTES)


def test_large_messages_that_nobody_takes_in_are_bounded_for_the_whole_link() -> None:
    """Beyond 64 MiB only the oldest goes on; what is taken in or dropped makes room for the next."""
    pair = Pair()
    streams = [pair.open(REQUEST) for _ in range(8)]
    size = MAX_MESSAGE_BYTES - 1000
    done = [events[0] for stream_id in streams if (events := _large_reply(pair, stream_id, size))]
    held = pair.control_plane.large_bytes
    assert MAX_LARGE_BYTES <= held <= MAX_LARGE_BYTES + MAX_PAYLOAD_BYTES + HEADER_BYTES
    assert len(done) == 4
    stalled = streams[len(done)]
    assert pair.agent.sendable(stalled) < MAX_PAYLOAD_BYTES
    pair.control_plane.consumed(done[0].stream_id, done[0].cost)
    pair.exchange()
    assert pair.agent.sendable(stalled) == MAX_PAYLOAD_BYTES
    for event in done[1:]:
        pair.control_plane.send_reset(event.stream_id, PROBLEM)
        pair.control_plane.discard(event.stream_id)
    for stream_id in streams:
        pair.agent.send_reset(stream_id, PROBLEM)
    pair.exchange()
    assert (pair.control_plane.large_bytes, pair.control_plane.stream_count) == (0, 0)


def test_a_stream_that_waits_for_room_may_be_reset() -> None:
    """The room that it held is given to those that are left."""
    pair = Pair()
    streams = [pair.open(REQUEST) for _ in range(6)]
    done = [stream_id for stream_id in streams if _large_reply(pair, stream_id, MAX_MESSAGE_BYTES - 1000)]
    gone, left = streams[len(done) :]
    assert pair.agent.sendable(gone) < MAX_PAYLOAD_BYTES
    assert pair.agent.sendable(left) < MAX_PAYLOAD_BYTES
    pair.control_plane.send_reset(gone, PROBLEM)
    pair.exchange()
    assert pair.agent.sendable(left) == MAX_PAYLOAD_BYTES


def test_credit_for_parts_that_had_to_wait_is_not_lost() -> None:
    """Parts that came while the application was behind are paid for with their message: nothing leaks away."""
    pair = Pair()
    stream_id = pair.open(REQUEST)
    for _ in range(50):
        pair.agent.send_data(stream_id, b"unread", Channel.STDOUT)
        (data,) = pair.to_control_plane()
        (message,) = _large_reply(pair, stream_id, 150_000)
        for event in (data, message):
            pair.control_plane.consumed(stream_id, event.cost)
        pair.exchange()
    assert pair.agent.sendable(stream_id) == MAX_PAYLOAD_BYTES


def test_a_large_message_counts_until_it_is_taken_in_even_when_its_stream_is_gone() -> None:
    """The bytes are still there: a peer cannot free them by saying END."""
    pair = Pair()
    stream_id = pair.open(REQUEST)
    (event,) = _large_reply(pair, stream_id, 1_000_000)
    pair.agent.send_reset(stream_id, PROBLEM)
    pair.exchange()
    assert pair.control_plane.stream_count == 0
    assert pair.control_plane.large_bytes > 900_000
    pair.control_plane.consumed(stream_id, event.cost)
    assert pair.control_plane.large_bytes == 0


def test_between_two_parts_only_a_reset_may_be_sent() -> None:
    """Data, an end or another message there is a bug of ours."""
    pair = Pair()
    stream_id = pair.open(REQUEST)
    pair.agent.send_message(stream_id, PART, more=True)
    with pytest.raises(LocalProtocolError, match="middle"):
        pair.agent.send_data(stream_id, b"x", Channel.STDOUT)
    with pytest.raises(LocalProtocolError, match="middle"):
        pair.agent.send_end(stream_id)
    pair.agent.send_reset(stream_id, PROBLEM)
    pair.exchange()
    assert pair.control_plane.stream_count == 0


# -- breaches


def _breach(role: Role, *frames: bytes) -> str:
    """Feed *frames* to an end with streams 1 (open) and 2 (closed); return what it says of the last one."""
    connection = greeted(role)
    for stream_id in (1, 2):
        if role is Role.CONTROL_PLANE:
            connection.open(encode_message(REQUEST))
        else:
            connection.receive_data(encode(stream_id, Kind.OPEN, encode_message(REQUEST)))
    connection.send_reset(2, PROBLEM)
    for frame in frames[:-1]:
        connection.receive_data(frame)
    connection.events_received()
    with pytest.raises(RemoteProtocolError) as caught:
        connection.receive_data(frames[-1])
    assert connection.events_received() == []
    with pytest.raises(RemoteProtocolError):
        connection.receive_data(encode(0, Kind.HELLO, encode_message(HELLO)))
    return str(caught.value)


_FULL = [encode(1, Kind.DATA, PART, 1)] * 7 + [encode(1, Kind.DATA, b"x" * (WINDOW - 7 * 65_546 - 10), 1)]


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        pytest.param([encode(0, Kind.HELLO, encode_message(HELLO))], "second hello", id="a second hello"),
        pytest.param([encode(1, 0x55, b"x")], "kind 85", id="an unknown kind"),
        pytest.param([encode(1, Kind.DATA, PART + b"x", 1)], "65537 bytes", id="an oversized frame"),
        pytest.param([encode(1, Kind.DATA, b"", 1)], "0 bytes", id="empty data"),
        pytest.param([encode(3, Kind.DATA, b"x", 1)], "never opened", id="data on an unknown stream"),
        pytest.param([encode(3, Kind.CREDIT, b"\0\0\0\1")], "never opened", id="credit on an unknown stream"),
        pytest.param([encode(3, Kind.END)], "never opened", id="end of an unknown stream"),
        pytest.param([encode(3, Kind.RESET, encode_message(PROBLEM))], "never opened", id="reset of an unknown stream"),
        pytest.param([encode(0, Kind.MESSAGE, encode_message(Done()))], "never opened", id="a message on stream 0"),
        pytest.param([encode(1 << 31, Kind.END)], "never opened", id="a stream far away"),
        pytest.param([*_FULL, encode(1, Kind.DATA, b"x", 1)], "credit for 0", id="an overstepped window"),
        pytest.param([encode(1, Kind.CREDIT, b"\0\0\0\0")], "credit of 0", id="no credit"),
        pytest.param([encode(1, Kind.CREDIT, b"\0\0\0\x1f")], "30 were spent", id="credit for what was not sent"),
        pytest.param([encode(1, Kind.CREDIT, b"\xff\xff\xff\xff")], "credit of", id="credit of four gigabytes"),
        pytest.param([encode(1, Kind.MESSAGE, b"\xc1")], "undecodable", id="no msgpack"),
        pytest.param([encode(1, Kind.MESSAGE, encode_message(MetricsRead()))], "undecodable", id="execd asks"),
        pytest.param([encode(1, Kind.RESET, b"\xc1")], "undecodable", id="a reset without a problem"),
        pytest.param([encode(3, Kind.OPEN, encode_message(MetricsRead()))], "execd opened", id="execd opens a stream"),
        pytest.param([encode(1, Kind.DATA, b"x", Channel.INPUT)], "channel 0", id="data on our channel"),
        pytest.param([encode(1, Kind.DATA, b"x", 77)], "channel 77", id="data on no channel"),
        pytest.param([encode(1, Kind.MESSAGE, PART, MORE), encode(1, Kind.END)], "inside", id="end inside a message"),
        pytest.param(
            [encode(1, Kind.MESSAGE, PART, MORE), encode(1, Kind.DATA, b"x", 1)], "inside", id="data inside a message"
        ),
        pytest.param([encode(1, Kind.MESSAGE, PART[1:], MORE)], "fill", id="a part that is not full"),
        pytest.param([encode(1, Kind.END), encode(1, Kind.END)], "peer_done", id="a second end"),
        pytest.param([encode(1, Kind.END), encode(1, Kind.DATA, b"x", 1)], "peer_done", id="data after the end"),
        pytest.param([encode(1, Kind.END), encode(1, Kind.MESSAGE, encode_message(Done()))], "peer_done", id="late"),
    ],
)
def test_what_costs_execd_its_link(frames: list[bytes], words: str) -> None:
    """Each is a RemoteProtocolError, says what was wrong, and the connection is of no use afterwards."""
    assert words in _breach(Role.CONTROL_PLANE, *frames)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        pytest.param([encode(1, Kind.OPEN, encode_message(REQUEST))], "opened before", id="a stream opened twice"),
        pytest.param([encode(2, Kind.OPEN, encode_message(REQUEST))], "opened before", id="a closed stream reopened"),
        pytest.param([encode(0, Kind.OPEN, encode_message(REQUEST))], "opened before", id="stream 0 opened"),
        pytest.param([encode(3, Kind.OPEN, encode_message(Done()))], "undecodable", id="the control plane replies"),
        pytest.param([encode(1, Kind.MESSAGE, encode_message(REQUEST))], "second request", id="a second request"),
        pytest.param([encode(1, Kind.MESSAGE, PART, MORE)], "second request", id="a part of a second request"),
        pytest.param([encode(1, Kind.DATA, b"x", Channel.STDOUT)], "channel 1", id="data on execd's channel"),
        pytest.param([encode(3, Kind.OPEN, PART, MORE), encode(3, Kind.DATA, b"x")], "inside", id="data in a request"),
        pytest.param([encode(3, Kind.OPEN, PART, MORE), encode(3, Kind.END)], "inside", id="end in a request"),
    ],
)
def test_what_costs_a_control_plane_its_link(frames: list[bytes], words: str) -> None:
    """execd is as strict: a bug over there shows at once."""
    assert words in _breach(Role.AGENT, *frames)


def test_too_many_streams_are_a_breach() -> None:
    """The peer counts too."""
    agent = greeted(Role.AGENT)
    for stream_id in range(1, MAX_STREAMS + 1):
        agent.receive_data(encode(stream_id, Kind.OPEN, encode_message(REQUEST)))
    with pytest.raises(RemoteProtocolError, match="more than 4096"):
        agent.receive_data(encode(MAX_STREAMS + 1, Kind.OPEN, encode_message(REQUEST)))


def test_a_message_without_end_is_a_breach_at_16_mib() -> None:
    """However patiently it is sent."""
    connection = greeted(Role.CONTROL_PLANE)
    connection.open(encode_message(REQUEST))
    for _ in range(256):
        connection.receive_data(encode(1, Kind.MESSAGE, PART, MORE))
    assert connection.large_bytes < 17 << 20
    with pytest.raises(RemoteProtocolError, match="16777216"):
        connection.receive_data(encode(1, Kind.MESSAGE, b"x"))


def test_a_flood_on_a_closed_stream_is_a_breach() -> None:
    """What the window allowed may come late, and 8 KiB of control frames; the next frame costs the link."""
    connection = greeted(Role.CONTROL_PLANE)
    connection.open(encode_message(REQUEST))
    connection.send_reset(1, PROBLEM)
    end = encode(1, Kind.END)
    allowed = (WINDOW + LATE_CONTROL_BYTES) // len(end)
    connection.receive_data(end * allowed)
    with pytest.raises(RemoteProtocolError, match="closed"):
        connection.receive_data(end)
    assert connection.events_received() == []


def test_events_before_a_breach_are_kept_however_the_bytes_were_cut() -> None:
    """Whether the breach is in the same chunk or the next, the same events come out."""
    good = encode(1, Kind.MESSAGE, encode_message(ProcessStarted(7))) + encode(1, Kind.DATA, b"out", 1)
    for cut in range(len(good) + 1):
        connection = greeted(Role.CONTROL_PLANE)
        connection.open(encode_message(REQUEST))
        connection.receive_data(good[:cut])
        with pytest.raises(RemoteProtocolError):
            connection.receive_data(good[cut:] + encode(9, Kind.END))
        assert connection.events_received() == [
            MessageReceived(1, ProcessStarted(7), 28),
            DataReceived(1, 1, b"out", 13),
        ]
