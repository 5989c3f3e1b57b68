"""The multiplexer: many streams over one byte stream, with credit on each, and no I/O.

A shell does three things, in this order, and nothing else:

    conn.receive_data(chunk)                # bytes from the socket
    for event in conn.events_received(): …  # their meaning
    socket.send(conn.data_to_send())        # what this side has to say

It calls `consumed()` when the application has processed an event, which gives the peer its credit back.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import ClassVar

from .errors import LocalProtocolError, RemoteProtocolError, TooManyStreams
from .events import (
    CreditReceived,
    DataReceived,
    EndReceived,
    Event,
    HelloReceived,
    MessageReceived,
    ResetReceived,
    StreamOpened,
)
from .flow import LATE_CONTROL_BYTES, MAX_LATE_BYTES, LargeMessages, ReceiveWindow, SendWindow
from .frames import HEADER_BYTES, MAX_PAYLOAD_BYTES, MORE, Channel, Frame, FrameParser, Kind, encode_header
from .messages import (
    GENERATION,
    Hello,
    Problem,
    decode_hello,
    decode_problem,
    decode_reply,
    decode_request,
    encode_message,
)
from .states import TRANSITIONS, StreamEvent, StreamState

# A message may be larger than one frame (a figure, a cell of code), but never larger than this.
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
MAX_STREAMS = 4096  # at once on one link; a sandbox that needs more is out of control
FRAMES_A_STEP = 256  # a chunk of 512 KiB may hold 52,000 frames, which take a large part of a second
MAX_STREAM_ID = (1 << 32) - 1  # then the link is worn out: close it and create a new one


class Role(enum.Enum):
    """The end of the link. Only the control plane opens streams."""

    CONTROL_PLANE = "controlplane"
    AGENT = "execd"


# What each end receives and the other end sends.
_CHANNELS = {
    Role.CONTROL_PLANE: frozenset((Channel.STDOUT, Channel.STDERR)),
    Role.AGENT: frozenset((Channel.INPUT,)),
}


class _Stream:
    __slots__ = ("cut", "opened", "parts", "receive", "send", "state", "unread", "withheld")

    def __init__(self) -> None:
        self.state = StreamState.OPEN
        self.send = SendWindow()
        self.receive = ReceiveWindow()
        self.opened = False  # whether its request has arrived whole
        self.cut = False  # whether this side is in the middle of sending a message
        self.parts: bytearray | None = None  # of the message that is arriving
        self.withheld = 0  # the cost of those parts for which no credit was given yet
        self.unread = 0  # the cost of events that the application has not consumed


class Connection:
    """One end of a link."""

    def __init__(self, role: Role, hello: Hello) -> None:
        """Prepare the hello: the first bytes of `data_to_send()` do not depend on the peer."""
        self._role = role
        self._their_channels = _CHANNELS[role]
        self._parser = FrameParser()
        self._streams: dict[int, _Stream] = {}
        self._last_stream_id = 0
        self._large = LargeMessages()
        self._waiting: dict[int, None] = {}  # streams whose parts wait for room in `_large`
        self._late_bytes = 0  # what may still arrive for streams that are closed here
        self._events: list[Event] = []
        self._out: list[bytes | memoryview] = []  # header, payload, header, payload …: copied once, when they leave
        self._breach: RemoteProtocolError | None = None
        self.unsent_bytes = 0  # what `data_to_send()` would return
        self.peer: Hello | None = None
        self.generation = GENERATION
        self._emit(0, Kind.HELLO, encode_message(hello))

    # -- bytes in, events out

    def receive_data(self, data: bytes) -> None:
        """Take bytes from the peer. Then read `events_received()`, and send `data_to_send()`.

        Raises:
            RemoteProtocolError: The peer has broken the rules, now or before; close the link. Events before the breach
                are kept, however the bytes were cut.
        """
        for _ in self.receive_in_steps(data):
            pass

    def receive_in_steps(self, data: bytes) -> Iterator[None]:
        """Take bytes as `receive_data` does, but yield after every FRAMES_A_STEP frames. Take all steps.

        The events of a step can be read, and anything may be sent, before the next step.
        """
        if self._breach is not None:
            raise self._breach
        left = FRAMES_A_STEP
        try:
            for frame in self._parser.feed(data):
                (self._HANDLERS[frame.kind] if self.peer is not None else Connection._on_hello)(self, frame)
                left -= 1
                if not left:
                    left = FRAMES_A_STEP
                    yield
        except RemoteProtocolError as error:
            self._breach = error
            raise

    def events_received(self) -> list[Event]:
        """Return what has happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def data_to_send(self, limit_bytes: int | None = None) -> bytes:
        """Return the bytes to send now; b"" if there is nothing.

        With a limit, return as many whole frames as fit into it, and at least one.
        """
        out = self._out
        if limit_bytes is None or self.unsent_bytes <= limit_bytes:
            self._out, self.unsent_bytes = [], 0
            return b"".join(out)
        at = size = 0
        while not at or size + HEADER_BYTES + len(out[at + 1]) <= limit_bytes:
            size += HEADER_BYTES + len(out[at + 1])
            at += 2
        data = b"".join(out[:at])
        del out[:at]
        self.unsent_bytes -= size
        return data

    # -- intents in

    def open(self, piece: bytes | memoryview, *, more: bool = False) -> int:
        """Open a stream with the first piece of its encoded request. Return its id. Control plane only.

        Raises:
            TooManyStreams: Close a stream first.
            LocalProtocolError: The role is wrong, there was no hello, the link is worn out, or the piece fits no frame.
        """
        if self._role is not Role.CONTROL_PLANE:
            raise LocalProtocolError("only the control plane opens streams")
        if self.peer is None:
            raise LocalProtocolError("no hello from the peer yet")
        if len(self._streams) >= MAX_STREAMS:
            raise TooManyStreams(f"{MAX_STREAMS} streams are open")
        if self.worn_out:
            raise LocalProtocolError("all stream ids of this link are used up")
        self._check_piece(piece, more)
        stream = _Stream()
        stream.opened = True
        stream.cut = more
        stream.send.spend(HEADER_BYTES + len(piece))
        self._last_stream_id += 1
        self._streams[self._last_stream_id] = stream
        self._emit(self._last_stream_id, Kind.OPEN, piece, MORE if more else 0)
        return self._last_stream_id

    def send_message(self, stream_id: int, piece: bytes | memoryview, *, more: bool = False) -> None:
        """Send an encoded message, or with *more* a piece of one. It costs `HEADER_BYTES + len(piece)` of credit.

        A piece with *more* is MAX_PAYLOAD_BYTES long. Between two pieces of one message, only a reset may be sent on
        that stream.
        """
        self._check_piece(piece, more)
        stream = self._step(stream_id, StreamEvent.SEND)
        stream.send.spend(HEADER_BYTES + len(piece))
        stream.cut = more
        self._emit(stream_id, Kind.MESSAGE, piece, MORE if more else 0)

    def send_data(self, stream_id: int, data: bytes | memoryview, channel: Channel) -> None:
        """Send raw bytes in one frame: at most `sendable(stream_id)` of them."""
        self._check_piece(data, more=False)
        if channel in self._their_channels:
            raise LocalProtocolError(f"data on channel {channel.name}, which only the peer sends")
        stream = self._step(stream_id, StreamEvent.SEND)
        self._check_whole(stream_id, stream)
        stream.send.spend(HEADER_BYTES + len(data))
        self._emit(stream_id, Kind.DATA, data, channel)

    def send_end(self, stream_id: int) -> None:
        """Send END: this side has nothing more to send on the stream."""
        if (stream := self._streams.get(stream_id)) is not None:
            self._check_whole(stream_id, stream)
        self._step(stream_id, StreamEvent.SEND_END)
        self._emit(stream_id, Kind.END)
        self._forget_if_closed(stream_id)

    def send_reset(self, stream_id: int, problem: Problem) -> None:
        """End a stream at once, in both directions. Do nothing if the stream is closed already."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        self._step(stream_id, StreamEvent.SEND_RESET)
        self._emit(stream_id, Kind.RESET, encode_message(problem.clipped()))
        self._late_bytes += stream.receive.available
        self._forget_if_closed(stream_id)

    def consumed(self, stream_id: int, cost: int) -> None:
        """Give back credit for *cost* bytes of a stream, which the application has consumed."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._release_large(stream_id)
            return
        if cost > stream.unread:
            raise LocalProtocolError(f"{cost} bytes consumed, where {stream.unread} had arrived")
        stream.unread -= cost
        self._give_back(stream_id, stream, cost)
        if not stream.unread and (self._large.total_bytes or stream.withheld):
            self._release_large(stream_id)
            self._give_for_parts(stream_id, stream)

    def discard(self, stream_id: int) -> None:
        """Drop what the application has not consumed of a stream that is closed."""
        if stream_id not in self._streams:
            self._release_large(stream_id)

    def sendable(self, stream_id: int) -> int:
        """Return how many bytes fit into one frame of a stream now. 0: wait for a CreditReceived."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return 0
        return max(0, min(stream.send.available - HEADER_BYTES, MAX_PAYLOAD_BYTES))

    def is_open(self, stream_id: int) -> bool:
        """Return whether the stream still exists on this side."""
        return stream_id in self._streams

    @property
    def stream_count(self) -> int:
        """The number of streams that are open now."""
        return len(self._streams)

    @property
    def large_bytes(self) -> int:
        """What messages hold beyond the windows of their streams until they are consumed."""
        return self._large.total_bytes

    @property
    def worn_out(self) -> bool:
        """Whether no stream can ever be opened on this link again."""
        return self._last_stream_id >= MAX_STREAM_ID

    # -- inside: sending

    def _emit(self, stream_id: int, kind: Kind, payload: bytes | memoryview = b"", flags: int = 0) -> None:
        if isinstance(payload, memoryview) and not payload.readonly:
            payload = bytes(payload)  # the caller may change it before it is sent
        self._out += encode_header(stream_id, kind, len(payload), flags), payload
        self.unsent_bytes += HEADER_BYTES + len(payload)

    def _check_piece(self, payload: bytes | memoryview, more: bool) -> None:
        if not (MAX_PAYLOAD_BYTES if more else 1) <= len(payload) <= MAX_PAYLOAD_BYTES:
            raise LocalProtocolError(f"{len(payload)} bytes are not a payload")

    def _check_whole(self, stream_id: int, stream: _Stream) -> None:
        if stream.cut:
            raise LocalProtocolError(f"stream {stream_id} is in the middle of a message")

    def _step(self, stream_id: int, event: StreamEvent) -> _Stream:
        stream = self._streams.get(stream_id)
        if stream is None:
            raise LocalProtocolError(f"{event.value} on stream {stream_id}, which is closed")
        state = TRANSITIONS.get((stream.state, event))
        if state is None:
            raise LocalProtocolError(f"{event.value} on stream {stream_id}, which is {stream.state.value}")
        stream.state = state
        return stream

    def _forget_if_closed(self, stream_id: int) -> None:
        stream = self._streams[stream_id]
        if stream.state is StreamState.CLOSED:
            del self._streams[stream_id]
            self._waiting.pop(stream_id, None)
            self._late_bytes = min(self._late_bytes + LATE_CONTROL_BYTES, MAX_LATE_BYTES)
            # Events outlive their stream: what the application has not consumed is still in memory.
            if not stream.unread:
                self._release_large(stream_id)

    def _give_back(self, stream_id: int, stream: _Stream, cost: int) -> None:
        if stream.state is not StreamState.PEER_DONE and (credit := stream.receive.give_back(cost)):
            self._emit(stream_id, Kind.CREDIT, credit.to_bytes(4, "big"))

    def _give_for_parts(self, stream_id: int, stream: _Stream) -> None:
        """Give credit for the parts of a message that is still arriving: the message may be larger than the window.

        Give none while the application lags behind on this stream, or while the link holds too much already.
        """
        if not stream.withheld or stream.unread:
            return
        if not self._large.may_grow(stream_id):
            self._waiting[stream_id] = None
            return
        self._waiting.pop(stream_id, None)
        cost, stream.withheld = stream.withheld, 0
        self._large.hold(stream_id, cost)
        self._give_back(stream_id, stream, cost)

    def _release_large(self, stream_id: int) -> None:
        if self._large.release(stream_id):
            for waiting_id in list(self._waiting):
                self._give_for_parts(waiting_id, self._streams[waiting_id])

    # -- inside: receiving

    def _find(self, frame: Frame) -> _Stream | None:
        """Return the stream of a frame; None if this side has closed the stream already.

        Frames of the peer may have been on their way then. They are dropped and not punished, but their number is
        bounded.
        """
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            if not 0 < frame.stream_id <= self._last_stream_id:
                raise RemoteProtocolError(f"frame on stream {frame.stream_id}, which was never opened")
            self._late_bytes -= HEADER_BYTES + len(frame.payload)
            if self._late_bytes < 0:
                raise RemoteProtocolError(f"frame on stream {frame.stream_id}, which is closed")
        return stream

    def _peer_step(self, frame: Frame, event: StreamEvent) -> _Stream | None:
        stream = self._find(frame)
        if stream is not None:
            state = TRANSITIONS.get((stream.state, event))
            if state is None:
                raise RemoteProtocolError(f"{event.value} on stream {frame.stream_id}, which is {stream.state.value}")
            stream.state = state
        return stream

    def _on_hello(self, frame: Frame) -> None:
        if frame.kind != Kind.HELLO or frame.stream_id != 0:
            raise RemoteProtocolError("the first frame was not a hello")
        if self.peer is not None:
            raise RemoteProtocolError("a second hello")
        self.peer = decode_hello(frame.payload)
        self.generation = min(GENERATION, self.peer.generation)
        self._events.append(HelloReceived(self.peer))

    def _on_open(self, frame: Frame) -> None:
        if self._role is not Role.AGENT:
            raise RemoteProtocolError("execd opened a stream")
        if frame.stream_id <= self._last_stream_id:
            raise RemoteProtocolError(f"stream {frame.stream_id} was opened before")
        if len(self._streams) >= MAX_STREAMS:
            raise RemoteProtocolError(f"more than {MAX_STREAMS} streams")
        self._last_stream_id = frame.stream_id
        self._streams[frame.stream_id] = _Stream()
        self._on_message(frame)

    def _on_message(self, frame: Frame) -> None:
        stream = self._peer_step(frame, StreamEvent.RECEIVE)
        if stream is None:
            return
        stream_id, _, flags, payload = frame
        if stream.opened and self._role is Role.AGENT:
            raise RemoteProtocolError(f"a second request on stream {stream_id}")
        cost = HEADER_BYTES + len(payload)
        stream.receive.take(cost)
        if flags == MORE:
            self._add_part(stream, payload)
            stream.withheld += cost
            self._give_for_parts(stream_id, stream)
            return
        whole: bytes | bytearray = payload
        if stream.parts is not None:
            whole = self._add_part(stream, payload, last=True)
            cost += stream.withheld
            stream.parts, stream.withheld = None, 0
            self._waiting.pop(stream_id, None)
        stream.unread += cost
        if self._role is Role.CONTROL_PLANE:
            self._events.append(MessageReceived(stream_id, decode_reply(whole), cost))
        else:
            stream.opened = True
            self._events.append(StreamOpened(stream_id, decode_request(whole), cost))

    def _add_part(self, stream: _Stream, payload: bytes, *, last: bool = False) -> bytearray:
        if not last and len(payload) != MAX_PAYLOAD_BYTES:
            raise RemoteProtocolError("a part of a message that does not fill its frame")
        if stream.parts is None:
            stream.parts = bytearray()
        stream.parts += payload
        if len(stream.parts) > MAX_MESSAGE_BYTES:
            raise RemoteProtocolError(f"a message of more than {MAX_MESSAGE_BYTES} bytes")
        return stream.parts

    def _on_data(self, frame: Frame) -> None:
        stream = self._peer_step(frame, StreamEvent.RECEIVE)
        if stream is None:
            return
        stream_id, _, channel, payload = frame
        if channel not in self._their_channels:
            raise RemoteProtocolError(f"data on channel {channel}")
        if not stream.opened or stream.parts is not None:
            raise RemoteProtocolError(f"data on stream {stream_id} inside a message")
        cost = HEADER_BYTES + len(payload)
        stream.receive.take(cost)
        stream.unread += cost
        self._events.append(DataReceived(stream_id, channel, payload, cost))

    def _on_credit(self, frame: Frame) -> None:
        stream = self._find(frame)
        if stream is None:
            return
        stream.send.grant(int.from_bytes(frame.payload, "big"))
        self._events.append(CreditReceived(frame.stream_id))

    def _on_end(self, frame: Frame) -> None:
        stream = self._peer_step(frame, StreamEvent.RECEIVE_END)
        if stream is None:
            return
        if stream.parts is not None or not stream.opened:
            raise RemoteProtocolError(f"stream {frame.stream_id} ended inside a message")
        self._events.append(EndReceived(frame.stream_id))
        self._forget_if_closed(frame.stream_id)

    def _on_reset(self, frame: Frame) -> None:
        stream = self._peer_step(frame, StreamEvent.RECEIVE_RESET)
        if stream is None:
            return
        problem = decode_problem(frame.payload)
        if stream.opened:  # otherwise the application does not know of it
            self._events.append(ResetReceived(frame.stream_id, problem))
        self._forget_if_closed(frame.stream_id)

    _HANDLERS: ClassVar[dict[int, Callable[[Connection, Frame], None]]] = {
        Kind.HELLO: _on_hello,
        Kind.OPEN: _on_open,
        Kind.MESSAGE: _on_message,
        Kind.DATA: _on_data,
        Kind.CREDIT: _on_credit,
        Kind.END: _on_end,
        Kind.RESET: _on_reset,
    }
