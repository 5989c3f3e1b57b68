"""Whatever bytes arrive: frames come out the same however they are cut, and only RemoteProtocolError comes out."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from execd.wire.connection import Connection, Role
from execd.wire.errors import RemoteProtocolError
from execd.wire.events import DataReceived, Event, MessageReceived, StreamOpened
from execd.wire.flow import INITIAL_WINDOW_BYTES
from execd.wire.frames import HEADER_BYTES, MAX_PAYLOAD_BYTES, FrameParser, Kind, encode
from execd.wire.messages import (
    Hello,
    MetricsRead,
    Problem,
    Reply,
    Request,
    decode_hello,
    decode_problem,
    decode_reply,
    decode_request,
    encode_message,
)
from tests.support.agent.wire_pair import HELLO, greeted
from tests.support.strategies import cut_up, frames, hellos, problems, replies, requests

DECODERS = {Hello: decode_hello, Problem: decode_problem, Request: decode_request, Reply: decode_reply}
roles = st.sampled_from(list(Role))
streams_of_frames = st.lists(frames, max_size=8).map(b"".join)
anything = streams_of_frames | st.binary(max_size=300)


@given(requests)
def test_every_request_arrives_as_it_was_sent(message: Request) -> None:
    """Encode, decode, the same."""
    assert decode_request(encode_message(message)) == message


@given(replies)
def test_every_reply_arrives_as_it_was_sent(message: Reply) -> None:
    """Encode, decode, the same."""
    assert decode_reply(encode_message(message)) == message


@given(hellos, problems)
def test_hello_and_problem_arrive_as_they_were_sent(hello: Hello, problem: Problem) -> None:
    """Encode, decode, the same; what is short enough is not clipped."""
    assert decode_hello(encode_message(hello)) == hello
    assert decode_problem(encode_message(problem.clipped())) == problem


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=2000), st.text(max_size=100))
def test_any_problem_can_be_sent_once_it_is_clipped(message: str, code: str) -> None:
    """Lone surrogates, long texts: a peer decodes it, and it fits a frame."""
    payload = encode_message(Problem(code, message).clipped())
    decode_problem(payload)
    list(FrameParser().feed(encode(1, Kind.RESET, payload)))


@given(st.binary(max_size=200), st.sampled_from(list(DECODERS)))
def test_decoding_garbage_raises_one_error(payload: bytes, cls: type) -> None:
    """Or returns a message, if it happens to be one."""
    try:
        DECODERS[cls](payload)
    except RemoteProtocolError:
        pass


@given(replies, st.data())
def test_decoding_a_damaged_message_raises_one_error(message: Reply, data: st.DataObject) -> None:
    """One byte changed, removed or added anywhere."""
    payload = bytearray(encode_message(message))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at : at + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=1))
    try:
        decode_reply(bytes(payload))
    except RemoteProtocolError:
        pass


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.data())
def test_frames_survive_any_cut(payloads: list[bytes], data: st.DataObject) -> None:
    """However the bytes arrive, the frames are the same."""
    whole = b"".join(encode(at, Kind.DATA, payload, 1) for at, payload in enumerate(payloads))
    parser = FrameParser()
    found = [frame for chunk in data.draw(cut_up(st.just(whole))) for frame in parser.feed(chunk)]
    assert [(frame.stream_id, frame.payload) for frame in found] == list(enumerate(payloads))


def _feed(role: Role, chunks: list[bytes]) -> tuple[list[Event], str]:
    """Feed an end that has three streams, one of them closed; return what it heard and how it ended."""
    connection = greeted(role)
    for stream_id in (1, 2, 3):
        if role is Role.CONTROL_PLANE:
            connection.open(encode_message(MetricsRead()))
        else:
            connection.receive_data(encode(stream_id, Kind.OPEN, encode_message(MetricsRead())))
    connection.send_reset(3, Problem("gone", ""))
    connection.events_received()
    events: list[Event] = []
    try:
        for chunk in chunks:
            try:
                connection.receive_data(chunk)
            finally:
                events += connection.events_received()
    except RemoteProtocolError as error:
        return events, str(error)
    # It was all allowed: then it is all accounted for.
    unread = sum(event.cost for event in events if isinstance(event, StreamOpened | MessageReceived | DataReceived))
    assert unread <= INITIAL_WINDOW_BYTES * (connection.stream_count + 1)
    assert len(connection._parser._rest) < HEADER_BYTES + MAX_PAYLOAD_BYTES
    return events, ""


@settings(max_examples=500)
@given(roles, cut_up(anything))
@example(Role.CONTROL_PLANE, [b"GET / HTTP/1.1\r\n\r\n"])
@example(Role.CONTROL_PLANE, [b"\xff" * 65_536])
@example(Role.AGENT, [b"\x00" * 65_536])
def test_garbage_raises_one_error_and_means_the_same_however_it_is_cut(role: Role, chunks: list[bytes]) -> None:
    """The same events, and the same breach, for one chunk and for many."""
    assert _feed(role, chunks) == _feed(role, [b"".join(chunks)])


@given(roles, st.binary(min_size=1, max_size=100))
def test_garbage_instead_of_a_hello_opens_nothing(role: Role, garbage: bytes) -> None:
    """No event comes of it, whatever it is."""
    connection = Connection(role, HELLO)
    try:
        connection.receive_data(garbage)
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError):
            connection.receive_data(b"")
    assert connection.events_received() == []
    assert connection.stream_count == 0
