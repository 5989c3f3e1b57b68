"""Two multiplexers back to back, whatever happens in whatever order, with the bytes cut anywhere.

The machine opens streams, sends messages and data of all sizes, reads or does not read, ends and resets, and carries
any number of bytes at a time each way. A model beside it knows what was said on each stream.
"""

from __future__ import annotations

from collections import deque

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from execd.wire.connection import Connection, Role
from execd.wire.events import (
    CreditReceived,
    DataReceived,
    EndReceived,
    HelloReceived,
    MessageReceived,
    ResetReceived,
    StreamOpened,
)
from execd.wire.flow import INITIAL_WINDOW_BYTES, MAX_LARGE_BYTES
from execd.wire.frames import MAX_PAYLOAD_BYTES, Channel
from execd.wire.messages import ContextError, ContextRun, encode_message
from tests.support.agent.wire_pair import HELLO, PROBLEM

SIZES = st.sampled_from([1, 2, 11, 1000, 65_535, 65_536, 65_537, 131_072, 524_288, 600_000])
CONTROL_PLANE, AGENT = "control plane", "agent"
ENDS = st.sampled_from([CONTROL_PLANE, AGENT])


class Side:
    """One end of one stream: what it wants to say, has said, has heard and has taken in."""

    def __init__(self) -> None:
        self.pieces: deque[tuple[bytes, bool]] = deque()  # of a message that is being sent
        self.said: list[object] = []  # whole messages and data, in order
        self.heard: list[object] = []
        self.unread: deque[tuple[int, object]] = deque()  # cost, and what it is
        self.done = False  # it said END
        self.heard_end = False
        self.reset = False  # by either side


class LinkMachine(RuleBasedStateMachine):
    """Rules are what an application and a socket may do; invariants are what the link promises."""

    streams = Bundle("streams")

    def __init__(self) -> None:
        super().__init__()
        self.ends = {
            CONTROL_PLANE: Connection(Role.CONTROL_PLANE, HELLO),
            AGENT: Connection(Role.AGENT, HELLO),
        }
        self.pipes = {CONTROL_PLANE: bytearray(), AGENT: bytearray()}  # by receiver
        self.sides: dict[tuple[str, int], Side] = {}
        self.counter = 0
        for end in self.ends:
            self.deliver(end, None)

    # -- the socket

    @rule(end=ENDS, size=st.none() | st.integers(1, 40) | st.integers(1, 300_000))
    def deliver(self, end: str, size: int | None) -> None:
        """Carry so many bytes (all of them: None) to one end, wherever that cuts them."""
        pipe = self.pipes[end]
        pipe += self.ends[self.other(end)].data_to_send()
        chunk = bytes(pipe[:size])
        del pipe[:size]
        self.ends[end].receive_data(chunk)
        for event in self.ends[end].events_received():
            self.heard(end, event)

    def heard(self, end: str, event: object) -> None:
        if isinstance(event, HelloReceived):
            return
        if isinstance(event, StreamOpened):
            self.sides[end, event.stream_id] = side = Side()
            side.heard.append(event.request)
            side.unread.append((event.cost, event.request))
            return
        side = self.sides[end, event.stream_id]
        assert not side.reset, "nothing is heard of a stream after its reset"
        match event:
            case MessageReceived(_, message, cost):
                item = message
            case DataReceived(_, channel, data, cost):
                item = (channel, data)
            case EndReceived():
                assert not side.heard_end
                assert side.heard == self.sides[self.other(end), event.stream_id].said, "the end came before all"
                side.heard_end = True
                return
            case ResetReceived(_, problem):
                assert problem == PROBLEM
                side.reset = True
                return
            case CreditReceived():
                return
        assert not side.heard_end, "something came after the end"
        side.heard.append(item)
        side.unread.append((cost, item))

    # -- the applications

    @rule(target=streams, size=SIZES)
    def open(self, size: int) -> object:
        """The control plane opens a stream with a request of any size."""
        request = ContextRun("c", self.text(size))
        pieces = self.cut(encode_message(request))
        piece, more = pieces.popleft()
        stream_id = self.ends[CONTROL_PLANE].open(piece, more=more)
        side = self.sides[CONTROL_PLANE, stream_id] = Side()
        side.pieces = pieces
        side.said.append(request)
        return stream_id

    @rule(end=ENDS, stream_id=streams, size=SIZES)
    def say(self, end: str, stream_id: int, size: int) -> None:
        """Send data if there is credit, in one frame; execd may begin a message of any size instead."""
        side = self.sides.get((end, stream_id))
        if side is None or side.done or side.reset or side.pieces:
            return
        if end == AGENT and size % 2:
            message = ContextError("E", self.text(size))
            side.pieces = self.cut(encode_message(message))
            side.said.append(message)
            self.go_on(end, stream_id)
            return
        if size := min(size, self.ends[end].sendable(stream_id)):
            channel = Channel.INPUT if end == CONTROL_PLANE else Channel.STDERR
            data = self.text(size).encode()[:size]
            self.ends[end].send_data(stream_id, data, channel)
            side.said.append((channel, data))

    @rule(end=ENDS, stream_id=streams)
    def go_on(self, end: str, stream_id: int) -> None:
        """Send as many pieces of a message as there is credit for."""
        side = self.sides.get((end, stream_id))
        if side is None or side.reset:
            return
        while side.pieces and self.ends[end].sendable(stream_id) >= len(side.pieces[0][0]):
            piece, more = side.pieces.popleft()
            self.ends[end].send_message(stream_id, piece, more=more)

    @rule(end=ENDS, stream_id=streams, count=st.integers(1, 3))
    def read(self, end: str, stream_id: int, count: int) -> None:
        """The application takes some of what has arrived."""
        side = self.sides.get((end, stream_id))
        for _ in range(count):
            if side is not None and side.unread:
                self.ends[end].consumed(stream_id, side.unread.popleft()[0])

    @rule(end=ENDS, stream_id=streams)
    def end(self, end: str, stream_id: int) -> None:
        """Say that nothing more comes."""
        side = self.sides.get((end, stream_id))
        if side is not None and not (side.done or side.reset or side.pieces):
            self.ends[end].send_end(stream_id)
            side.done = True

    @rule(end=ENDS, stream_id=consumes(streams))
    def reset(self, end: str, stream_id: int) -> None:
        """End it at once, at any time, dropping what was not read."""
        side = self.sides.get((end, stream_id))
        if side is None:
            return
        self.ends[end].send_reset(stream_id, PROBLEM)
        if not (side.done and side.heard_end):
            side.reset = True
        side.unread.clear()
        side.pieces.clear()
        self.ends[end].discard(stream_id)

    @rule(stream_id=streams)
    def one_stream_alone_gets_through(self, stream_id: int) -> None:
        """Whatever the others hold, a stream whose two ends are read says all it has to say."""
        for _ in range(40):
            for end in (AGENT, CONTROL_PLANE):
                self.deliver(end, None)
                self.read(end, stream_id, 1000)
                self.go_on(end, stream_id)
        for end in (AGENT, CONTROL_PLANE):
            side = self.sides.get((end, stream_id))
            assert side is None or side.reset or not side.pieces

    # -- what the link promises

    @invariant()
    def what_is_heard_is_what_was_said(self) -> None:
        """Every byte once, in order, on its stream."""
        for (end, stream_id), side in self.sides.items():
            other = self.sides.get((self.other(end), stream_id))
            said = other.said if other is not None else []
            assert side.heard == said[: len(side.heard)]

    @invariant()
    def nobody_has_more_credit_than_a_window(self) -> None:
        """And what waits unread at a stream is no more than a window, but for one message that is larger."""
        for (end, stream_id), side in self.sides.items():
            assert 0 <= self.ends[end].sendable(stream_id) <= MAX_PAYLOAD_BYTES
            large = [cost for cost, item in side.unread if not isinstance(item, tuple)]
            small = sum(cost for cost, _ in side.unread) - sum(large)
            assert small + (sum(large) - max(large) if large else 0) <= INITIAL_WINDOW_BYTES

    @invariant()
    def what_large_messages_hold_is_counted(self) -> None:
        """Nothing is held where nothing is open or unread."""
        for end, connection in self.ends.items():
            held = connection.large_bytes
            assert 0 <= held <= MAX_LARGE_BYTES
            if not connection.stream_count and not any(s.unread for (e, _), s in self.sides.items() if e == end):
                assert held == 0

    def teardown(self) -> None:
        """Read all, say all, end all: nothing is left at either end."""
        ids = sorted({stream_id for _, stream_id in self.sides})
        for _ in range(60):
            for end in (AGENT, CONTROL_PLANE):
                self.deliver(end, None)
                for stream_id in ids:
                    self.read(end, stream_id, 1000)
                    self.go_on(end, stream_id)
                    self.end(end, stream_id)
        for (end, stream_id), side in self.sides.items():
            assert not side.unread
            if not side.reset and not self.sides[self.other(end), stream_id].reset:
                assert side.done
                assert side.heard_end
        for end, connection in self.ends.items():
            assert not self.pipes[end]
            assert (connection.stream_count, connection.large_bytes, connection.unsent_bytes) == (0, 0, 0)

    # -- inside

    def other(self, end: str) -> str:
        return AGENT if end == CONTROL_PLANE else CONTROL_PLANE

    def text(self, size: int) -> str:
        """Return *size* characters that no other call returns: what is lost, doubled or swapped shows."""
        self.counter += 1
        return (f"{self.counter}." * size)[:size]

    def cut(self, payload: bytes) -> deque[tuple[bytes, bool]]:
        starts = range(0, len(payload), MAX_PAYLOAD_BYTES)
        return deque((payload[at : at + MAX_PAYLOAD_BYTES], at + MAX_PAYLOAD_BYTES < len(payload)) for at in starts)


TestLink = LinkMachine.TestCase
TestLink.settings = hypothesis.settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    phases=[phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain],  # it takes minutes here
)
